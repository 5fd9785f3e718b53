"""ImageNet, and any data set of photographs in its layout."""

from pathlib import Path
from typing import Literal

from topokd_lib.data.cifar import data_root
from topokd_lib.data.encoded import StreamedImages
from topokd_lib.data.folders import require_damaged_known, require_same_classes, scan_folders
from topokd_lib.data.subset import first_of_each_class
from topokd_lib.outputs import Normalisation

__all__ = ["NORMALISATION", "load_imagenet"]

NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The constants that torchvision's weights were trained with."""


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
    require_damaged_known(damaged)
    root = data_root() / "imagenet" if root is None else Path(root).expanduser()
    train, classes = scan_folders(root, "train", keep=True)
    test, test_classes = scan_folders(root, "val", keep=True)
    require_same_classes(root, ("train", classes), ("val", test_classes))
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
