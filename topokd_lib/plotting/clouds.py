"""Point clouds in the plane."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.style import INK, TEACHER

__all__ = ["draw_cloud"]


def draw_cloud(
    ax: Axes,
    points: Tensor | ArrayLike,
    *,
    colour: str | Sequence[str] = TEACHER,
    names: Sequence[str] | None = None,
    size: float = 14.0,
) -> None:
    """Draw points in the plane, with equal units on both axes.

    Args:
        ax: Gets equal aspect, and a margin that keeps points off its edge.
        points: One point per row.
        colour: Of all points, or one per point.
        names: A text beside each point.
        size: Area of a marker in square points.

    Raises:
        ValueError: If the points are not rows of two finite numbers, or colours or names are not one each.
    """
    rows = as_rows(points, "points")
    if not np.isfinite(rows).all():
        raise ValueError(f"points must be finite, {int((~np.isfinite(rows)).any(axis=1).sum())} are not")
    for what, texts in (("colours", () if isinstance(colour, str) else colour), ("names", names or ())):
        if texts and len(texts) != len(rows):
            raise ValueError(f"{len(rows)} points need as many {what}, got {len(texts)}")
    ax.scatter(rows[:, 0], rows[:, 1], s=size, c=colour, linewidths=0, zorder=3)
    for name, point in zip(names or (), rows, strict=False):
        ax.annotate(name, tuple(point), xytext=(4, 4), textcoords="offset points", color=INK)
    ax.margins(0.08)
    ax.set_aspect("equal", adjustable="box")
