"""Images in which there is nothing to learn, in the shape of real ones: for rehearsals and for timing."""

import numpy as np
import torch

from topokd_lib.data.image_data import ImageData
from topokd_lib.outputs import Normalisation

__all__ = ["load_noise"]


def load_noise(
    *, size: int = 32, classes: int = 100, channels: int = 3, train: int = 256, test: int = 64
) -> ImageData:
    """Uniformly random pixels; every class occurs if there are as many images.

    Args:
        size: Height and width.
        classes: Number of classes.
        channels: Of an image.
        train: Number of training images.
        test: Number of test images.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> load_noise(size=8, classes=3, train=6, test=3).train_labels
        tensor([0, 1, 2, 0, 1, 2])
    """
    if min(size, classes, channels, train, test) < 1:
        raise ValueError(
            f"noise needs positive numbers, got size={size}, classes={classes}, channels={channels}, "
            f"train={train}, test={test}"
        )
    pixels = np.random.default_rng(0).integers(0, 256, (train + test, channels, size, size), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    labels = torch.cat([torch.arange(train) % classes, torch.arange(test) % classes])
    scale = Normalisation((0.5,) * channels, (0.25,) * channels)
    return ImageData(
        "noise", images[:train], labels[:train], images[train:], labels[train:],
        tuple(map(str, range(classes))), scale,
    )  # fmt: skip
