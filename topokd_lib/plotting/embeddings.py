"""Embeddings in the plane, one colour for each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from numpy.typing import ArrayLike
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.style import INK

__all__ = ["draw_embedding"]


def draw_embedding(
    ax: Axes,
    points: Tensor | ArrayLike,
    labels: Tensor | ArrayLike,
    *,
    classes: Sequence[str],
    size: float = 8.0,
) -> None:
    """Draw points in the plane in the colours of their classes, with each class's name at its median.

    Axes of an embedding have no unit and no direction, so they are not drawn.

    Args:
        ax: Loses its axes and gets equal aspect.
        points: One point per row.
        labels: Class number of each point.
        classes: Their names; up to 20 get colours of their own.
        size: Area of a marker in square points.

    Raises:
        ValueError: If there is not one label for each point, or a label has no class.

    Example:
        >>> from matplotlib import pyplot as plt
        >>> figure, ax = plt.subplots()
        >>> draw_embedding(ax, [(0, 0), (1, 1)], [0, 1], classes=["cat", "dog"])
        >>> [text.get_text() for text in ax.texts]
        ['cat', 'dog']
        >>> plt.close(figure)
    """
    rows = as_rows(points, "points")
    numbers = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels, dtype=int).reshape(-1)
    if len(numbers) != len(rows) or (len(rows) and not 0 <= numbers.min() <= numbers.max() < len(classes)):
        raise ValueError(
            f"{len(rows)} points need as many labels in 0 … {len(classes) - 1}, got {len(numbers)}"
            + (f" in {numbers.min()} … {numbers.max()}" if len(numbers) else "")
        )
    palette = colormaps["tab10" if len(classes) <= 10 else "tab20"]
    for number, name in enumerate(classes):
        own = rows[numbers == number]
        if not len(own):
            continue
        ax.scatter(own[:, 0], own[:, 1], s=size, color=to_hex(palette(number % palette.N)), linewidths=0)
        x, y = np.median(own, axis=0)
        ax.annotate(
            name, (x, y), ha="center", va="center", color=INK, fontweight="bold",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
        )  # fmt: skip
    ax.set_axis_off()
    ax.set_aspect("equal", adjustable="datalim")
