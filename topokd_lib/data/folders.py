"""Data sets kept as one folder of image files per class."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from topokd_lib.data.cifar import data_root
from topokd_lib.data.encoded import Damage, EncodedImages, ImageFiles, decode, reason, way_out
from topokd_lib.data.image_data import ImageData, measure_normalisation
from topokd_lib.data.subset import first_of_each_class
from topokd_lib.errors import DataError
from topokd_lib.files import cache_root, write_atomically
from topokd_lib.outputs import Normalisation

__all__ = [
    "CINIC10",
    "load_cinic10",
    "load_image_folder",
    "require_damaged_known",
    "require_same_classes",
    "scan_folders",
]

SUFFIXES = (".jpeg", ".jpg", ".png")

CINIC10 = Normalisation((0.47889522, 0.47227842, 0.43047404), (0.24205776, 0.23828046, 0.25874835))
"""Constants of CINIC-10's authors (BayesWatch/cinic-10, README)."""

WhenDamaged = Literal["error", "skip"]


def load_image_folder(
    root: Path | str,
    *,
    size: int = 32,
    train_per_class: int | None = None,
    damaged: WhenDamaged = "error",
    cache: bool = False,
) -> ImageData:
    """A data set kept as files ``train/<class>/<image>`` and ``test/<class>/<image>``, in JPEG or PNG.

    Classes and images are in alphabetical order. The normalisation is measured on the training images, and
    the data set is called as its folder. Compressed copies of CIFAR are another data set than the original:
    networks lose several points of accuracy on images of a quality that they were not trained on.

    Args:
        root: The folder that holds ``train`` and ``test``.
        size: Height and width; other images are scaled, and cropped to the middle square.
        train_per_class: Use only the first so many training images of each class.
        damaged: ``error`` stops at the first image that cannot be read; ``skip`` leaves those out, listed in
            the run's record.
        cache: Keep the decoded images on disk (:func:`~topokd_lib.files.cache_root`); they are decoded again
            when a file's size or time changes.

    Raises:
        DataError: If a folder is missing or empty, the classes of both parts differ, or an image cannot be
            read; the message names it.
        ValueError: If ``size`` or ``train_per_class`` is out of range.
    """
    root = Path(root).expanduser()
    train, classes = scan_folders(root, "train")
    test = _scan_like(root, "test", "train", classes)
    chosen = train.take(first_of_each_class(train.labels, train_per_class))
    return _in_memory(root.resolve().name, chosen, test, classes, None, size, damaged, cache=cache)


def load_cinic10(
    root: Path | str | None = None,
    *,
    train: Literal["train", "train+valid"] = "train",
    train_per_class: int | None = None,
    damaged: WhenDamaged = "error",
    cache: bool = False,
) -> ImageData:
    """CINIC-10: the classes of CIFAR-10 with photographs of ImageNet added, 90,000 in each of three parts.

    It is read in its published form, PNG files of 32 × 32 pixels in ``train``, ``valid`` and ``test``.

    Args:
        root: The folder that holds them; by default ``cinic-10`` in
            :func:`~topokd_lib.data.cifar.data_root`.
        train: Whether to train on the validation images too, as some papers do.
        train_per_class: See :func:`load_image_folder`.
        damaged: See :func:`load_image_folder`.
        cache: See :func:`load_image_folder`; 270,000 files take a minute to decode.

    Raises:
        DataError: If a folder is missing or empty, the classes of the parts differ, or an image cannot be
            read; the message names it.

    Source:
        L. N. Darlow, E. J. Crowley, A. Antoniou, A. Storkey. CINIC-10 is not ImageNet or CIFAR-10. 2018.
        [darlow2018cinic]
    """
    if train not in ("train", "train+valid"):
        raise ValueError(f"CINIC-10 is trained on 'train' or on 'train+valid', got train={train!r}")
    root = data_root() / "cinic-10" if root is None else Path(root).expanduser()
    if not root.is_dir():
        raise DataError(
            f"there is no CINIC-10 in {root.absolute()}; fetch CINIC-10.tar.gz (655 MB) from "
            f"https://datashare.ed.ac.uk/handle/10283/3192 and unpack it there"
        )
    first, classes = scan_folders(root, "train")
    parts = [first, *([_scan_like(root, "valid", "train", classes)] if train == "train+valid" else [])]
    names = [np.char.add(f"{part.root.name}/".encode(), part.names) for part in parts]
    both = ImageFiles(
        np.concatenate(names),
        np.concatenate([part.sizes for part in parts]),
        torch.cat([part.labels for part in parts]),
        root,
    )
    chosen = both.take(first_of_each_class(both.labels, train_per_class))
    test = _scan_like(root, "test", "train", classes)
    return _in_memory("cinic10", chosen, test, classes, CINIC10, 32, damaged, cache=cache)


# ------------------------------------------------------------------------------------------ lists of files


