"""The Vietoris–Rips filtration: complexes at one scale and at several, beside barcode and diagram."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.barcodes import draw_barcode
from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.complexes import draw_simplices
from topokd_lib.plotting.diagrams import draw_diagram
from topokd_lib.plotting.style import H0, INK, WIDTH, small_multiples
from topokd_lib.topology import minimum_spanning_tree, rips_diagrams

__all__ = [
    "diagrams_figure",
    "draw_complex",
    "rips_figure",
    "scales_figure",
    "tree_figure",
]


def draw_complex(
    ax: Axes,
    points: Tensor | ArrayLike,
    epsilon: float,
    *,
    names: Sequence[str] | None = None,
    balls: bool = False,
) -> None:
    r"""Draw the vertices, edges and triangles that have entered the filtration at ``epsilon``.

    Args:
        ax: Gets equal units and no ticks.
        points: One point of the plane per row.
        epsilon: Edges up to this length are in, and triangles whose three edges are.
        names: A text beside each point.
        balls: Whether to draw balls of radius :math:`r = \varepsilon / 2`, which touch when an edge enters.

    Raises:
        ValueError: If the points are not rows of two finite numbers, or ``epsilon`` is negative.

    Example:
        Two sides of a 3-4-5 triangle are in at 4. The third, and the triangle, enter at 5.

        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_complex(ax, [(0, 0), (3, 0), (0, 4)], 4.0)
        >>> [(part.get_gid(), len(part.get_path().vertices) // 2) for part in ax.patches]
        [('edges', 2)]
    """
    if not epsilon >= 0:
        raise ValueError(f"a filtration begins at 0, got epsilon={epsilon}")
    rows = as_rows(points, "points")
    near = squareform(pdist(rows)) <= epsilon
    vertices = [(i,) for i in range(len(rows))]
    edges = [(i, j) for i, j in combinations(range(len(rows)), 2) if near[i, j]]
    triangles = [(i, j, k) for i, j in edges for k in range(j + 1, len(rows)) if near[i, k] and near[j, k]]
    draw_simplices(ax, rows, [*vertices, *edges, *triangles], names=names)
    if balls:
        circles = [Circle((x, y), epsilon / 2) for x, y in rows]
        ax.add_collection(
            PatchCollection(circles, facecolor=H0, alpha=0.1, linewidth=0, gid="balls", zorder=0)
        )


def scales_figure(
    points: Tensor | ArrayLike,
    scales: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    balls: bool = False,
) -> Figure:
    """The complex of the same points at several scales, two in a row, in the same units."""
    aspect = _aspect(as_rows(points, "points"))
    figure, panels = small_multiples(2, rows=-(-len(scales) // 2), aspect=aspect)
    for ax in panels[len(scales) :]:
        ax.remove()
    for ax, epsilon in zip(panels, scales, strict=False):
        draw_complex(ax, points, epsilon, names=names, balls=balls)
        ax.set_title(rf"$\varepsilon = {epsilon:g}$")
    return figure


def rips_figure(points: Tensor | ArrayLike, epsilon: float, *, names: Sequence[str] | None = None) -> Figure:
    """The complex at one scale, the diagram in dimensions 0 and 1, and the barcode with that scale marked."""
    diagrams = _diagrams(points)
    figure, panels = plt.subplot_mosaic(
        [["complex", "diagram"], ["barcode", "barcode"]],
        figsize=(WIDTH, 0.92 * WIDTH),
        height_ratios=[1.25, 1],
    )
    draw_complex(panels["complex"], points, epsilon, names=names, balls=True)
    panels["complex"].set_title(rf"complex at $\varepsilon = {epsilon:g}$")
    for dimension, pairs in enumerate(diagrams):
        draw_diagram(panels["diagram"], pairs, dimension=dimension, limits=_limits([diagrams]))
    panels["diagram"].set_title("diagram")
    draw_barcode(panels["barcode"], diagrams, epsilon=epsilon)
    panels["barcode"].set_title("barcode")
    return figure


def tree_figure(points: Tensor | ArrayLike, *, names: Sequence[str] | None = None) -> Figure:
    """A minimum spanning tree, and the barcode of dimension 0 whose bars are as long as its edges."""
    cloud = torch.as_tensor(as_rows(points, "points"))
    figure, (left, right) = small_multiples(2, aspect=0.9, share=False)
    draw_cloud(left, cloud, colour=INK, names=names)
    edges = cloud[minimum_spanning_tree(cloud[None])[0]]
    left.add_collection(LineCollection(list(edges.numpy()), color=H0, linewidth=2, gid="tree"))
    left.set(xticks=[], yticks=[], title="minimum spanning tree")
    left.spines[:].set_visible(False)
    draw_barcode(right, [_diagrams(cloud)[0]])
    right.set_title("its edges as bars")
    return figure


def diagrams_figure(clouds: Mapping[str, Tensor | ArrayLike]) -> Figure:
    """Clouds above, their diagrams in dimensions 0 and 1 below, each row with one range for all."""
    figure, panels = small_multiples(len(clouds), rows=2, share=False)
    diagrams = [_diagrams(cloud) for cloud in clouds.values()]
    everything = np.concatenate([as_rows(cloud, "points") for cloud in clouds.values()])
    margin = 0.08 * np.ptp(everything, axis=0)
    low, high = everything.min(axis=0) - margin, everything.max(axis=0) + margin
    above, below = panels[: len(clouds)], panels[len(clouds) :]
    for top, bottom, (name, cloud), both in zip(above, below, clouds.items(), diagrams, strict=True):
        draw_cloud(top, cloud)
        top.set(title=name, xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
        top.spines[:].set_visible(False)
        for dimension, pairs in enumerate(both):
            draw_diagram(bottom, pairs, dimension=dimension, limits=_limits(diagrams))
        if len(clouds) > 2:  # panels are narrow
            bottom.set(xticks=bottom.get_xticks()[::2], yticks=bottom.get_yticks()[::2])
        if bottom is not below[0]:
            bottom.set_ylabel("")
    return figure


def _aspect(rows: NDArray[np.float64]) -> float:
    """Height divided by width of what the points cover, kept within what a panel can show."""
    width, height = np.ptp(rows, axis=0)
    return float(np.clip((height + 0.16 * width) / (1.16 * width or 1.0), 0.4, 1.4))


def _diagrams(points: Tensor | ArrayLike) -> list[Tensor]:
    """Pairs in dimensions 0 and 1, with the component that never dies."""
    cloud = torch.as_tensor(as_rows(points, "points"))
    return [each[0] for each in rips_diagrams(cloud[None], dimensions=(0, 1), essential="keep")]


def _limits(diagrams: Sequence[Sequence[Tensor]]) -> tuple[float, float]:
    """One range for several diagrams, with room above for the bars that never end."""
    highest = max(float(pairs[pairs.isfinite()].max()) for both in diagrams for pairs in both if len(pairs))
    return -0.05 * highest, 1.2 * highest
