"""Data sets by name, and the loader that turns one into batches."""

import inspect
from collections.abc import Callable

from topokd_lib.data.cifar import load_cifar10, load_cifar100
from topokd_lib.data.digits import load_digits
from topokd_lib.data.encoded import StreamedImages, find_damaged
from topokd_lib.data.extras import (
    ComputedExtra,
    Extra,
    LoaderWithExtras,
    SampleArrays,
    load_prepared_images,
)
from topokd_lib.data.folders import load_cinic10, load_image_folder
from topokd_lib.data.image_data import ImageData, normalise
from topokd_lib.data.imagenet import load_imagenet
from topokd_lib.data.loaders import EpochLoader
from topokd_lib.data.noise import load_noise
from topokd_lib.data.overlay import OverlayLoader, lay_over, spread
from topokd_lib.data.shapes import BETTI, load_shapes, sample_cloud
from topokd_lib.data.shards import load_shards, write_shards
from topokd_lib.data.streaming import StreamLoader
from topokd_lib.errors import did_you_mean, require_name

__all__ = [
    "BETTI",
    "DATA",
    "ComputedExtra",
    "EpochLoader",
    "Extra",
    "ImageData",
    "LoaderWithExtras",
    "OverlayLoader",
    "SampleArrays",
    "StreamLoader",
    "StreamedImages",
    "find_damaged",
    "lay_over",
    "load_cifar10",
    "load_cifar100",
    "load_cinic10",
    "load_data",
    "load_digits",
    "load_image_folder",
    "load_imagenet",
    "load_noise",
    "load_prepared_images",
    "load_shapes",
    "load_shards",
    "normalise",
    "sample_cloud",
    "spread",
    "write_shards",
]

DATA: dict[str, Callable[..., ImageData | StreamedImages]] = {
    "digits": load_digits,
    "shapes": load_shapes,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "cinic10": load_cinic10,
    "image-folder": load_image_folder,
    "noise": load_noise,
    "imagenet": load_imagenet,
    "prepared-images": load_prepared_images,
    "shards": load_shards,
}
"""Every data set by name; the options of each are the keyword arguments of its function."""


def load_data(name: str, **options: object) -> ImageData | StreamedImages:
    """Load a data set by name.

    Raises:
        UnknownName: If there is no such data set; the message suggests the nearest name.
        TypeError: If it has no such option, or lacks one that it needs.
        DataError: If its files are not there or damaged.

    Example:
        >>> load_data("digits", size=8).image_shape
        (3, 8, 8)
    """
    require_name("data set", name, DATA)
    parameters = inspect.signature(DATA[name]).parameters
    known = list(parameters)
    for option in options:
        if option not in known:
            raise TypeError(
                f"data set {name!r} has no option {option!r}.{did_you_mean(option, known)} "
                f"It takes: {', '.join(known)}."
            )
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise TypeError(f"data set {name!r} needs the option {option!r}; give it (data.options.{option})")
    return DATA[name](**options)
