"""Data with known topology: images whose classes are Betti numbers, and point clouds for teaching."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from topokd_lib.data.image_data import ImageData, measure_normalisation
from topokd_lib.errors import require_name

__all__ = ["BETTI", "IMAGE_BETTI", "load_shapes", "sample_cloud"]

IMAGE_BETTI: dict[str, tuple[int, int]] = {
    "disc": (1, 0),
    "ring": (1, 1),
    "figure eight": (1, 2),
    "two discs": (2, 0),
    "disc and ring": (2, 1),
    "two rings": (2, 2),
}
"""Classes of :func:`load_shapes` with their Betti numbers: components and holes of the bright region."""

BETTI: dict[str, tuple[int, int]] = {
    "circle": (1, 1),
    "two circles": (2, 2),
    "figure eight": (1, 2),
    "disc": (1, 0),
    "clusters": (3, 0),
    "line": (1, 0),
}
"""Kinds of :func:`sample_cloud` with the Betti numbers of the shape that is sampled."""


def sample_cloud(kind: str, points: int, *, noise: float = 0.0, seed: int) -> Float[Tensor, "points 2"]:
    """Random points of a plane shape, uniform along its length or over its area.

    =================  =====================================================================
    ``circle``         radius 1 around the origin
    ``two circles``    radius 1 around (-1.5, 0) and (1.5, 0): a gap of 1 between them
    ``figure eight``   radius 1 around (-1, 0) and (1, 0): they touch at the origin
    ``disc``           radius 1 around the origin, filled
    ``clusters``       three discs of radius 0.25, centred at distance 1 from the origin
    ``line``           the segment from (-1, 0) to (1, 0)
    =================  =====================================================================

    Pieces get equally many points, to within one.

    Args:
        kind: One of the above; their Betti numbers are in :data:`BETTI`.
        points: How many.
        noise: Standard deviation of the Gaussian that is added to each coordinate, in the same unit.
        seed: The same seed gives the same points, and the same shape under every noise.

    Raises:
        UnknownName: If there is no such kind.
        ValueError: If ``points`` is not positive, or ``noise`` or ``seed`` is negative.

    Example:
        >>> sample_cloud("circle", 100, seed=0).norm(dim=1).allclose(torch.ones(100))
        True
    """
    require_name("point cloud", kind, BETTI)
    if points < 1 or not noise >= 0 or seed < 0:
        raise ValueError(
            f"a sample needs at least one point, and noise and seed that are not negative; got "
            f"points={points}, noise={noise}, seed={seed}"
        )
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, points)
    fraction = rng.uniform(0, 1, points)
    piece = np.arange(points)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    disc = circle * np.sqrt(fraction)[:, None]
    side = np.stack([np.where(piece % 2, 1.0, -1.0), np.zeros(points)], axis=1)
    corner = np.pi / 2 + 2 * np.pi / 3 * (piece % 3)
    exact = {
        "circle": circle,
        "two circles": circle + 1.5 * side,
        "figure eight": circle + side,
        "disc": disc,
        "clusters": 0.25 * disc + np.stack([np.cos(corner), np.sin(corner)], axis=1),
        "line": np.stack([2 * fraction - 1, np.zeros(points)], axis=1),
    }[kind]
    return torch.from_numpy(exact + noise * rng.standard_normal((points, 2))).float()


def load_shapes(*, size: int = 32, train: int = 1200, test: int = 600, seed: int = 0) -> ImageData:
    """Images of one or two round blobs, bright on dark, whose classes differ by their Betti numbers.

    Position, size, thickness, direction and grey levels are random; edges are smooth over one pixel, and each
    pixel has Gaussian noise, cut at three standard deviations. Blobs never touch each other or the frame, and
    holes are open: the region brighter than 128 has exactly the Betti numbers of :data:`IMAGE_BETTI`.

    Image ``i`` is of class ``i`` modulo 6 and depends on ``(seed, split, i)`` alone, so a smaller set is the
    beginning of a larger one. All three channels are equal.

    Args:
        size: Height and width in pixels. Lengths grow with it; at 32 a ring is 2.4 to 3.4 pixels thick.
        train: Number of training images.
        test: Number of test images.
        seed: Of everything random.

    Raises:
        ValueError: If ``size`` is below 32, where rings close up, or a number is out of range.
    """
    if size < 32:
        raise ValueError(f"shapes need at least 32 pixels, below that rings close up; got size={size}")
    if train < 1 or test < 1 or seed < 0:
        raise ValueError(
            f"shapes need at least one training and test image and a seed that is not negative; got "
            f"train={train}, test={test}, seed={seed}"
        )
    train_images, test_images = _draw_all(size, train, seed, split=0), _draw_all(size, test, seed, split=1)
    return ImageData(
        name="shapes",
        train_images=train_images,
        train_labels=torch.arange(train) % len(IMAGE_BETTI),
        test_images=test_images,
        test_labels=torch.arange(test) % len(IMAGE_BETTI),
        classes=tuple(IMAGE_BETTI),
        normalisation=measure_normalisation(train_images),
    )


def _draw_all(size: int, count: int, seed: int, *, split: int) -> UInt8[Tensor, "images 3 size size"]:
    kinds = tuple(IMAGE_BETTI)
    images = [
        _draw(kinds[index % len(kinds)], size, np.random.default_rng((seed, split, index)))
        for index in range(count)
    ]
    return torch.from_numpy(np.stack(images)).unsqueeze(1).repeat(1, 3, 1, 1)


@dataclass(frozen=True)
class _Blob:
    """A disc, or a ring if it has a hole; radii in pixels."""

    outer: float
    hole: float = 0.0

    def signed_distance(self, distance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Distance to the edge, negative inside, of points at ``distance`` from the centre."""
        to_outer = distance - self.outer
        return np.maximum(to_outer, self.hole - distance) if self.hole else to_outer


