"""Extras of batches: by index from artefacts, computed from what is seen, refused where they do not fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from topokd_lib.data import (
    ComputedExtra,
    EpochLoader,
    LoaderWithExtras,
    SampleArrays,
    load_data,
    load_prepared_images,
    normalise,
)
from topokd_lib.data.cifar import NORMALISATION
from topokd_lib.data.extras import TGD_NORMALISATION, pixels
from topokd_lib.errors import ArtefactMismatch, DataError
from topokd_lib.prepare import prepare_image_persistence
from topokd_lib.topology import ScanPersistence

PERSISTENCE = ScanPersistence(resolution=8, span=1.0)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", size=8)


@pytest.fixture(scope="module")
def artefact(digits, tmp_path_factory):
    return prepare_image_persistence(
        digits, PERSISTENCE, tmp_path_factory.mktemp("made") / "p", processes=1
    ).path


@pytest.fixture
def copy(artefact, tmp_path):
    """The artefact, to be damaged."""
    for file in artefact.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_arrays_follow_the_images_they_were_made_of(digits, artefact):
    arrays = SampleArrays.open(artefact)
    arrays.require(digits)
    loader = LoaderWithExtras(EpochLoader(digits, batch_size=32, seed=3), {"persistence": arrays})
    assert loader.steps_per_epoch == 44
    for batch in [next(loader.train_batches(5)), *loader.test_batches()]:
        expected = PERSISTENCE(pixels(batch.images, digits.normalisation))
        assert torch.equal(batch.extras["persistence"], expected)
        assert expected.shape[1:] == arrays.shape == (6, 8, 8)


def test_computed_extras_are_those_of_the_views(digits, artefact):
    computed = ComputedExtra(PERSISTENCE, digits.normalisation, digits.image_shape)
    assert computed.shape == (6, 8, 8)
    extras = {"stored": SampleArrays.open(artefact), "computed": computed}
    plain = next(LoaderWithExtras(EpochLoader(digits, batch_size=32), extras).train_batches(0))
    assert torch.equal(plain.extras["stored"], plain.extras["computed"])
    cropping = EpochLoader(digits, batch_size=32, augment="crop")
    cropped = next(LoaderWithExtras(cropping, extras).train_batches(0))
    assert not torch.equal(cropped.extras["stored"], cropped.extras["computed"])
    seen = pixels(cropped.images, digits.normalisation)
    assert torch.equal(cropped.extras["computed"], PERSISTENCE(seen))


def test_pixels_are_recovered_exactly():
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    for name in ("cifar10", "cifar100"):
        assert torch.equal(pixels(normalise(levels, NORMALISATION[name]), NORMALISATION[name]), levels)


def test_an_artefact_is_a_data_set_of_its_own(digits, artefact):
    images = load_data("prepared-images", artefact=artefact)
    assert images.image_shape == (6, 8, 8)
    assert images.classes == digits.classes
    assert torch.equal(images.train_labels, digits.train_labels)
    assert torch.equal(images.test_images[:9], PERSISTENCE(digits.test_images[:9]))
    seen = normalise(images.train_images, images.normalisation)
    torch.testing.assert_close(seen.mean(dim=(0, 2, 3)), torch.zeros(6), atol=1e-3, rtol=0)
    official = load_prepared_images(artefact, statistics="tgd")
    assert official.normalisation == TGD_NORMALISATION
    assert official.fingerprint() != images.fingerprint()


def test_mapped_arrays_are_not_written_to(artefact):
    before = (artefact / "train.npy").read_bytes()
    images = load_prepared_images(artefact).train_images
    images += 1
    assert (artefact / "train.npy").read_bytes() == before


class TestErrors:
    def test_other_images(self, artefact):
        other = load_data("digits", size=32)
        with pytest.raises(
            ArtefactMismatch, match=r"made of the data digits with fingerprint .*; prepare it"
        ):
            SampleArrays.open(artefact).require(other)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match="is not there; `topokd prepare` makes it"):
            SampleArrays.open(tmp_path / "p")
        (tmp_path / "p.partial").mkdir()
        with pytest.raises(DataError, match=r"is not finished \(.*p\.partial is its beginning\)"):
            SampleArrays.open(tmp_path / "p")

    @pytest.mark.parametrize("damage", ["truncated", "format", "no-json", "shapes"])
    def test_damaged(self, copy, damage):
        about = json.loads((copy / "about.json").read_text())
        if damage == "truncated":
            (copy / "train.npy").write_bytes((copy / "train.npy").read_bytes()[:1000])
        elif damage == "format":
            (copy / "about.json").write_text(json.dumps(about | {"format": "other"}))
        elif damage == "no-json":
            (copy / "about.json").write_text("{")
        else:
            np.save(copy / "test.npy", np.zeros((360, 3, 8, 8), np.uint8))
        with pytest.raises(DataError, match=r"is damaged \(.*\); delete it and prepare it again"):
            SampleArrays.open(copy)

    def test_no_labels(self, copy):
        (copy / "train_labels.npy").unlink()
        with pytest.raises(DataError, match="holds no images with labels"):
            load_prepared_images(copy)

    def test_statistics(self, artefact, unchecked):
        with pytest.raises(ValueError, match="'measured' or 'tgd', got 'cifar'"):
            load_prepared_images(artefact, statistics="cifar")

    def test_statistics_of_six_channels_on_three(self, digits, tmp_path):
        rows = ScanPersistence(scans=("rows",), resolution=4)
        made = prepare_image_persistence(digits, rows, tmp_path / "p", processes=1)
        with pytest.raises(ValueError, match="have 3 channels, its normalisation has 6"):
            load_prepared_images(made.path, statistics="tgd")


def test_channels_that_are_black_in_every_image(digits, tmp_path):
    """A network can still be fed with them."""
    pixels = digits.train_images.clone()
    pixels[:, 1] = 0
    made = prepare_image_persistence(
        replace(digits, train_images=pixels), PERSISTENCE, tmp_path / "p", processes=1
    )
    normalisation = load_prepared_images(made.path).normalisation
    assert [k for k in range(6) if (normalisation.mean[k], normalisation.std[k]) == (0.0, 1.0)] == [1, 4]
