"""ImageNet, and any data set of photographs kept as one folder of files per class."""

import hashlib
import os
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray

from topokd_lib.data.cifar import data_root
from topokd_lib.data.encoded import ImageFiles, StreamedImages
from topokd_lib.errors import DataError
from topokd_lib.files import cache_root, write_atomically
from topokd_lib.outputs import Normalisation

__all__ = ["NORMALISATION", "load_imagenet", "scan_folders"]

NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The constants that torchvision's weights were trained with."""

SUFFIXES = (".jpeg", ".jpg", ".png")


def load_imagenet(
    root: Path | str | None = None,
    *,
    image_size: int = 224,
    resize: int = 256,
    train_per_class: int | None = None,
    damaged: Literal["error", "skip"] = "error",
    workers: int = 4,
) -> StreamedImages:
    """ImageNet, or a part of it, as files ``train/<class>/<image>`` and ``val/<class>/<image>``.

    The 1,281,167 training and 50,000 validation photographs of ILSVRC 2012 have to be fetched from
    https://image-net.org, where one agrees to the terms. Classes are numbered in alphabetical order of their
    folders, as in torchvision, so that its weights fit; subsets such as ImageNet-100 work as well. The list
    of files is kept in the cache and read again when a folder changes.

    Args:
        root: The folder that holds ``train`` and ``val``; by default ``imagenet`` in
            :func:`~topokd_lib.data.cifar.data_root`.
        image_size: Height and width of what the networks see.
        resize: Shorter side to which a test image is scaled before its middle is cut out.
        train_per_class: Use only the first so many training images of each class.
        damaged: ``error`` stops at the first image that cannot be decoded; ``skip`` decodes all of them
            before training and leaves those out, listed in the run's record.
        workers: Processes for that look.

    Raises:
        DataError: If a folder is missing or empty, or the classes of both parts differ.
        ValueError: If a size is out of range.

    Source:
        O. Russakovsky, J. Deng, H. Su, et al. ImageNet Large Scale Visual Recognition Challenge.
        International Journal of Computer Vision 115, 2015. [russakovsky2015imagenet]
    """
    from topokd_lib.data.subset import first_of_each_class

    root = data_root() / "imagenet" if root is None else Path(root).expanduser()
    train, classes = scan_folders(root, "train")
    test, test_classes = scan_folders(root, "val")
    if unshared := set(classes) ^ set(test_classes):
        raise DataError(
            f"{root / 'train'} and {root / 'val'} must have the same classes; {len(unshared)} are only in "
            f"one, such as {min(unshared)}"
        )
    data = StreamedImages(
        "imagenet",
        train.take(first_of_each_class(train.labels, train_per_class)),
        test,
        classes,
        NORMALISATION,
        image_size,
        resize,
    )
    return data.without_damaged(workers=workers) if damaged == "skip" else data


def scan_folders(root: Path, part: str) -> tuple[ImageFiles, tuple[str, ...]]:
    """The images below ``root/part/<class>``, classes and files in alphabetical order, and the classes.

    Raises:
        DataError: If the folder is missing or has no classes, or a class has no images.
    """
    folder = root / part
    if not folder.is_dir():
        raise DataError(
            f"there is no {folder.absolute()}; images are expected as "
            f"{root / part / '<class>' / '<image>.JPEG'}"
        )
    classes = sorted(place.name for place in os.scandir(folder) if place.is_dir())
    if not classes:
        raise DataError(
            f"{folder} holds no folders; sort its images into one folder per class, {part}/<class>/<image>"
        )
    index = _index_file(folder, classes)
    try:
        with np.load(index) as kept:
            names, sizes, labels = kept["names"], kept["sizes"], kept["labels"]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):  # not there, or damaged
        names, sizes, labels = _list(folder, classes)
        index.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(index, shared=True) as partial, partial.open("wb") as file:
            np.savez(file, names=names, sizes=sizes, labels=labels)
    return ImageFiles(names, sizes, torch.from_numpy(labels), folder), tuple(classes)


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
            raise DataError(
                f"{folder / name} holds no images; {', '.join(SUFFIXES)} files are expected there"
            )
        names += [f"{name}/{file}".encode() for file, _ in found]
        sizes += [size for _, size in found]
        labels += [label] * len(found)
    return np.array(names), np.array(sizes, dtype=np.int64), np.array(labels, dtype=np.int64)
