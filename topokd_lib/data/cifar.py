"""CIFAR-10 and CIFAR-100, read from the published files, and copies of a data set as a folder of images."""

import os
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from topokd_lib.data.image_data import ImageData, measure_normalisation
from topokd_lib.errors import DataError
from topokd_lib.outputs import Normalisation

__all__ = ["NORMALISATION", "data_root", "load_cifar10", "load_cifar100", "load_image_folder"]

NORMALISATION = {
    "cifar10": Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalisation((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""CIFAR-100: the constants of the benchmark (HobbitLong/RepDistiller, dataset/cifar100.py) and of TopKD.

CIFAR-10: mean and standard deviation over all pixels of the training images. Many programs use the smaller
deviations 0.2023, 0.1994 and 0.2010 instead, the average of those of the single images.
"""


def data_root(root: Path | str | None = None) -> Path:
    """Where data sets lie: ``root``, else the environment variable ``TOPOKD_DATA``, else ``data``."""
    return Path(root or os.environ.get("TOPOKD_DATA") or "data").expanduser()


def load_cifar10(root: Path | str | None = None, *, download: bool = False) -> ImageData:
    """50,000 training and 10,000 test photographs of 32 × 32 pixels in 10 classes.

    Args:
        root: The folder that holds ``cifar-10-batches-py``; see :func:`data_root`.
        download: Fetch the published archive (163 MiB) if the files are not there or damaged.

    Raises:
        DataError: If the files are not there or damaged, or cannot be downloaded.

    Source:
        A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009. [krizhevsky2009cifar]
    """
    from torchvision.datasets import CIFAR10

    return _load("cifar10", CIFAR10, data_root(root), download=download)


def load_cifar100(root: Path | str | None = None, *, download: bool = False) -> ImageData:
    """50,000 training and 10,000 test photographs of 32 × 32 pixels in 100 classes.

    Args:
        root: The folder that holds ``cifar-100-python``; see :func:`data_root`.
        download: Fetch the published archive (161 MiB) if the files are not there or damaged.

    Raises:
        DataError: If the files are not there or damaged, or cannot be downloaded.

    Source:
        A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009. [krizhevsky2009cifar]
    """
    from torchvision.datasets import CIFAR100

    return _load("cifar100", CIFAR100, data_root(root), download=download)


def load_image_folder(root: Path | str, *, size: int = 32) -> ImageData:
    """A data set kept as files ``train/<class>/<image>`` and ``test/<class>/<image>``, in JPEG or PNG.

    Classes and images are in alphabetical order. The normalisation is measured on the training images, and
    the data set is called as its folder. Compressed copies of CIFAR are another data set than the original:
    networks lose several points of accuracy on images of a quality that they were not trained on.

    Args:
        root: The folder that holds ``train`` and ``test``.
        size: Height and width; other images are scaled, and cropped to the middle square.

    Raises:
        DataError: If a folder is missing or empty, the classes of both parts differ, or an image cannot be
            read; the message names it.
        ValueError: If ``size`` is not positive.
    """
    if size < 1:
        raise ValueError(f"images need at least one pixel, got size={size}")
    root = Path(root).expanduser()
    parts = {part: _image_files(root, part) for part in ("train", "test")}
    classes = tuple(parts["train"])
    if unshared := set(classes) ^ set(parts["test"]):
        raise DataError(
            f"{root / 'train'} and {root / 'test'} must have the same classes; only one has "
            f"{', '.join(sorted(unshared))}"
        )
    train, test = (_read_images(files, size) for files in parts.values())
    return ImageData(
        name=root.resolve().name,
        train_images=train,
        train_labels=_labels(parts["train"]),
        test_images=test,
        test_labels=_labels(parts["test"]),
        classes=classes,
        normalisation=measure_normalisation(train),
    )


# -------------------------------------------------------------------------------------- the published files


def _load(name: str, reader: Any, root: Path, *, download: bool) -> ImageData:
    try:
        if download:
            reader(root, download=True)
        train, test = (reader(root, train=part) for part in (True, False))
    except (OSError, HTTPException) as error:
        if not download:
            raise DataError(f"{name} in {root} cannot be read ({error})") from error
        raise DataError(
            f"{name} could not be downloaded ({getattr(error, 'reason', error)}). If this machine is "
            f"offline, fetch {reader.url} elsewhere, copy {reader.filename} to {root.absolute()}, and "
            f"{_once(name)}"
        ) from error
    except RuntimeError as error:  # torchvision's only word for missing and for damaged files
        raise DataError(_what_is_wrong(name, reader, root)) from error
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    labels = [torch.tensor(part.targets) for part in (train, test)]
    return ImageData(
        name, images[0], labels[0], images[1], labels[1], tuple(train.classes), NORMALISATION[name]
    )


def _once(name: str) -> str:
    """The way out of most troubles: it unpacks an archive that is there, and downloads one that is not."""
    load = f"from topokd_lib.data import load_data; load_data('{name}', download=True)"
    return f'type once: python -c "{load}"'


def _what_is_wrong(name: str, reader: Any, root: Path) -> str:
    from torchvision.datasets.utils import check_integrity

    folder, archive = root / reader.base_folder, root / reader.filename
    checksums = {
        **dict(reader.train_list + reader.test_list),
        reader.meta["filename"]: reader.meta["md5"],
    }
    if root.name == reader.base_folder or any((root / file).is_file() for file in checksums):
        return (
            f"{root} is the folder of {name} itself; give the one above it, which holds {reader.base_folder}"
        )
    if archive.is_file() and not check_integrity(archive, reader.tgz_md5):
        return f"{archive} is damaged or not complete; delete it and {_once(name)}"
    if not folder.is_dir():
        return (
            f"there is no {name} in {root.absolute()}; {_once(name)} – or, if you have it elsewhere, set "
            f"TOPOKD_DATA to the folder that holds {reader.base_folder}"
        )
    bad = next(file for file, checksum in checksums.items() if not check_integrity(folder / file, checksum))
    state = "is not the published file: it is damaged" if (folder / bad).is_file() else "is missing"
    return f"{folder / bad} {state}; {_once(name)}"


# ------------------------------------------------------------------------------------------ folders of images


def _image_files(root: Path, part: str) -> dict[str, list[Path]]:
    """Image files by class."""
    folder = root / part
    if not folder.is_dir():
        raise DataError(
            f"{root} has no folder {part!r}; images are expected as {folder / '<class>' / '<image>.jpg'}"
        )
    found = {
        place.name: [file for file in sorted(place.iterdir()) if _is_image(file)]
        for place in sorted(folder.iterdir())
        if place.is_dir()
    }
    empty = [name for name, files in found.items() if not files]
    if empty or not found:
        where = folder / empty[0] if empty else folder / "<class>"
        raise DataError(f"{where} holds no images; .jpg, .jpeg and .png files are expected there")
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in (".jpg", ".jpeg", ".png") and not file.name.startswith(".")


def _labels(files: dict[str, list[Path]]) -> Int64[Tensor, " images"]:
    return torch.arange(len(files)).repeat_interleave(torch.tensor([len(each) for each in files.values()]))


def _read_images(files: dict[str, list[Path]], size: int) -> UInt8[Tensor, "images 3 height width"]:
    pixels = np.stack([_read_image(file, size) for each in files.values() for file in each])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _read_image(file: Path, size: int) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # it depends on where Pillow gives up
        why = "its content is of another kind" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{file} cannot be read as an image ({why}); copy it again, or delete it") from error
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)
