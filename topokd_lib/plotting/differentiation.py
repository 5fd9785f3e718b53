"""Gradients of persistence: the points that they move, and what a descent makes of a cloud."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.style import ACCENT, INK, NOISE, STUDENT, TEACHER, small_multiples

__all__ = ["descent_figure", "draw_gradient", "fits_figure", "gradients_figure"]


def draw_gradient(
    ax: Axes,
    points: Tensor | ArrayLike,
    gradient: Tensor | ArrayLike,
    *,
    edges: Sequence[tuple[int, int]] = (),
    step: float = 1.0,
) -> None:
    """Draw points, some edges between them, and an arrow for each point that a descent would move.

    Args:
        ax: Gets equal units and no ticks.
        points: One point of the plane per row.
        gradient: Of a loss, one row per point; the arrows show the opposite direction.
        edges: Pairs of rows that are joined.
        step: Length of an arrow for a gradient of length 1.

    Raises:
        ValueError: If there is not one gradient for each point, or they are not rows of two numbers.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_gradient(ax, [(0, 0), (1, 0)], [(1, 0), (0, 0)])
        >>> len(ax.texts)
        1
    """
    rows, slopes = as_rows(points, "points"), as_rows(gradient, "gradients")
    if len(rows) != len(slopes):
        raise ValueError(f"every point needs a gradient, got {len(rows)} points and {len(slopes)} gradients")
    draw_cloud(ax, rows, colour=INK)
    ax.add_collection(
        LineCollection([rows[list(edge)] for edge in edges], color=ACCENT, linewidth=2, zorder=2)
    )
    for point, slope in zip(rows, slopes, strict=True):
        if np.any(slope):
            ax.annotate(
                "",
                point - step * slope,
                xytext=point,
                arrowprops={"arrowstyle": "->", "color": STUDENT, "linewidth": 1.4},
                zorder=4,
            )
    ends = np.concatenate([rows, rows - step * slopes])
    ax.update_datalim(ends)
    ax.autoscale_view()
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def gradients_figure(
    points: Tensor | ArrayLike,
    panels: Mapping[str, tuple[Tensor | ArrayLike, Sequence[tuple[int, int]]]],
    *,
    step: float = 1.0,
) -> Figure:
    """One cloud under several losses: in each panel the critical edges and the way of each point.

    Args:
        points: One point of the plane per row.
        panels: Gradient and edges by title; see :func:`draw_gradient`.
        step: Length of an arrow for a gradient of length 1.
    """
    figure, axes = small_multiples(len(panels), share=False)
    for ax, (title, (gradient, edges)) in zip(axes, panels.items(), strict=True):
        draw_gradient(ax, points, gradient, edges=edges, step=step)
        ax.set_title(title)
    return figure


def descent_figure(snapshots: Mapping[str, Tensor | ArrayLike]) -> Figure:
    """A cloud at several moments of a descent, in the same units; the first stays as a shadow."""
    figure, axes = small_multiples(len(snapshots))
    first = next(iter(snapshots.values()))
    for ax, (title, cloud) in zip(axes, snapshots.items(), strict=True):
        draw_cloud(ax, first, colour=NOISE)
        draw_cloud(ax, cloud, colour=STUDENT)
        ax.set(title=title, xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure


def fits_figure(panels: Mapping[str, Mapping[str, Tensor]], teacher: Tensor, start: str) -> Figure:
    """Deaths before and after a descent, rank by rank, beside the teacher's; one panel per loss.

    Args:
        panels: For each loss, sorted deaths by name of the student, the start among them.
        teacher: Its sorted deaths.
        start: Name of the deaths before the descent, drawn in grey.
    """
    figure, axes = small_multiples(len(panels), aspect=0.9)
    ranks = np.arange(1, len(teacher) + 1)
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        ax.plot(ranks, np.asarray(teacher), color=TEACHER, linewidth=2, label="teacher")
        for name, deaths in curves.items():
            colour, dashes = (NOISE, "-") if name == start else (STUDENT, (0, (5, 2)))
            ax.plot(ranks, np.asarray(deaths), color=colour, linestyle=dashes, linewidth=2, label=name)
        ax.set(title=title, xlabel="bar, the shortest first", ylim=(0, None))
    axes[0].set_ylabel("death")
    axes[-1].legend(loc="best")
    return figure
