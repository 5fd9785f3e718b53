"""CIFAR-10 and CIFAR-100, read from the published files."""

import os
from pathlib import Path
from typing import Any

import torch

from topokd_lib.data.download import fetch
from topokd_lib.data.image_data import ImageData
from topokd_lib.data.subset import first_of_each_class
from topokd_lib.errors import DataError
from topokd_lib.outputs import Normalisation

__all__ = ["NORMALISATION", "data_root", "load_cifar10", "load_cifar100"]

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


def load_cifar10(
    root: Path | str | None = None, *, download: bool = False, train_per_class: int | None = None
) -> ImageData:
    """50,000 training and 10,000 test photographs of 32 × 32 pixels in 10 classes.

    Args:
        root: The folder that holds ``cifar-10-batches-py``; see :func:`data_root`.
        download: Fetch the published archive (163 MiB) if the files are not there or damaged.
        train_per_class: Use only the first so many training images of each class.

    Raises:
        DataError: If the files are not there or damaged, or cannot be downloaded.
        ValueError: If a class has fewer training images.

    Source:
        A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009. [krizhevsky2009cifar]
    """
    from torchvision.datasets import CIFAR10

    return _load("cifar10", CIFAR10, data_root(root), download=download, train_per_class=train_per_class)


def load_cifar100(
    root: Path | str | None = None, *, download: bool = False, train_per_class: int | None = None
) -> ImageData:
    """50,000 training and 10,000 test photographs of 32 × 32 pixels in 100 classes.

    Args:
        root: The folder that holds ``cifar-100-python``; see :func:`data_root`.
        download: Fetch the published archive (161 MiB) if the files are not there or damaged.
        train_per_class: Use only the first so many training images of each class.

    Raises:
        DataError: If the files are not there or damaged, or cannot be downloaded.
        ValueError: If a class has fewer training images.

    Source:
        A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009. [krizhevsky2009cifar]
    """
    from torchvision.datasets import CIFAR100

    return _load("cifar100", CIFAR100, data_root(root), download=download, train_per_class=train_per_class)


# -------------------------------------------------------------------------------------- the published files


def _load(name: str, reader: Any, root: Path, *, download: bool, train_per_class: int | None) -> ImageData:
    try:
        if download:
            _download(name, reader, root)
        train, test = (reader(root, train=part) for part in (True, False))
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name} in {root} cannot be read ({error})") from error
    except RuntimeError as error:  # torchvision's only word for missing and for damaged files
        raise DataError(_what_is_wrong(name, reader, root)) from error
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous() for part in (train, test)]
    labels = [torch.tensor(part.targets) for part in (train, test)]
    chosen = slice(None) if train_per_class is None else first_of_each_class(labels[0], train_per_class)
    return ImageData(
        name,
        images[0][chosen],
        labels[0][chosen],
        images[1],
        labels[1],
        tuple(train.classes),
        NORMALISATION[name],
    )


def _download(name: str, reader: Any, root: Path) -> None:
    """Fetch the archive if it is needed, and unpack it; torchvision compares every file with its checksum."""
    from torchvision.datasets.utils import check_integrity

    try:
        reader(root)
    except RuntimeError:  # not there, or damaged
        archive = root / reader.filename
        if archive.exists() and not check_integrity(archive, reader.tgz_md5):
            raise
        if not archive.exists():
            try:
                fetch(reader.url, archive, md5=reader.tgz_md5)
            except DataError as error:
                raise DataError(
                    f"{error}. If this machine is offline, fetch the file elsewhere, copy it to "
                    f"{archive.absolute()}, and {_once(name)}"
                    + (f" --root {root}" if root != data_root() else "")
                ) from error
        reader(root, download=True)


def _once(name: str) -> str:
    """The way out of most troubles: it unpacks an archive that is there, and downloads one that is not."""
    return f"type once: topokd data download {name}"


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
