"""Overlays against official values, and who is paired with whom."""

import numpy as np
import pytest
import torch

from topokd_lib.data import EpochLoader, ImageData, OverlayLoader, lay_over, normalise, spread
from topokd_lib.data.augment import Views
from topokd_lib.outputs import Normalisation

COUNT, SIZE = 48, 16


@pytest.fixture(scope="module")
def data():
    """The first pixel of every row says which image it is; crops of four pixels leave it in the padding."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (COUNT + 8, 3, SIZE, SIZE), dtype=np.uint8))
    labels = torch.arange(COUNT + 8) % 4
    return ImageData("made", images[:COUNT], labels[:COUNT], images[COUNT:], labels[COUNT:], tuple("abcd"),
                     Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))  # fmt: skip


@pytest.fixture(scope="module")
def maps(data):
    """The map of an image is its first channel, so that what belongs together can be recognised."""
    return data.train_images[:, 0].half()


def loader(data, augment="crop-flip", **options):
    return EpochLoader(data, batch_size=8, augment=augment, seed=3, **options)


def epoch(loader, number=0):
    """Images, clean images, maps and numbers of one epoch."""
    batches = list(loader.train_batches(number))
    join = {name: torch.cat([batch.extras[name] for batch in batches]) for name in batches[0].extras}
    return torch.cat([b.images for b in batches]), join, torch.cat([b.indices for b in batches])


@pytest.mark.parametrize("case", ["overlay_p1", "overlay_p01"])
def test_the_official_overlay(golden, case):
    values = golden("igkd/igkd_cases")
    arrays = {k.removeprefix(f"{case}/"): v for k, v in values.items() if k.startswith(f"{case}/")}
    images = torch.tensor(arrays["image_u8"]).permute(0, 3, 1, 2) / 255
    exponents = torch.tensor(arrays["exponent"]).float()
    mixed = lay_over(images, torch.tensor(arrays["ig_raw"]), exponents=exponents)
    overlaid = torch.tensor(arrays["overlaid"])
    found = torch.where(overlaid[:, None, None, None], mixed, images)
    np.testing.assert_allclose(found, arrays["out"], atol=1e-6)
    assert 0 < overlaid.sum() <= len(overlaid)


def test_the_official_normalised_map(golden):
    values = golden("igkd/igkd_cases")
    found = spread(torch.tensor(values["official_map"][:1]))[0]
    np.testing.assert_allclose(found, values["minmax_official"], atol=1e-6)


def test_a_constant_map_is_black():
    images = torch.rand(1, 3, 4, 4)
    mixed = lay_over(images, torch.full((1, 4, 4), 2.0), exponents=torch.ones(1), strength=0.25)
    torch.testing.assert_close(mixed, 0.75 * images)


def test_own_map_moves_with_the_image_and_the_teacher_sees_the_view(data, maps):
    plain, _, order = epoch(loader(data))
    images, extras, indices = epoch(OverlayLoader(loader(data), maps, probability=0.0))
    assert torch.equal(indices, order)
    assert torch.equal(images, plain)
    assert torch.equal(normalise(extras["clean"].to(torch.uint8), data.normalisation), plain)
    assert torch.equal(extras["attribution"], extras["clean"][:, 0])


def test_every_image_is_mixed_with_its_own_map(data, maps):
    images, extras, _ = epoch(OverlayLoader(loader(data), maps, probability=1.0, exponents=(1.5, 1.5)))
    clean = extras["clean"] / 255
    mixed = lay_over(clean, extras["attribution"], exponents=torch.full((COUNT,), 1.5))
    expected = normalise((mixed * 255).round().to(torch.uint8), data.normalisation)
    torch.testing.assert_close(images, expected, atol=0.011, rtol=0)  # half a grey level


def test_a_tenth_of_the_images_others_in_every_epoch(data, maps):
    served = OverlayLoader(loader(data, "none"), maps, probability=0.3)
    clean = normalise(data.train_images, data.normalisation)
    seen = []
    for number in range(20):
        images, _, indices = epoch(served, number)
        changed = (images - clean[indices]).abs().amax(dim=(1, 2, 3)) > 1e-5
        seen.append(set(indices[changed].tolist()))
    assert len(set(map(frozenset, seen))) == 20
    assert 0.2 < sum(map(len, seen)) / (20 * COUNT) < 0.4


def test_an_epoch_repeats_itself_on_any_number_of_devices(data, maps):
    whole = OverlayLoader(loader(data), maps, probability=0.5)
    images, extras, indices = epoch(whole, 2)
    again, _, _ = epoch(whole, 2)
    assert torch.equal(images, again)
    for rank in (0, 1):
        part, seen, numbers = epoch(
            OverlayLoader(loader(data, rank=rank, world_size=2), maps, probability=0.5), 2
        )
        place = (indices[None] == numbers[:, None]).int().argmax(dim=1)
        assert torch.equal(part, images[place])
        assert torch.equal(seen["clean"], extras["clean"][place])


def which(data, extras):
    """Number of the training image of which each map is the first channel."""
    known = data.train_images[:, 0].flatten(1).float()
    return torch.cdist(extras["attribution"].flatten(1), known).argmin(dim=1)


def test_maps_of_others_stay_where_they_are_and_are_the_same_in_every_epoch(data, maps):
    served = OverlayLoader(loader(data), maps, aligned_maps=False)
    pairs = []
    for number in (0, 1):
        _, extras, indices = epoch(served, number)
        owners = which(data, extras)
        assert torch.equal(extras["attribution"], data.train_images[owners, 0].float())  # not cropped
        pairs.append(dict(zip(indices.tolist(), owners.tolist(), strict=True)))
    common = pairs[0].keys() & pairs[1].keys()
    assert all(pairs[0][i] == pairs[1][i] for i in common)
    assert sorted(pairs[0].values()) == sorted(set(pairs[0].values()))
    assert sum(i != owner for i, owner in pairs[0].items()) > 0.8 * COUNT


def test_a_teacher_that_sees_others_sees_one_view_in_every_epoch(data, maps):
    served = OverlayLoader(loader(data), maps, aligned_teacher=False)
    answers = []
    for number in (0, 1):
        _, extras, indices = epoch(served, number)
        answers.append(dict(zip(indices.tolist(), extras["clean"], strict=True)))
        assert torch.equal(extras["attribution"], own_maps(data, served, extras, indices))
    assert all(torch.equal(answers[0][i], answers[1][i]) for i in answers[0])
    # What the teacher sees is some view of some image, and for few images one of their own.
    views = Views.numbered(torch.arange(50), augment="crop-flip", padding=2)
    own = [
        any(
            torch.equal(views.apply(data.train_images[i].repeat(50, 1, 1, 1), 2)[v].float(), seen)
            for v in range(50)
        )
        for i, seen in answers[0].items()
    ]
    assert sum(own) < 0.2 * COUNT


def own_maps(data, served, extras, indices):
    views = Views.numbered(extras["view"], augment="crop-flip", padding=2)
    return views.apply(data.train_images[indices, :1], 2)[:, 0].float()


def test_test_images_are_left_alone(data, maps):
    served = OverlayLoader(loader(data), maps, probability=1.0, aligned_teacher=False)
    (batch,) = served.test_batches()
    assert torch.equal(batch.images, normalise(data.test_images, data.normalisation))
    assert torch.equal(batch.extras["clean"], data.test_images.float())


def test_without_maps_only_the_teacher_is_served(data):
    served = OverlayLoader(loader(data), aligned_teacher=False)
    plain, _, _ = epoch(loader(data))
    images, extras, _ = epoch(served)
    assert torch.equal(images, plain)
    assert set(extras) == {"view", "clean"}
    assert served.extra_shapes == {"clean": (3, SIZE, SIZE)}
    assert (served.steps_per_epoch, served.batch_size, served.data) == (6, 8, data)


class TestErrors:
    @pytest.mark.parametrize("options", [{"probability": 1.1}, {"strength": -0.1}])
    def test_shares(self, data, options):
        with pytest.raises(ValueError, match="probability and strength of an overlay lie between 0 and 1"):
            OverlayLoader(loader(data), **options)

    @pytest.mark.parametrize("exponents", [(2.0, 1.0), (0.0, 1.0)])
    def test_exponents(self, data, exponents):
        with pytest.raises(ValueError, match="positive, the smaller one first"):
            OverlayLoader(loader(data), exponents=exponents)

    def test_maps_of_other_images(self, data, maps):
        with pytest.raises(
            ValueError, match=r"images are \(48, 3, 16, 16\) on cpu, maps \(47, 16, 16\) on cpu"
        ):
            OverlayLoader(loader(data), maps[1:])

    @pytest.mark.parametrize("value", [-1.0, torch.nan])
    def test_maps_with_a_sign(self, data, maps, value):
        wrong = maps.clone()
        wrong[5, 3, 3] = value
        with pytest.raises(ValueError, match="must not be negative, the smallest value is"):
            OverlayLoader(loader(data), wrong)

    def test_epochs_are_counted_from_0(self, data):
        with pytest.raises(ValueError, match="got epoch=-1"):
            next(OverlayLoader(loader(data)).train_batches(-1))
