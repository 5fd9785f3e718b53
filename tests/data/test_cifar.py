"""CIFAR in its published format, in small files for torchvision's own reader; nothing is downloaded."""

import hashlib
import pickle
import tarfile
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from tests.conftest import ROOT
from topokd_lib.cli import main
from topokd_lib.data import load_cifar10, load_cifar100, load_data, load_image_folder
from topokd_lib.data.cifar import NORMALISATION, data_root
from topokd_lib.data.image_data import measure_normalisation
from topokd_lib.errors import DataError, RecipeError
from topokd_lib.recipes import DataSpec, Recipe, assemble

READERS = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
LOADERS = {"cifar10": load_cifar10, "cifar100": load_cifar100}
IMAGES = 20  # in each file


@pytest.fixture(params=READERS)
def published(request, tmp_path, monkeypatch):
    """A small data set in the published format, whose checksums stand in the reader's tables."""
    name = request.param
    reader = READERS[name]
    folder = tmp_path / "data" / reader.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    classes = 10 if name == "cifar10" else 100
    for file, _ in reader.train_list + reader.test_list:
        pixels = rng.integers(0, 256, (IMAGES, 3072), dtype=np.uint8)
        labels = rng.integers(0, classes, IMAGES).tolist()
        key = "labels" if name == "cifar10" else "fine_labels"
        (folder / file).write_bytes(
            pickle.dumps({"data": pixels, key: labels, "coarse_labels": [0] * IMAGES})
        )
    names = [f"class {number}" for number in range(classes)]
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps({reader.meta["key"]: names}))
    archive = folder.parent / reader.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, reader.base_folder)

    def checksum(path):
        return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()

    for part in ("train_list", "test_list"):
        entries = [[file, checksum(folder / file)] for file, _ in getattr(reader, part)]
        monkeypatch.setattr(reader, part, entries)
    meta = reader.meta["filename"]
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": checksum(folder / meta)})
    monkeypatch.setattr(reader, "tgz_md5", checksum(archive))
    monkeypatch.delenv("TOPOKD_DATA", raising=False)
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    return name, folder, archive


def no_network(*args, **kwargs):
    raise urllib.error.URLError("Temporary failure in name resolution")


