"""Barcodes: one bar per component or loop, from its birth to its death."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.style import ACCENT, INK, dimension_colour

__all__ = ["draw_barcode"]


def draw_barcode(
    ax: Axes,
    diagrams: Sequence[Tensor | ArrayLike],
    *,
    epsilon: float | None = None,
    end: float | None = None,
) -> None:
    r"""Draw the bars of several homology dimensions below each other, each dimension sorted by death.

    Args:
        ax: Its horizontal axis becomes the filtration value :math:`\varepsilon`, in the unit of the pairs.
        diagrams: Birth and death per row, for dimension 0, 1, ….
        epsilon: A filtration value to mark: the bars that cross the line are alive there.
        end: Right end of the axis. ``None``: a little more than the last finite death or ``epsilon``. Bars
            that die later, or never, are drawn with an arrow.

    Raises:
        ValueError: If the pairs are not rows of two numbers, or there is no bar at all.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_barcode(ax, [[(0, 3), (0, float("inf"))], [(4, 5)]])
        >>> [tuple(map(float, line.get_xdata())) for line in ax.lines]
        [(0.0, 3.0), (0.0, 5.5), (4.0, 5.0)]
    """
    sorted_rows = []
    for diagram in diagrams:
        rows = as_rows(diagram, "persistence pairs")
        sorted_rows.append(rows[np.lexsort((rows[:, 0], rows[:, 1]))])
    every = np.concatenate([*sorted_rows, np.empty((0, 2))])
    if not len(every):
        raise ValueError(
            "there is no bar to draw; keep the essential bar of dimension 0, or give more points"
        )
    if end is None:
        end = 1.1 * float(max(every[np.isfinite(every)].max(), epsilon or 0.0)) or 1.0

    thickness = float(np.clip(100 / len(every), 0.7, 3.0))
    height = 0
    for dimension, rows in enumerate(sorted_rows):
        colour = dimension_colour(dimension)
        for birth, death in rows:
            ax.plot(
                [birth, min(death, end)],
                [height, height],
                color=colour,
                linewidth=thickness,
                solid_capstyle="butt",
            )
            if death > end:
                ax.scatter(
                    [end], [height], marker=">", s=22, color=colour, linewidths=0, clip_on=False, zorder=3
                )
            height += 1
        if len(rows):
            middle = height - (len(rows) + 1) / 2
            ax.annotate(
                f"$H_{dimension}$",
                (0, middle),
                xycoords=("axes fraction", "data"),
                xytext=(-6, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                color=INK,
            )
        height += 1
    if epsilon is not None:
        ax.axvline(epsilon, color=ACCENT, zorder=0)
    ax.set(xlim=(0, end), ylim=(height - 1, -1), yticks=[], xlabel=r"edge length $\varepsilon$")
    ax.spines["left"].set_visible(False)
