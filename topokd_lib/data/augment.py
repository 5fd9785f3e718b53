"""Random crops and flips, drawn for a whole epoch at once and applied to a batch in one gather."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AUGMENTATIONS", "Views", "count_views", "crop_padding"]

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


def count_views(augment: str, padding: int) -> int:
    """How many views an image has.

    Example:
        >>> count_views("crop-flip", 4), count_views("crop", 4), count_views("none", 4)
        (162, 81, 1)
    """
    crop, flip = AUGMENTATIONS[augment]
    return ((2 * padding + 1) ** 2 if crop else 1) * (1 + flip)


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

    @classmethod
    def numbered(cls, numbers: Int64[Tensor, " images"], *, augment: str, padding: int) -> "Views":
        """The views of these numbers, 0 … :func:`count_views` - 1; the inverse of :meth:`number`.

        Example:
            >>> views = Views.numbered(torch.arange(162), augment="crop-flip", padding=4)
            >>> views.number(augment="crop-flip", padding=4).equal(torch.arange(162))
            True
        """
        crop, flip = AUGMENTATIONS[augment]
        place, mirrored = numbers // (1 + flip), numbers % (1 + flip) == 1
        if not crop:
            place = torch.full_like(place, padding * (2 * padding + 2))
        return cls(place // (2 * padding + 1), place % (2 * padding + 1), mirrored)

    def number(self, *, augment: str, padding: int) -> Int64[Tensor, " images"]:
        """One number for each view: by row, then column, then whether it is mirrored."""
        crop, flip = AUGMENTATIONS[augment]
        place = self.rows * (2 * padding + 1) + self.columns if crop else torch.zeros_like(self.rows)
        return place * (1 + flip) + self.mirrored

    def of(self, indices: Int64[Tensor, " batch"]) -> "Views":
        """The views of some of the images."""
        return Views(self.rows[indices], self.columns[indices], self.mirrored[indices])

    def to(self, device: torch.device) -> "Views":
        """The same on another device."""
        return Views(self.rows.to(device), self.columns.to(device), self.mirrored.to(device))

    def apply(
        self, images: Shaped[Tensor, "images channels height width"], padding: int
    ) -> Shaped[Tensor, "images channels height width"]:
        """The images, or what belongs to them pixel by pixel, as seen in these views.

        Padding happens before normalisation, as in torchvision's ``RandomCrop``: a padded pixel is black, and
        ``(0 - mean) / std`` once it is normalised.
        """
        count, _, height, width = images.shape
        views = self.to(images.device)
        padded = F.pad(images, (padding,) * 4)
        both = torch.cat([padded, padded.flip(3)])  # a mirrored crop is a crop of the mirrored image
        windows = both.unfold(2, height, 1).unfold(3, width, 1)
        image = torch.arange(count, device=images.device) + count * views.mirrored
        columns = torch.where(views.mirrored, 2 * padding - views.columns, views.columns)
        return windows[image, :, views.rows, columns]