def complaint(name, *args, **options):
    with pytest.raises(DataError) as caught:
        LOADERS[name](*args, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# -------------------------------------------------------------------------------------- the published files


def test_every_pixel_and_label_arrives_in_order(published):
    name, folder, _ = published
    data = LOADERS[name](folder.parent)
    reader = READERS[name]
    for files, images, labels in (
        (reader.train_list, data.train_images, data.train_labels),
        (reader.test_list, data.test_images, data.test_labels),
    ):
        entries = [pickle.loads((folder / file).read_bytes()) for file, _ in files]
        pixels = np.concatenate([entry["data"] for entry in entries])
        assert torch.equal(images.flatten(1), torch.from_numpy(pixels))
        key = "labels" if name == "cifar10" else "fine_labels"
        assert labels.tolist() == [label for entry in entries for label in entry[key]]
    assert data.image_shape == (3, 32, 32)
    assert (data.name, data.num_classes) == (name, {"cifar10": 10, "cifar100": 100}[name])
    assert data.classes[-1] == f"class {data.num_classes - 1}"
    assert data.normalisation == NORMALISATION[name]
    assert data.train_images.is_contiguous()


def test_normalisation_of_cifar100_is_that_of_the_benchmark():
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    assert (NORMALISATION["cifar100"].mean, NORMALISATION["cifar100"].std) == (mean, std)


def test_root_is_given_or_in_the_environment_or_data(published, monkeypatch, tmp_path):
    name, folder, _ = published
    expected = LOADERS[name](folder.parent).fingerprint()
    monkeypatch.chdir(tmp_path)
    assert load_data(name).fingerprint() == expected  # ./data
    folder.parent.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("TOPOKD_DATA", str(tmp_path / "elsewhere"))
    assert load_data(name).fingerprint() == expected
    assert data_root("mine").name == "mine"
    assert data_root("~").is_absolute()


def test_data_that_are_not_there(published, monkeypatch, tmp_path):
    name, folder, _ = published
    elsewhere = tmp_path / "nowhere"
    message = complaint(name, elsewhere)
    assert message.startswith(
        f"there is no {name} in {elsewhere}; type once: topokd data download {name} – or, "
    )
    assert message.endswith(f"set TOPOKD_DATA to the folder that holds {folder.name}")
    assert not elsewhere.exists()


def test_archive_that_is_there_is_unpacked_without_a_network(published, tmp_path):
    name, folder, archive = published
    expected = LOADERS[name](folder.parent).fingerprint()
    other = tmp_path / "other"
    other.mkdir()
    archive.rename(other / archive.name)
    assert "type once" in complaint(name, other)
    assert LOADERS[name](other, download=True).fingerprint() == expected
    assert LOADERS[name](other).fingerprint() == expected


def test_machine_that_is_offline(published, tmp_path):
    name, _, archive = published
    message = complaint(name, tmp_path / "new", download=True)
    assert message == (
        f"{READERS[name].url} could not be downloaded (Temporary failure in name resolution). If this "
        f"machine is offline, fetch the file elsewhere, copy it to {tmp_path / 'new' / archive.name}, and "
        f"type once: topokd data download {name} --root {tmp_path / 'new'}"
    )


def test_archive_is_fetched_and_unpacked(published, monkeypatch, tmp_path):
    name, folder, archive = published
    asked = []

    def serve(url, path, *, md5):
        asked.append((url, md5))
        path.parent.mkdir(parents=True)
        path.write_bytes(archive.read_bytes())

    monkeypatch.setattr("topokd_lib.data.cifar.fetch", serve)
    data = LOADERS[name](tmp_path / "new", download=True)
    assert asked == [(READERS[name].url, READERS[name].tgz_md5)]
    assert data.fingerprint() == LOADERS[name](folder.parent).fingerprint()
    LOADERS[name](tmp_path / "new", download=True)
    assert len(asked) == 1  # what is there is not fetched again


def test_archive_that_is_damaged_is_not_overwritten(published, tmp_path):
    name, _, archive = published
    damaged = tmp_path / "new" / archive.name
    damaged.parent.mkdir()
    damaged.write_bytes(archive.read_bytes()[:1000])
    message = complaint(name, tmp_path / "new", download=True)
    assert (
        message
        == f"{damaged} is damaged or not complete; delete it and type once: topokd data download {name}"
    )


def test_subset_of_the_published_images(published):
    name, folder, _ = published
    with pytest.raises(ValueError, match="train_per_class must lie in 1 … "):
        LOADERS[name](folder.parent, train_per_class=1000)
    data = LOADERS[name](folder.parent, train_per_class=1)
    labels = LOADERS[name](folder.parent).train_labels
    assert sorted(data.train_labels.tolist()) == labels.unique().tolist()
    assert len(data.test_labels) == IMAGES


@pytest.mark.parametrize("what", ["train", "test", "meta"])
def test_file_that_is_damaged_or_missing_is_named(what, published):
    name, folder, archive = published
    reader = READERS[name]
    file = {
        "train": reader.train_list[-1][0],
        "test": reader.test_list[0][0],
        "meta": reader.meta["filename"],
    }[what]
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[:-1])
    message = complaint(name, folder.parent)
    assert message.startswith(f"{folder / file} is not the published file: it is damaged; type once: ")
    (folder / file).unlink()
    assert complaint(name, folder.parent).startswith(f"{folder / file} is missing; type once: ")
    if what != "meta":  # torchvision looks at the names of classes only after the download
        LOADERS[name](folder.parent, download=True)  # the advice works: the archive is there
        assert (folder / file).read_bytes() == whole
    archive.write_bytes(archive.read_bytes()[:500])
    (folder / file).write_bytes(b"")
    assert complaint(name, folder.parent).startswith(f"{archive} is damaged or not complete; delete it and ")


def test_folder_one_too_deep(published):
    name, folder, _ = published
    assert complaint(name, folder) == (
        f"{folder} is the folder of {name} itself; give the one above it, which holds {folder.name}"
    )
    renamed = folder.rename(folder.with_name("renamed"))
    assert complaint(name, renamed).startswith(f"{renamed} is the folder of {name} itself; ")


def test_place_that_cannot_be_written_or_read(published, monkeypatch, tmp_path):
    name, folder, _ = published
    (tmp_path / "file").write_text("mine")
    message = complaint(name, tmp_path / "file" / "below", download=True)
    assert message.startswith(f"{READERS[name].url} could not be downloaded (")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("torchvision.datasets.cifar.pickle.load", refuse)
    assert complaint(name, folder.parent) == (
        f"{name} in {folder.parent} cannot be read ([Errno 13] Permission denied)"
    )


