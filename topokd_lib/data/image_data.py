"""A data set of images that fits in memory, complete and checked."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from topokd_lib.outputs import Normalisation

__all__ = ["ImageData", "measure_normalisation", "normalise"]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Training and test images with their labels.

    Args:
        name: For messages and records.
        train_images: Pixel values 0 … 255.
        train_labels: Class numbers, counted from 0.
        test_images: Of the same shape as the training images.
        test_labels: Class numbers of the test images.
        classes: Name of each class.
        normalisation: What batches are normalised with, one mean and standard deviation per channel.
        skipped: Images that were left out because they are damaged.

    Raises:
        TypeError: If images are not ``uint8`` or labels not ``int64``.
        ValueError: If shapes do not fit together, a part is empty, or a label has no class.
    """

    name: str
    train_images: UInt8[Tensor, "train channels height width"]
    train_labels: Int64[Tensor, " train"]
    test_images: UInt8[Tensor, "test channels height width"]
    test_labels: Int64[Tensor, " test"]
    classes: tuple[str, ...]
    normalisation: Normalisation
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._check("training", self.train_images, self.train_labels)
        self._check("test", self.test_images, self.test_labels)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise ValueError(
                f"training and test images of {self.name} must have one shape, found "
                f"{tuple(self.train_images.shape[1:])} and {tuple(self.test_images.shape[1:])}"
            )
        if len(self.normalisation.mean) != self.image_shape[0]:
            raise ValueError(
                f"images of {self.name} have {self.image_shape[0]} channels, its normalisation has "
                f"{len(self.normalisation.mean)}; give one mean and standard deviation per channel"
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, whether or not each has an image."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def to(self, device: torch.device | str) -> "ImageData":
        """The same with its tensors on ``device``; itself if they are there."""
        device = torch.device(device)
        if device == self.train_images.device:
            return self
        parts = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{part: getattr(self, part).to(device) for part in parts})

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any pixel, label, class name or normalisation."""
        digest = hashlib.sha256()
        for part in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr(tuple(part.shape)).encode())
            digest.update(part.cpu().contiguous().numpy().data)
        digest.update(repr((self.classes, self.normalisation)).encode())
        return digest.hexdigest()[:16]

    def _check(self, part: str, images: Tensor, labels: Tensor) -> None:
        if images.dtype != torch.uint8 or labels.dtype != torch.int64:
            raise TypeError(
                f"{part} images of {self.name} must be uint8 and labels int64, found {images.dtype} and "
                f"{labels.dtype}; scale pixels to 0 … 255 and convert"
            )
        if images.ndim != 4 or labels.shape != images.shape[:1] or not images.numel():
            raise ValueError(
                f"{part} images of {self.name} must have shape (images, channels, height, width) with one "
                f"label each, found {tuple(images.shape)} and labels {tuple(labels.shape)}"
            )
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= self.num_classes:
            raise ValueError(
                f"{part} labels of {self.name} must lie in 0 … {self.num_classes - 1} because it has "
                f"{self.num_classes} classes, found {lowest} … {highest}"
            )


def normalise(
    images: UInt8[Tensor, "batch channels height width"], normalisation: Normalisation
) -> Float[Tensor, "batch channels height width"]:
    """Pixels 0 … 255 as the numbers a network sees: ``(pixel / 255 - mean) / std``.

    The operations and their order are those of torchvision's ``ToTensor`` and ``Normalize``, so the result is
    the same to the last bit.

    Example:
        >>> white = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
        >>> normalise(white, Normalisation((0.5,), (0.25,))).item()
        2.0
    """
    mean, std = _constants(normalisation, images.device)
    return images.float().div_(255).sub_(mean).div_(std)


@cache
def _constants(normalisation: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    """On the device once and for all; a copy in every step would make it wait."""
    mean, std = torch.tensor(normalisation.mean), torch.tensor(normalisation.std)
    return mean[:, None, None].to(device), std[:, None, None].to(device)


def measure_normalisation(images: UInt8[Tensor, "batch channels height width"]) -> Normalisation:
    """Mean and standard deviation of each channel over all pixels, to four decimals.

    Example:
        >>> half_white = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 1, 2)
        >>> measure_normalisation(half_white)
        Normalisation(mean=(0.5,), std=(0.5,))
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.cpu().unbind(1):  # counts of levels are exact, and need no copy in float64
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(share @ levels)
        std.append((share @ (levels - mean[-1]) ** 2).sqrt())
    return Normalisation(*(tuple(round(float(value), 4) for value in values) for values in (mean, std)))