def _draw(kind: str, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image of shape (size, size), in 0 … 255."""
    blobs, centres = _place(kind, size, rng)
    grid = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), axis=-1)
    edge = np.full((size, size), np.inf)
    for blob, centre in zip(blobs, centres, strict=True):
        edge = np.minimum(edge, blob.signed_distance(np.linalg.norm(grid - centre, axis=-1)))
    covered = np.clip(0.5 - edge, 0, 1)
    dark, bright = rng.uniform(20, 70), rng.uniform(186, 236)
    noise = 6 * np.clip(rng.standard_normal((size, size)), -3, 3)
    pixels: NDArray[np.uint8] = np.rint(dark + (bright - dark) * covered + noise).astype(np.uint8)
    return pixels


def _place(kind: str, size: int, rng: np.random.Generator) -> tuple[list[_Blob], NDArray[np.float64]]:
    """Blobs and their centres, at least 1.5 pixels from the frame; pairs are redrawn until they fit."""
    while True:
        blobs = _blobs(kind, size / 32, rng)
        angle = rng.uniform(0, 2 * np.pi)
        direction = np.array([math.sin(angle), math.cos(angle)])
        centres = np.zeros((1, 2))
        if len(blobs) == 2:
            apart = sum(blob.outer for blob in blobs)
            if kind == "figure eight":  # the rings share their thickness where they meet
                apart -= blobs[0].outer - blobs[0].hole
            else:
                apart += rng.uniform(2.5, 5.0) * size / 32
            centres = np.stack([np.zeros(2), apart * direction])
        radii = np.array([[blob.outer] for blob in blobs])
        lowest, highest = (centres - radii).min(axis=0) - 1.5, (centres + radii).max(axis=0) + 1.5
        room = size - 1 - (highest - lowest)
        if room.min() >= 0:
            return blobs, centres - lowest + rng.uniform(0, 1, 2) * room


def _blobs(kind: str, unit: float, rng: np.random.Generator) -> list[_Blob]:
    """Radii in pixels, where ``unit`` is one pixel of a 32 × 32 image."""

    def disc(low: float, high: float) -> _Blob:
        return _Blob(unit * rng.uniform(low, high))

    def ring(low: float, high: float, thickness: float) -> _Blob:
        hole = unit * rng.uniform(low, high)
        return _Blob(hole + unit * thickness, hole)

    thickness = rng.uniform(2.4, 3.4)
    match kind:
        case "disc":
            return [disc(3.0, 10.0)]
        case "ring":
            return [ring(2.5, 8.0, thickness)]
        case "figure eight":
            return [ring(2.5, 5.0, thickness), ring(2.5, 5.0, thickness)]
        case "two discs":
            return [disc(3.0, 7.0), disc(3.0, 7.0)]
        case "disc and ring":
            return [disc(3.0, 6.0), ring(2.5, 5.0, thickness)]
        case _:
            return [ring(2.5, 4.5, thickness), ring(2.5, 4.5, thickness)]