def test_command_says_what_to_type_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOPOKD_DATA", raising=False)
    assert main(["train", "--config", "cifar100/none"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"topokd: there is no cifar100 in {tmp_path / 'data'}; type once: topokd ")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------ folders of images


@pytest.fixture
def album(tmp_path):
    """Three training and two test images in each of two classes, grey levels 0, 10, 20, …; PNG and JPEG."""
    root = tmp_path / "album"
    level = 0
    for part, count in (("train", 3), ("test", 2)):
        for name in ("frog", "cat"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                suffix = ("png", "jpg", "JPEG")[number]
                Image.new("RGB", (32, 32), (level,) * 3).save(root / part / name / f"{number}.{suffix}")
                level += 10
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "cat" / "._0.jpg").write_text("what some systems leave beside an image")
    return root


def test_album_is_read_in_alphabetical_order(album):
    data = load_image_folder(album)
    assert (data.name, data.classes) == ("album", ("cat", "frog"))
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [30, 40, 50, 0, 10, 20]
    assert data.test_images[:, 2, 31, 31].tolist() == [80, 90, 60, 70]
    assert data.normalisation == measure_normalisation(data.train_images)
    assert load_data("image-folder", root=str(album)).fingerprint() == data.fingerprint()


def test_other_sizes_and_grey_images_are_brought_to_one_form(album):
    wide = np.zeros((40, 80), dtype=np.uint8)
    wide[:, 16:64] = 200  # the middle square, and what smoothing sees around it
    Image.fromarray(wide).save(album / "test" / "cat" / "0.png")
    data = load_image_folder(album, size=16)
    assert data.image_shape == (3, 16, 16)
    assert data.test_images[0].unique().tolist() == [200]


def test_album_that_lacks_a_part_or_a_class(album, tmp_path):
    with pytest.raises(DataError) as caught:
        load_image_folder(tmp_path / "nowhere")
    assert str(caught.value) == (
        f"{tmp_path / 'nowhere'} has no folder 'train'; images are expected as "
        f"{tmp_path / 'nowhere' / 'train' / '<class>' / '<image>.jpg'}"
    )
    (album / "test" / "dog").mkdir()
    with pytest.raises(DataError, match=r"test/dog holds no images; \.jpg, \.jpeg and \.png files are exp"):
        load_image_folder(album)
    Image.new("RGB", (32, 32)).save(album / "test" / "dog" / "0.png")
    with pytest.raises(DataError, match=r"must have the same classes; only one has dog$"):
        load_image_folder(album)
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"empty/train holds no folders; sort its images into one per"):
        load_image_folder(empty)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "png"])
def test_image_that_is_damaged_is_named(damage, album):
    file = album / "train" / "frog" / ("0.png" if damage == "png" else "1.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    half = whole[: len(whole) // 2]
    file.write_bytes({"truncated": half, "text": b"hello", "empty": b"", "png": half}[damage])
    with pytest.raises(DataError) as caught:
        load_image_folder(album)
    message = str(caught.value)
    assert message.startswith(f"{file} cannot be read as an image (")
    assert message.endswith("or leave such images out, listed in the run's record: data.options.damaged=skip")
    assert message.count(str(file)) == 1


def test_options_are_checked(album):
    with pytest.raises(ValueError, match="at least one pixel, got size=0"):
        load_image_folder(album, size=0)
    with pytest.raises(TypeError, match=r"'image-folder' needs the option 'root'; give it"):
        load_data("image-folder")
    with pytest.raises(RecipeError, match=r"needs the option 'root'"):
        assemble(Recipe(DataSpec("image-folder"), "resnet8", {}))


@pytest.mark.slow
def test_jpeg_copy_of_cifar10(tmp_path):
    """400 of its 60,000 images: the first 30 training and 10 test images of every class."""
    archive = ROOT.parent / "shared" / "data" / "cifar10-jpeg.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive.name}, a JPEG copy of CIFAR-10, is not part of the project")
    with tarfile.open(archive) as packed:
        for member in packed:
            part, _, rest = member.name.partition("/")
            number = rest.partition("/")[2].removesuffix(".jpg")
            if number.isdigit() and int(number) < {"train": 30, "test": 10}[part]:
                packed.extract(member, tmp_path / "cifar10-jpeg", filter="data")
    data = load_image_folder(tmp_path / "cifar10-jpeg")
    assert data.classes == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert data.train_images.shape == (300, 3, 32, 32)
    assert data.test_labels.bincount().tolist() == [10] * 10
    near = torch.tensor(NORMALISATION["cifar10"].mean + NORMALISATION["cifar10"].std)
    found = torch.tensor(data.normalisation.mean + data.normalisation.std)
    assert (found - near).abs().max() < 0.03
