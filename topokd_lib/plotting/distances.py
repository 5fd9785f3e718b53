"""Distances between diagrams: who is matched to whom, and how far a shaken cloud moves its diagram."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.diagrams import draw_diagram
from topokd_lib.plotting.style import ACCENT, INK, NOISE, dimension_colour, small_multiples
from topokd_lib.topology import PersistenceDiagrams, optimal_matching, rips_diagrams

__all__ = ["bound_figure", "draw_matching", "matchings_figure", "stability_figure"]


def draw_matching(
    ax: Axes,
    first: Tensor | ArrayLike,
    second: Tensor | ArrayLike,
    *,
    dimension: int = 1,
    order: float = 1.0,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw two diagrams, the first as rings and the second as dots, and the steps of the best matching.

    Args:
        ax: Becomes square, with the diagonal.
        first: Finite rows (birth, death).
        second: Finite rows (birth, death).
        dimension: Homology dimension, which chooses the colour.
        order: Of the Wasserstein distance that is smallest for this matching.
        limits: See :func:`~topokd_lib.plotting.diagrams.draw_diagram`.

    Raises:
        ValueError: If the pairs are not finite rows of two numbers.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_matching(ax, [(0, 4), (1, 2)], [(0.5, 4.5)])
        >>> len(ax.collections[-1].get_segments())
        2
    """
    one, other = as_rows(first, "persistence pairs"), as_rows(second, "persistence pairs")
    every = np.concatenate([one, other])
    if limits is None and len(every):
        limits = (float(every.min()), float(every.max()))
    diagrams = [PersistenceDiagrams.from_list([torch.tensor(bars)], dimension) for bars in (one, other)]
    (matching,) = optimal_matching(*diagrams, order=order)
    draw_diagram(ax, other, dimension=dimension, label="", limits=limits)
    _draw_rings(ax, one, dimension_colour(dimension))
    steps = [(_end(one, i, other, j), _end(other, j, one, i)) for i, j in matching.tolist()]
    ax.add_collection(LineCollection(steps, color=ACCENT, linewidth=2, zorder=2))


def _draw_rings(ax: Axes, bars: NDArray[np.float64], colour: str) -> None:
    ax.scatter(bars[:, 0], bars[:, 1], s=46, facecolors="none", edgecolors=colour, linewidths=1.2, zorder=3)


def _end(bars: NDArray[np.float64], i: int, partners: NDArray[np.float64], j: int) -> tuple[float, float]:
    """A bar, or the point of the diagonal that is nearest to its partner."""
    birth, death = bars[i] if i >= 0 else (partners[j].mean(), partners[j].mean())
    return float(birth), float(death)


def matchings_figure(
    panels: Mapping[str, tuple[Tensor | ArrayLike, Tensor | ArrayLike]], *, dimension: int = 1
) -> Figure:
    """The best matching of each pair of diagrams, in panels of one range."""
    figure, axes = small_multiples(len(panels), share=True)
    every = np.concatenate([as_rows(bars, "persistence pairs") for pair in panels.values() for bars in pair])
    limits = (float(every.min()), float(every.max()))
    for ax, (title, (first, second)) in zip(axes, panels.items(), strict=True):
        draw_matching(ax, first, second, dimension=dimension, limits=limits)
        ax.set_title(title)
    return figure


def stability_figure(points: Tensor | ArrayLike, moved: Tensor | ArrayLike) -> Figure:
    r"""A cloud and a shaken copy, and their diagrams with the squares that the stability theorem allows.

    A square reaches :math:`2 \delta` to every side of a bar of the first cloud, where :math:`\delta` is the
    longest way that a point has moved.
    """
    one, other = (torch.as_tensor(as_rows(cloud, "points")) for cloud in (points, moved))
    delta = float((one - other).norm(dim=1).max())
    figure, (left, right) = small_multiples(2, share=False)
    ways = LineCollection(list(torch.stack([one, other], dim=1).numpy()), color=NOISE, linewidth=1)
    left.add_collection(ways)
    draw_cloud(left, one, colour=NOISE)
    draw_cloud(left, other, colour=INK)
    left.set(xticks=[], yticks=[], title=rf"moved by $\delta = {delta:.2g}$")
    left.spines[:].set_visible(False)
    diagrams = [
        [each[0].numpy() for each in rips_diagrams(cloud[None], dimensions=(0, 1))] for cloud in (one, other)
    ]
    highest = max(float(bars.max()) for both in diagrams for bars in both if len(bars))
    for dimension, (before, after) in enumerate(zip(*diagrams, strict=True)):
        colour = dimension_colour(dimension)
        for birth, death in before:
            corner = (birth - 2 * delta, death - 2 * delta)
            right.add_patch(Rectangle(corner, 4 * delta, 4 * delta, facecolor=colour, alpha=0.1, linewidth=0))
        _draw_rings(right, before, colour)
        limits = (-2 * delta, highest + 2 * delta)
        draw_diagram(right, after, dimension=dimension, limits=limits)
    right.set_title("squares of the bound")
    return figure


def bound_figure(deltas: Sequence[float], distances: Mapping[str, Sequence[float]]) -> Figure:
    """Bottleneck distances against how far points moved, below the line of the bound, one panel per name."""
    figure, panels = small_multiples(len(distances), aspect=0.8)
    for dimension, (ax, (name, values)) in enumerate(zip(panels, distances.items(), strict=True)):
        ends = np.array([0.0, max(deltas)])
        ax.plot(ends, 2 * ends, color=NOISE)
        ax.text(0.94 * ends[1], 2 * ends[1], r"$2\delta$", ha="right", va="center")
        ax.scatter(deltas, values, s=14, color=dimension_colour(dimension), linewidths=0, alpha=0.8)
        ax.set(title=name, xlabel=r"points moved by $\delta$")
    panels[0].set_ylabel("bottleneck distance")
    return figure
