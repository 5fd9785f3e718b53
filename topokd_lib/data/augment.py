"""Random crops and flips, drawn for a whole epoch at once and applied to a batch in one gather."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AUGMENTATIONS", "Views", "crop_padding"]

AUGMENTATIONS: dict[str, tuple[bool, bool]] = {
    "none": (False, False),
    "crop": (True, False),
    "crop-flip": (True, True),
}
"""Whether images are cropped, and whether they are mirrored, by name.

``crop-flip`` is for photographs. Where left and right mean something it must not be used: a mirrored digit is
another sign.
"""


def crop_padding(height: int, width: int) -> int:
    """Zeros added on each side before cropping: an eighth of the shorter side.

    That is 4 for 32 × 32 images, as in every CIFAR recipe, and 1 for 8 × 8 ones.

    Example:
        >>> crop_padding(32, 32), crop_padding(8, 8)
        (4, 1)
    """
    return min(height, width) // 8


@dataclass(frozen=True, eq=False)
class Views:
    """Which part of each padded image is seen, and whether it is mirrored.

    Args:
        rows: First row of the crop in the padded image, 0 … 2 · padding.
        columns: First column of the crop.
        mirrored: Whether left and right are exchanged after the crop.
    """

    rows: Int64[Tensor, " images"]
    columns: Int64[Tensor, " images"]
    mirrored: Bool[Tensor, " images"]

    @classmethod
    def draw(cls, count: int, *, augment: str, padding: int, rng: np.random.Generator) -> "Views":
        """Views of ``count`` images, each independent of the others and uniform over all there are.

        A 32 × 32 image has 9 × 9 × 2 = 162 views under ``crop-flip``.
        """
        crop, flip = AUGMENTATIONS[augment]
        centre = np.full((2, count), padding)
        offsets = rng.integers(0, 2 * padding, size=(2, count), endpoint=True) if crop else centre
        mirrored = rng.integers(0, 2, size=count) if flip else np.zeros(count)
        rows, columns = torch.from_numpy(offsets.astype(np.int64))
        return cls(rows, columns, torch.from_numpy(mirrored.astype(bool)))

    def of(self, indices: Int64[Tensor, " batch"]) -> "Views":
        """The views of some of the images."""
        return Views(self.rows[indices], self.columns[indices], self.mirrored[indices])

    def apply(
        self, images: UInt8[Tensor, "images channels height width"], padding: int
    ) -> UInt8[Tensor, "images channels height width"]:
        """The images as seen in these views.

        Padding happens before normalisation, as in torchvision's ``RandomCrop``: a padded pixel is black, and
        ``(0 - mean) / std`` once it is normalised.
        """
        count, channels, height, width = images.shape
        device = images.device
        rows = self.rows.to(device)[:, None] + torch.arange(height, device=device)
        columns = self.columns.to(device)[:, None] + torch.arange(width, device=device)
        columns = torch.where(self.mirrored.to(device)[:, None], columns.flip(1), columns)
        padded = F.pad(images, (padding,) * 4)
        image = torch.arange(count, device=device)[:, None, None, None]
        channel = torch.arange(channels, device=device)[:, None, None]
        return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
