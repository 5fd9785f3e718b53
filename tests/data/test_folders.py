"""Folders of images: a cache of what was decoded, damage, subsets, and CINIC-10's layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from topokd_lib.data import folders as module
from topokd_lib.data import load_cinic10, load_data, load_image_folder
from topokd_lib.data.folders import CINIC10
from topokd_lib.errors import DataError

CLASSES = ("airplane", "automobile", "bird")


def write(root, parts, count=4):
    rng = np.random.default_rng(0)
    for part in parts:
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"cifar10-{part}-{number}.png")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def album(tmp_path):
    return write(tmp_path / "album", ("train", "test"))


@pytest.fixture
def cinic(tmp_path):
    return write(tmp_path / "cinic-10", ("train", "valid", "test"))


def decoded(monkeypatch):
    """Counts how many images are decoded from now on."""
    seen = []
    true = module.decode
    monkeypatch.setattr(module, "decode", lambda encoded: seen.append(1) or true(encoded))
    return seen


def test_images_are_decoded_once(album, cache, monkeypatch):
    plain = load_image_folder(album)
    assert not cache.exists()
    first = load_image_folder(album, cache=True)
    seen = decoded(monkeypatch)
    again = load_image_folder(album, cache=True)
    assert seen == []
    assert plain.fingerprint() == first.fingerprint() == again.fingerprint()
    again.train_images[0] = 0  # memory of its own: the file stays as it is
    assert load_image_folder(album, cache=True).fingerprint() == plain.fingerprint()


def test_a_changed_or_damaged_cache_is_made_again(album, cache, monkeypatch):
    plain = load_image_folder(album, cache=True).fingerprint()
    for file in (cache / "decoded").iterdir():
        file.write_bytes(file.read_bytes()[:1000])
    seen = decoded(monkeypatch)
    assert load_image_folder(album, cache=True).fingerprint() == plain
    assert len(seen) == 24
    Image.new("RGB", (32, 32)).save(album / "train" / "bird" / "cifar10-train-0.png")
    assert load_image_folder(album, cache=True).fingerprint() != plain
    assert len(seen) == 36  # the training part again
    assert load_image_folder(album, size=16, cache=True).image_shape == (3, 16, 16)


@pytest.mark.parametrize("kept", [False, True])
def test_damaged_images_are_left_out_by_choice(kept, album):
    file = album / "train" / "bird" / "cifar10-train-1.png"
    file.write_bytes(file.read_bytes()[:50])
    for _ in range(1 + kept):
        with pytest.raises(DataError, match=r"cifar10-train-1\.png cannot be read as an image \("):
            load_image_folder(album, cache=kept)
        data = load_image_folder(album, damaged="skip", cache=kept)
        assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 3
        assert len(data.skipped) == 1
        assert data.skipped[0].startswith(f"{file} cannot be read as an image (")
    assert torch.equal(data.train_images[-1], load_image_folder(album, damaged="skip").train_images[-1])


def test_subsets_have_every_class(album):
    data, whole = load_image_folder(album, train_per_class=2), load_image_folder(album)
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(data.train_images, whole.train_images[[0, 1, 4, 5, 8, 9]])
    assert torch.equal(data.test_images, whole.test_images)
    assert data.fingerprint() != whole.fingerprint()
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=rf"train_per_class must lie in 1 … 4, .* got {wrong}"):
            load_image_folder(album, train_per_class=wrong)


def test_cinic10_in_its_published_layout(cinic, monkeypatch):
    data = load_cinic10(cinic)
    assert (data.name, data.classes, data.normalisation) == ("cinic10", CLASSES, CINIC10)
    assert (len(data.train_labels), len(data.test_labels)) == (12, 12)
    with Image.open(cinic / "test" / "bird" / "cifar10-test-3.png") as image:
        expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert torch.equal(data.test_images[-1], expected)
    both = load_cinic10(cinic, train="train+valid")
    assert torch.equal(both.train_images[:12], data.train_images)
    valid = load_image_folder_part(cinic, "valid")
    assert torch.equal(both.train_images[12:], valid)
    assert both.train_labels.tolist() == data.train_labels.tolist() * 2
    monkeypatch.setenv("TOPOKD_DATA", str(cinic.parent))
    assert load_data("cinic10", cache=True).fingerprint() == data.fingerprint()


def load_image_folder_part(root, part):
    images, _ = module.scan_folders(root, part)
    return module._decoded(images, 32)[0]


def test_what_is_wrong_with_cinic10(cinic, tmp_path, unchecked):
    with pytest.raises(
        DataError, match=r"no CINIC-10 in .*; fetch CINIC-10\.tar\.gz \(655 MB\) from https://datash"
    ):
        load_cinic10(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"on 'train' or on 'train\+valid', got train='all'"):
        load_cinic10(cinic, train="all")
    (cinic / "valid" / "bird").rename(cinic / "valid" / "birds")
    with pytest.raises(DataError, match="must have the same classes; only one has bird, birds"):
        load_cinic10(cinic, train="train+valid")


def test_words_that_are_not_known(album, unchecked):
    with pytest.raises(ValueError, match="an 'error' or one can 'skip' them, got damaged='drop'"):
        load_image_folder(album, damaged="drop")
    with pytest.raises(ValueError, match="at least one pixel, got size=0"):
        load_image_folder(album, size=0)
