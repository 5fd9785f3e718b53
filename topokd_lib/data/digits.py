"""Handwritten digits that come with scikit-learn: a real data set of a quarter of a megabyte, no download."""

import torch
from torch.nn import functional as F

from topokd_lib.data.image_data import ImageData
from topokd_lib.outputs import Normalisation

__all__ = ["NORMALISATION", "load_digits"]

NORMALISATION = {
    8: Normalisation((0.3058,) * 3, (0.3761,) * 3),
    32: Normalisation((0.3057,) * 3, (0.3238,) * 3),
}
"""Measured on the training images of each size, to four decimals; the three channels are equal."""


def load_digits(*, size: int = 32) -> ImageData:
    """1,437 training and 360 test images of handwritten digits, grey, as three equal channels.

    The source has 8 × 8 pixels with 17 grey levels, 0 … 16, bright strokes on black. They are enlarged by
    bilinear interpolation, which is exact in float32 for these numbers, and then scaled to 0 … 255; every
    machine gets the same bytes.

    The split is fixed and uses no random numbers: images are sorted by class, keeping their order otherwise,
    and every fifth is a test image. Each class is therefore split 4 to 1, to within one image. Both parts
    hold digits of the same 13 writers, so the test accuracy says nothing about new hands.

    Args:
        size: Height and width, 8 (as they are) or 32 (for networks made for CIFAR).

    Raises:
        ValueError: If ``size`` is neither.

    Source:
        E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository,
        1998; its test set, as distributed by scikit-learn.
    """
    if size not in NORMALISATION:
        raise ValueError(f"digits come in sizes 8 and 32, got size={size}")
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    levels = torch.from_numpy(images).float().view(-1, 1, 8, 8)
    if size != 8:
        levels = F.interpolate(levels, size=(size, size), mode="bilinear", align_corners=False)
    pixels = (levels * 255 / 16).round().to(torch.uint8).repeat(1, 3, 1, 1)
    targets = torch.from_numpy(labels).long()
    test = torch.zeros(len(targets), dtype=torch.bool)
    test[targets.argsort(stable=True)[::5]] = True
    return ImageData(
        name="digits",
        train_images=pixels[~test],
        train_labels=targets[~test],
        test_images=pixels[test],
        test_labels=targets[test],
        classes=tuple("0123456789"),
        normalisation=NORMALISATION[size],
    )
