"""Simplicial complexes in the plane and on the pixels of an image, and the simplex of probabilities."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import ArrayLike
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.style import ACCENT, H1, INK, NOISE, STUDENT, TEACHER, small_multiples
from topokd_lib.topology.complexes import Simplex

__all__ = [
    "complexes_figure",
    "draw_simplices",
    "pixel_complexes_figure",
    "probability_simplex_figure",
]

_MANY_TRIANGLES = 500
"""From here on triangles are drawn as pixels: thousands of outlines make a page slow to load."""


def draw_simplices(
    ax: Axes,
    points: Tensor | ArrayLike,
    simplices: Sequence[Simplex],
    *,
    names: Sequence[str] | None = None,
    chain: Sequence[Simplex] = (),
    size: float = 14.0,
) -> None:
    """Draw vertices, edges and filled triangles of a complex.

    Args:
        ax: Gets equal units and no ticks.
        points: One point of the plane per vertex number. Points that are no vertices are left out.
        simplices: What to draw; of dimension 3 and above, the edges and triangles are seen.
        names: A text beside each point.
        chain: Edges to draw on top, in the colour of loops.
        size: Area of a vertex in square points.

    Raises:
        ValueError: If the points are not rows of two finite numbers, or a vertex has no point.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_simplices(ax, [(0, 0), (1, 0)], [(0,), (1,), (0, 1)])
        >>> [(part.get_gid(), len(part.get_path().vertices) // 2) for part in ax.patches]
        [('edges', 1)]
    """
    rows = as_rows(points, "points")
    last = max((simplex[-1] for simplex in simplices), default=-1)
    if last >= len(rows):
        raise ValueError(f"vertex {last} has no point to be drawn at; there are {len(rows)} points")
    vertices, edges, triangles = ([s for s in simplices if len(s) == number] for number in (1, 2, 3))
    shown = [vertex for (vertex,) in vertices]
    draw_cloud(ax, rows[shown], colour=INK, names=names and [names[v] for v in shown], size=size)
    # One flat tint: overlapping triangles must not look like more than one.
    faces = PolyCollection(
        [rows[list(t)] for t in triangles], facecolor="#DCDCDC", linewidth=0, gid="triangles"
    )
    faces.set_zorder(1)
    faces.set_rasterized(len(triangles) > _MANY_TRIANGLES)
    ax.add_collection(faces)
    # All edges are one path: it takes a third of the bytes of a path for each.
    for part, colour, width, gid in (
        (edges, INK, 0.9 if len(edges) < 100 else 0.3, "edges"),
        (chain, H1, 2.6, "chain"),
    ):
        if part or gid == "edges":
            ends = rows[np.array(part, dtype=int).reshape(-1)]
            path = Path(ends, [Path.MOVETO, Path.LINETO] * len(part))
            outline = PathPatch(path, edgecolor=colour, facecolor="none", linewidth=width, gid=gid, zorder=2)
            ax.add_patch(outline)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def complexes_figure(
    points: Tensor | ArrayLike,
    complexes: Mapping[str, Sequence[Simplex]],
    *,
    names: Sequence[str] | None = None,
    chains: Mapping[str, Sequence[Simplex]] | None = None,
    columns: int = 2,
) -> Figure:
    """Complexes on the same points, side by side under their names.

    Args:
        points: One point of the plane per vertex number.
        complexes: What to draw in each panel.
        names: A text beside each point.
        chains: Edges to draw in the colour of loops, by the name of the panel.
        columns: Panels in a row; more than three are hard to read on a phone.
    """
    rows = as_rows(points, "points")
    width, height = np.ptp(rows, axis=0)
    outwards = rows - rows.mean(axis=0)
    outwards[np.linalg.norm(outwards, axis=1) < 1e-6 * width] = (0.0, 1.0)  # in the middle: upwards
    outwards /= np.linalg.norm(outwards, axis=1, keepdims=True)
    aspect = float(np.clip((height + 0.16 * width) / (1.16 * width or 1.0), 0.4, 1.2))
    figure, panels = small_multiples(columns, rows=-(-len(complexes) // columns), aspect=aspect)
    for ax in panels[len(complexes) :]:
        ax.remove()
    for ax, (name, simplices) in zip(panels, complexes.items(), strict=False):
        draw_simplices(ax, rows, simplices, chain=(chains or {}).get(name, ()), size=22.0)
        for text, place, away in zip(names or (), rows, outwards, strict=False):
            ax.annotate(
                text,
                (place[0], place[1]),
                xytext=tuple((7 + 2 * len(text)) * away),
                textcoords="offset points",
                ha="center",
                va="center",
                color=INK,
            )
        ax.margins(0.2)
        ax.set_title(name)
    return figure


def pixel_complexes_figure(
    images: Mapping[str, Float[Tensor, "height width"]],
    complexes: Sequence[Sequence[Simplex]],
    *,
    chains: Sequence[Sequence[Simplex]] | None = None,
    columns: int = 3,
) -> Figure:
    """Images in grey, with the complexes on their bright pixels drawn over them.

    Args:
        images: Brightness per pixel, by the name of the panel.
        complexes: For each image simplices of :func:`~topokd_lib.topology.complexes.triangulated_grid`. All
            panels show the same part of the image, that in which there are any.
        chains: For each image edges to draw in the colour of loops.
        columns: Panels in a row.
    """
    figure, panels = small_multiples(columns, rows=-(-len(images) // columns))
    for ax in panels[len(images) :]:
        ax.remove()
    pixels = {vertex for simplices in complexes for simplex in simplices for vertex in simplex}
    for index, (ax, (name, image)) in enumerate(zip(panels, images.items(), strict=False)):
        height, width = image.shape
        places = [(column, row) for row in range(height) for column in range(width)]
        chain = chains[index] if chains else ()
        draw_simplices(ax, places, complexes[index], chain=chain, size=180 / (columns * width))
        seen = np.array([places[vertex] for vertex in pixels] or places)
        (left, top), (right, bottom) = seen.min(axis=0) - 1.5, seen.max(axis=0) + 1.5
        ax.imshow(image.numpy(), cmap="gray_r", interpolation="nearest", alpha=0.35, zorder=0)
        ax.figure.set_dpi(200)  # sharp pixels inside the vector graphic
        ax.set(xlim=(left, right), ylim=(bottom, top), title=name)
    return figure


def probability_simplex_figure(
    probabilities: Mapping[str, Float[Tensor, "images 3"]],
    classes: Sequence[str],
    labels: Sequence[int],
) -> Figure:
    """Probabilities of three classes as points of a triangle, whose corners are certainty.

    Args:
        probabilities: One row per image, summing to 1, by the name of the panel.
        classes: Names of the corners.
        labels: True class of each image, which chooses colour and marker.
    """
    figure, panels = small_multiples(len(probabilities))
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    above = np.array([-0.11, -0.11, 0.04])
    truth = np.asarray(labels)
    for ax, (name, rows) in zip(panels, probabilities.items(), strict=True):
        ax.add_patch(PathPatch(Path(corners[[0, 1, 2, 0]]), edgecolor=INK, facecolor="none"))
        places = rows.detach().numpy() @ corners
        for index, (colour, marker) in enumerate(((TEACHER, "o"), (STUDENT, "^"), (NOISE, "s"))):
            chosen = places[truth == index]
            ax.scatter(
                chosen[:, 0],
                chosen[:, 1],
                s=13,
                color=colour,
                marker=marker,
                alpha=0.75,
                linewidths=0,
                clip_on=False,
            )
        for corner, shift, text in zip(corners, above, classes, strict=True):
            ax.annotate(text, (corner[0], corner[1] + shift), ha="center", color=INK)
        ax.scatter([0.5], [corners[:, 1].mean()], marker="+", s=50, color=ACCENT, linewidths=1.4, zorder=4)
        ax.set(xlim=(-0.08, 1.08), ylim=(-0.16, 1.0), xticks=[], yticks=[], title=name)
        ax.set_aspect("equal", adjustable="box")
        ax.spines[:].set_visible(False)
    return figure
