"""Persistence diagrams."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.style import INK, NOISE, dimension_colour

__all__ = ["INFINITY_HEIGHT", "draw_diagram"]

INFINITY_HEIGHT = 0.94
"""Where bars without end are drawn, as a fraction of the height of the axes; finite ones stay below."""

_DIAGONAL, _INFINITY = "_diagonal", "_infinity"  # labels; the underscore keeps them out of legends


def draw_diagram(
    ax: Axes,
    pairs: Tensor | ArrayLike,
    *,
    dimension: int = 0,
    colour: str | None = None,
    label: str | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    r"""Draw the persistence diagram of one homology dimension.

    Call it again on the same axes for another dimension, or on axes that share their range: it grows to hold
    everything.

    Args:
        ax: Becomes square, with one range for births and deaths, and with the diagonal.
        pairs: Birth and death per row. A death of infinity is drawn on a marked line at the top.
        dimension: Homology dimension, which chooses colour and label.
        colour: Instead of that of the dimension.
        label: Text beside the most persistent pair; ``None`` means :math:`H_k`, an empty text means none.
        limits: Range of births and finite deaths, the same for diagrams to be compared; ``None`` takes that
            of the pairs. Margins are added.

    Raises:
        ValueError: If the pairs are not rows of two numbers, or lie outside ``limits``.
    """
    rows = as_rows(pairs, "persistence pairs")
    colour = colour or dimension_colour(dimension)
    endless = np.isposinf(rows[:, 1])
    finite, births = rows[~endless], rows[endless, 0]
    _frame(ax, rows[np.isfinite(rows)], limits)
    top = ax.get_xaxis_transform()  # births in data units, heights as fractions of the axes
    ax.scatter(finite[:, 0], finite[:, 1], s=22, color=colour, alpha=0.8, linewidths=0, zorder=3)
    if len(births):
        heights = np.full(len(births), INFINITY_HEIGHT)
        ax.scatter(births, heights, s=32, marker="^", color=colour, linewidths=0, transform=top, zorder=3)
        _mark_infinity(ax)
    label = f"$H_{dimension}$" if label is None else label
    if label and len(rows):
        most = finite[np.argmax(finite[:, 1] - finite[:, 0])] if len(finite) else (births[0], INFINITY_HEIGHT)
        ax.annotate(
            label,
            tuple(most),
            xycoords=ax.transData if len(finite) else top,
            xytext=(6, 0),
            textcoords="offset points",
            va="center" if len(finite) else "top",  # clear of the line of infinity
            color=INK,
        )


def _frame(ax: Axes, values: NDArray[np.float64], limits: tuple[float, float] | None) -> None:
    """Square axes with a diagonal, wide enough for ``values`` and for what was drawn before."""
    lowest, highest = (float(values.min()), float(values.max())) if values.size else limits or (0.0, 1.0)
    if limits is not None and not limits[0] <= lowest <= highest <= limits[1]:
        raise ValueError(
            f"pairs from {lowest:.4g} to {highest:.4g} do not fit into limits={limits}; widen the limits"
        )
    lowest, highest = limits or (lowest, highest)
    highest = highest if highest > lowest else lowest + 1
    margin = 0.06 * (highest - lowest)
    lowest, highest = lowest - margin, highest + 3 * margin
    if any(_has(panel, _DIAGONAL) for panel in ax.get_shared_x_axes().get_siblings(ax)):
        before = ax.get_xlim()
        lowest, highest = min(lowest, before[0]), max(highest, before[1])
    if not _has(ax, _DIAGONAL):
        ax.axline((0, 0), slope=1, color=NOISE, linewidth=0.8, zorder=1, label=_DIAGONAL)
        ax.set(xlabel="birth", ylabel="death", aspect="equal")
    below_infinity = lowest + 0.95 * INFINITY_HEIGHT * (highest - lowest)
    candidates = np.asarray(MaxNLocator(5).tick_values(lowest, highest))
    ticks = candidates[(candidates >= lowest) & (candidates < below_infinity)]
    ax.set(xticks=ticks, yticks=ticks, xlim=(lowest, highest), ylim=(lowest, highest))


def _mark_infinity(ax: Axes) -> None:
    """The line on which bars without end are drawn, once per axes."""
    if not _has(ax, _INFINITY):
        ax.axline(
            (0, INFINITY_HEIGHT),
            slope=0,
            transform=ax.transAxes,
            color=NOISE,
            linewidth=0.8,
            linestyle=(0, (4, 3)),
            zorder=1,
            label=_INFINITY,
        )
        ax.annotate(
            "∞",
            (1, INFINITY_HEIGHT),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )


def _has(ax: Axes, label: str) -> bool:
    return any(line.get_label() == label for line in ax.lines)