def scan_folders(root: Path, part: str, *, keep: bool = False) -> tuple[ImageFiles, tuple[str, ...]]:
    """The images below ``root/part/<class>``, classes and files in alphabetical order, and the classes.

    Args:
        root: The data set.
        part: Name of a folder in it.
        keep: Keep the list in the cache, which spares a million questions to the file system; it is made
            again when a file is added to a class or removed.

    Raises:
        DataError: If the folder is missing or has no classes, or a class has no images.
    """
    folder = root / part
    expected = root / part / "<class>" / "<image>.jpg"
    if not folder.is_dir():
        raise DataError(f"{root.absolute()} has no folder {part!r}; images are expected as {expected}")
    classes = sorted(place.name for place in os.scandir(folder) if place.is_dir())
    if not classes:
        raise DataError(f"{folder} holds no folders; sort its images into one per class: {expected}")
    index = _index_file(folder, classes)
    try:
        with np.load(index) as kept:
            names, sizes, labels = kept["names"], kept["sizes"], kept["labels"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # not there, or damaged
        names, sizes, labels = _list(folder, classes)
        if keep:
            index.parent.mkdir(parents=True, exist_ok=True)
            with write_atomically(index, shared=True) as partial, partial.open("wb") as file:
                np.savez(file, names=names, sizes=sizes, labels=labels)
    return ImageFiles(names, sizes, torch.from_numpy(labels), folder), tuple(classes)


def _scan_like(root: Path, part: str, other: str, classes: tuple[str, ...]) -> ImageFiles:
    """The images of a part that has to have the classes of another."""
    images, found = scan_folders(root, part)
    require_same_classes(root, (other, classes), (part, found))
    return images


def require_damaged_known(damaged: str) -> None:
    """Raise ``ValueError`` unless ``damaged`` says what to do."""
    if damaged not in ("error", "skip"):
        raise ValueError(f"damaged images are an 'error' or one can 'skip' them, got damaged={damaged!r}")


def require_same_classes(root: Path, *parts: tuple[str, tuple[str, ...]]) -> None:
    """Raise :class:`~topokd_lib.errors.DataError` unless two parts have the same classes."""
    (one, classes), (other, found) = parts
    if unshared := sorted(set(classes) ^ set(found)):
        raise DataError(
            f"{root / one} and {root / other} must have the same classes; only one has "
            f"{', '.join(unshared[:3])}{' …' if len(unshared) > 3 else ''}"
        )


def _index_file(folder: Path, classes: list[str]) -> Path:
    """Where the list of files is kept; the name changes when a file is added to a class or removed."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for name in classes:
        digest.update(f"{name} {(folder / name).stat().st_mtime_ns}".encode())
    return cache_root() / "files" / f"{digest.hexdigest()[:16]}.npz"


def _list(folder: Path, classes: list[str]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    names, sizes, labels = [], [], []
    for label, name in enumerate(classes):
        found = sorted(
            (entry.name, entry.stat().st_size)
            for entry in os.scandir(folder / name)
            if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(".")
        )
        if not found:
            raise DataError(f"{folder / name} holds no images; .jpg, .jpeg and .png files are expected there")
        names += [f"{name}/{file}".encode() for file, _ in found]
        sizes += [size for _, size in found]
        labels += [label] * len(found)
    return np.array(names), np.array(sizes, dtype=np.int64), np.array(labels, dtype=np.int64)


# ------------------------------------------------------------------------------------------ decoded images


def _in_memory(
    name: str,
    train: EncodedImages,
    test: EncodedImages,
    classes: tuple[str, ...],
    normalisation: Normalisation | None,
    size: int,
    damaged: WhenDamaged,
    *,
    cache: bool,
) -> ImageData:
    if size < 1:
        raise ValueError(f"images need at least one pixel, got size={size}")
    require_damaged_known(damaged)
    read = _decoded_once if cache else _decoded
    pixels, labels = [], []
    skipped: list[str] = []
    for images in (train, test):
        found, damage = read(images, size)
        if damage and damaged == "error":
            raise way_out(next(iter(damage.values())))
        pixels.append(found)
        labels.append(images.without(list(damage)).labels)
        skipped += map(str, damage.values())
    return ImageData(
        name,
        pixels[0],
        labels[0],
        pixels[1],
        labels[1],
        classes,
        normalisation or measure_normalisation(pixels[0]),
        tuple(skipped),
    )


def _decoded(
    images: EncodedImages, size: int
) -> tuple[UInt8[Tensor, "images 3 height width"], dict[int, Damage]]:
    """Pixels of the images that can be read, in order, and what is wrong with the others."""
    pixels, damage = [], {}
    for index in range(len(images)):
        try:
            pixels.append(_fit(decode(images.read(index)), size))
        except (OSError, ValueError) as error:
            damage[index] = Damage(images.where(index), reason(error))
    return torch.stack(pixels) if pixels else torch.zeros(0, 3, size, size, dtype=torch.uint8), damage


def _fit(image: UInt8[Tensor, "3 height width"], size: int) -> UInt8[Tensor, "3 size size"]:
    """The middle square, scaled."""
    if image.shape[1:] == (size, size):
        return image
    from PIL import Image, ImageOps

    whole = Image.fromarray(image.permute(1, 2, 0).numpy())
    square = ImageOps.fit(whole, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def _decoded_once(
    images: EncodedImages, size: int
) -> tuple[UInt8[Tensor, "images 3 height width"], dict[int, Damage]]:
    """The same from the cache, if no file has changed since they were decoded."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    digest = hashlib.sha256(repr(size).encode())
    for index in range(len(images)):
        where = images.where(index)
        about = os.stat(where)  # noqa: PTH116 (ten times as fast, for 60,000 files)
        digest.update(f"{where} {about.st_size} {about.st_mtime_ns}\n".encode())
    path = cache_root() / "decoded" / f"{digest.hexdigest()[:16]}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads(file.metadata()["damage"])
            return file.get_tensor("pixels"), {int(index): Damage(*what) for index, what in found.items()}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        pixels, damage = _decoded(images, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    described = json.dumps({index: (what.where, what.why) for index, what in damage.items()})
    with write_atomically(path, shared=True) as partial:
        save_file({"pixels": pixels}, partial, metadata={"damage": described})
    return pixels, damage
