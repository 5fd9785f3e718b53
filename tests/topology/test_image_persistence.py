"""Persistence images of pictures: TGD's own, their artefacts, and those of the plane."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topokd_lib.topology import (
    CubicalPersistence,
    ImagePersistence,
    PersistenceDiagrams,
    ScanPersistence,
    cubical_diagrams,
    image_persistence,
    signal_diagrams,
    tgd_official,
)

ROWS = ScanPersistence(scans=("rows",))
PICTURES = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 2)] * 2, *[st.integers(1, 9)] * 2)).map(
    torch.from_numpy
)


def levels(images):
    return images.numpy().astype(int)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_images_are_those_of_the_official_code(golden, precision):
    """180,000 pixels of each scan of 12 photographs; one level of difference, as cutting off has it."""
    values = golden("tgd/pi_golden")
    pictures = torch.from_numpy(values["images"]).permute(0, 3, 1, 2)
    found = ScanPersistence(precision=precision)(pictures)
    for scan, ours in zip(("row", "col"), found.split(3, dim=1), strict=True):
        difference = np.abs(levels(ours.permute(0, 2, 3, 1)) - values[f"pi_u8_{scan}"])
        assert difference.max() <= 1
        assert (difference > 0).sum() <= 3


def test_official_form_keeps_the_artefacts():
    """A picture so bright that no bar lies in the window: tails of 1e-130, at full brightness."""
    bright = torch.full((1, 1, 4, 4), 250, dtype=torch.uint8)
    bright[0, 0, 1, 1], bright[0, 0, 2, 2] = 130, 140
    assert not ScanPersistence()(bright).any()
    for official in (ScanPersistence.official(), ScanPersistence.official(as_written=True)):
        images = official(bright)
        assert images.shape == (1, 2, 50, 50)
        assert (images.amax(dim=(2, 3)) == 255).all()
        rows = signal_diagrams(bright.flatten(1).float() / 255)
        assert torch.equal(images[0, :1], tgd_official(rows))


@given(PICTURES)
@settings(max_examples=60)
def test_images_are_drawn_as_for_any_other_diagram(pictures):
    """The table of grey levels against the formula for real numbers, which is checked elsewhere."""
    signals = pictures.flatten(0, 1).flatten(1).double()
    expected = tgd_official(_scaled(signal_diagrams(signals)), faintest=1e-6)
    for precision in ("float32", "float64"):
        found = replace(ROWS, precision=precision)(pictures).flatten(0, 1)
        assert np.abs(levels(found) - levels(expected)).max(initial=0) <= 1


def _scaled(diagrams):
    return PersistenceDiagrams(diagrams.pairs / 255, diagrams.mask, diagrams.dimension)


def test_order_of_images_and_meaning_of_scans():
    pictures = torch.randint(0, 256, (2, 3, 8, 6), dtype=torch.uint8)
    both = ScanPersistence()(pictures)
    assert torch.equal(both[:, :3], ROWS(pictures))
    assert torch.equal(both[:, 3:], ROWS(pictures.mT))
    assert not torch.equal(both[:, :3], both[:, 3:])
    assert torch.equal(both[1, 4], ROWS(pictures[1:, 1:2].mT)[0, 0])
    # The official notebook, to the letter, reads by rows twice.
    written = ScanPersistence.official(as_written=True)(pictures)
    assert torch.equal(written[:, :3], written[:, 3:])
    assert torch.equal(written[:, :3], ScanPersistence.official()(pictures)[:, :3])


def test_rows_do_not_see_half_a_turn_but_a_mirror():
    pictures = torch.randint(0, 256, (4, 1, 9, 9), dtype=torch.uint8)
    assert torch.equal(ROWS(pictures), ROWS(pictures.rot90(2, dims=(2, 3))))
    assert not torch.equal(ROWS(pictures), ROWS(pictures.flip(3)))


def test_one_bar_by_hand():
    """A pixel of level 51 behind a wall of 76: birth 51/255 = 0.2, persistence 25/255."""
    picture = torch.tensor([[[[0, 76, 51, 255]]]], dtype=torch.uint8)
    image = ROWS(picture)[0, 0]
    step = 0.3 / 49
    row, column = divmod(image.argmax().item(), 50)
    assert column == int(0.2 / step)
    assert 49 - row == int(25 / 255 / step)
    assert image.max() == 255


@pytest.mark.parametrize("level", [5, 6])
def test_bars_of_five_grey_levels_are_left_out(level):
    picture = torch.tensor([[[[0, 20 + level, 20, 255]]]], dtype=torch.uint8)
    assert ROWS(picture).any() == (level == 6)


@pytest.mark.parametrize("persistence", [ROWS, CubicalPersistence(construction="vertices")])
def test_what_has_no_bar_is_black(persistence):
    ramp = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4) * 16
    assert not persistence(torch.cat([ramp, torch.full_like(ramp, 7)])).any()


@pytest.mark.parametrize("construction", ["vertices", "top-cells"])
@pytest.mark.parametrize("superlevel", [False, True])
def test_images_of_the_plane_are_made_of_its_bars(construction, superlevel):
    pictures = torch.randint(0, 90, (2, 2, 12, 11), dtype=torch.uint8)
    found = CubicalPersistence(construction=construction, superlevel=superlevel, span=1.0)(pictures)
    assert found.shape == (2, 4, 50, 50)
    grey = (255 - pictures if superlevel else pictures).flatten(0, 1).float()
    for index, bars in enumerate(cubical_diagrams(grey, construction=construction)):
        births, deaths = bars.pairs.unbind(dim=2)
        for channel in range(4):
            kept = bars.mask[channel] & (deaths[channel] - births[channel] >= 6)
            image = found[channel // 2, 2 * index + channel % 2].flip(0)
            seen = image.nonzero() / 49  # persistence, birth
            assert kept.any() == image.any()
            strongest = (deaths - births)[channel][kept].amax() / 255
            assert (seen[:, 0] - strongest).abs().min() < 0.03


def test_a_batch_is_cut_into_parts(monkeypatch):
    pictures = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    whole = ScanPersistence()(pictures)
    monkeypatch.setattr(image_persistence, "_PICTURES", 4)
    monkeypatch.setattr(image_persistence, "_DRAWN", 3)
    assert torch.equal(ScanPersistence()(pictures), whole)


@pytest.mark.parametrize(
    "persistence",
    [
        ROWS,
        ScanPersistence.official(),
        CubicalPersistence(construction="top-cells", dimensions=(1,), superlevel=True, span=1.0),
    ],
)
def test_settings_survive_json(persistence):
    text = json.dumps(persistence.to_dict())
    assert ImagePersistence.from_dict(json.loads(text)) == persistence
    assert persistence.per_channel == persistence(torch.zeros(1, 1, 4, 4, dtype=torch.uint8)).shape[1]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"resolution": 1}, "at least 2 rows, got resolution=1"),
            ({"span": 0.0}, "must be positive and finite, got span=0.0 and bandwidth=0.01"),
            ({"shortest": 1.0}, "shortest is a persistence from 0 to below 1"),
            ({"faintest": -1.0}, "faintest is not negative, got shortest=0.02 and faintest=-1.0"),
            ({"faintest": 0.0}, "lost in float32, got faintest=0.0; take precision='float64'"),
            ({"precision": "float16"}, "'float32' or 'float64', got 'float16'"),
            ({"scans": ()}, r"by 'rows', by 'columns' or both, got \(\)"),
            ({"scans": ("diagonal",)}, "got .'diagonal',."),
        ],
    )
    def test_settings(self, unchecked, options, message):
        with pytest.raises(ValueError, match=message):
            ScanPersistence(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"construction": "pixels"}, "'vertices' or 'top-cells', got 'pixels'"),
            ({"construction": "vertices", "dimensions": (2,)}, r"dimension 0 and 1, got dimensions=\(2,\)"),
        ],
    )
    def test_settings_of_the_plane(self, unchecked, options, message):
        with pytest.raises(ValueError, match=message):
            CubicalPersistence(**options)

    def test_pictures(self, unchecked):
        with pytest.raises(TypeError, match=r"0 … 255 \(uint8\), got torch.float32; scale"):
            ROWS(torch.zeros(1, 3, 8, 8))
        with pytest.raises(ValueError, match=r"\(batch, channels, height, width\).*got \(3, 8, 8\)"):
            ROWS(torch.zeros(3, 8, 8, dtype=torch.uint8))

    def test_settings_that_cannot_be_read(self):
        with pytest.raises(ValueError, match=r"kind 'ScanPersistance'\. Did you mean 'ScanPersistence'\?"):
            ImagePersistence.from_dict({"kind": "ScanPersistance"})
        with pytest.raises(ValueError, match=r"not the settings of ScanPersistence: .*'pixels'"):
            ImagePersistence.from_dict({"kind": "ScanPersistence", "pixels": 50})
