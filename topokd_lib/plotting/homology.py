"""Boundary matrices before and after reduction, a growing spanning tree, and what counting loops is worth."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from torch import Tensor

from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.barcodes import draw_barcode
from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.style import ACCENT, H0, H1, INK, NOISE, TEACHER, WIDTH
from topokd_lib.topology import minimum_spanning_tree

__all__ = [
    "barcodes_figure",
    "draw_matrix",
    "growing_tree_figure",
    "learning_curve_figure",
    "matrices_figure",
    "scores_figure",
]

Matrix = npt.NDArray[np.bool_]


def draw_matrix(ax: Axes, matrix: Matrix, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw a matrix of zeros and ones with named rows and columns, the lowest 1 of each column in a box.

    Args:
        ax: Loses its frame.
        matrix: True where there is a 1; a 0 is a dot.
        rows: A name for each row.
        columns: A name for each column.

    Raises:
        ValueError: If the names are not one each.
    """
    if matrix.shape != (len(rows), len(columns)):
        raise ValueError(
            f"a matrix of shape {matrix.shape} needs as many names, got {len(rows)} for the rows and "
            f"{len(columns)} for the columns"
        )
    for (row, column), entry in np.ndenumerate(matrix):
        ax.text(column, row, "1" if entry else "·", ha="center", va="center", color=INK if entry else NOISE)
    for column in np.flatnonzero(matrix.any(axis=0)):
        low = np.flatnonzero(matrix[:, column]).max()
        box = Rectangle((column - 0.38, low - 0.4), 0.76, 0.8, facecolor=ACCENT, alpha=0.4, gid="lowest")
        ax.add_patch(box)
    ax.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) - 0.4, -0.6))
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.set_aspect("equal")
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def matrices_figure(matrices: Mapping[str, Matrix], rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Matrices with the same rows and columns, such as a boundary matrix before and after reduction."""
    height = WIDTH / len(matrices) * (len(rows) + 1) / (len(columns) + 1) + 0.5
    figure, panels = plt.subplots(1, len(matrices), figsize=(WIDTH, height), squeeze=False)
    for ax, (name, matrix) in zip(panels[0], matrices.items(), strict=True):
        draw_matrix(ax, matrix, rows, columns)
        ax.set_title(name, loc="left", pad=10)
    return figure


def barcodes_figure(
    barcodes: Mapping[str, Sequence[Tensor | ArrayLike]], label: str, *, end: float
) -> Figure:
    """Barcodes one above the other on one axis, each a list of the bars of dimension 0, 1, ….

    Args:
        barcodes: Rows of birth and death per dimension, by the name of the panel.
        label: What the filtration value is.
        end: Right end of the axis.
    """
    figure, panels = plt.subplots(
        len(barcodes), 1, figsize=(WIDTH, 1.35 * len(barcodes) + 0.4), sharex=True, squeeze=False
    )
    for ax, (name, diagrams) in zip(panels[:, 0], barcodes.items(), strict=True):
        draw_barcode(ax, diagrams, end=end)
        ax.set(title=name, xlabel=label if ax is panels[-1, 0] else "")
    return figure


def growing_tree_figure(
    points: Tensor | ArrayLike, steps: Sequence[int], *, names: Sequence[str] | None = None
) -> Figure:
    """Kruskal's algorithm after some numbers of kept edges, above the barcode of dimension 0.

    Args:
        points: One point of the plane per row.
        steps: How many edges of the tree each panel shows.
        names: A text beside each point.
    """
    cloud = torch.as_tensor(as_rows(points, "points"))
    edges = cloud[minimum_spanning_tree(cloud[None])[0]]
    lengths = (edges[:, 0] - edges[:, 1]).norm(dim=1)
    figure = plt.figure(figsize=(WIDTH, WIDTH / len(steps) + 1.9))
    grid = figure.add_gridspec(2, len(steps), height_ratios=[WIDTH / len(steps), 1.6])
    for index, kept in enumerate(steps):
        ax = figure.add_subplot(grid[0, index])
        draw_cloud(ax, cloud, colour=INK, names=names)
        ax.add_collection(LineCollection(list(edges[:kept].numpy()), color=H0, linewidth=2, gid="tree"))
        ax.margins(0.14)
        ax.set(xticks=[], yticks=[], title=f"{kept} edge{'s' * (kept != 1)}")
        ax.spines[:].set_visible(False)
    below = figure.add_subplot(grid[1, :])
    bars = torch.stack(
        [torch.zeros(len(cloud)), torch.cat([lengths, lengths.new_tensor([torch.inf])])], dim=1
    )
    draw_barcode(below, [bars])
    for kept in steps:
        if 0 < kept < len(cloud) - 1:
            below.axvline(float(lengths[kept - 1]), color=ACCENT, zorder=0)
    return figure


def learning_curve_figure(
    sizes: Sequence[int], scores: Mapping[str, Sequence[Sequence[float]]], constant: Mapping[str, float]
) -> Figure:
    """Test accuracy against the number of labelled images, with what needs no labels as level lines.

    Args:
        sizes: Numbers of training images.
        scores: For each method and size, an accuracy per repetition; drawn as mean and standard deviation.
        constant: Accuracy of methods that are not trained.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.6 * WIDTH))
    for (name, values), colour in zip(scores.items(), (TEACHER, NOISE), strict=False):
        table = np.asarray(values)
        mean, deviation = table.mean(axis=1), table.std(axis=1, ddof=1)
        ax.errorbar(sizes, mean, yerr=deviation, color=colour, marker="o", capsize=2.5)
        ax.annotate(name, (sizes[-1], mean[-1]), xytext=(-2, 9), textcoords="offset points", ha="right")
    for (name, level), colour in zip(constant.items(), (H1, NOISE), strict=False):
        ax.axhline(level, color=colour, linestyle="-" if colour == H1 else "--")
        ax.annotate(name, (sizes[-1], level), xytext=(0, -13), textcoords="offset points", ha="right")
    ax.set_xscale("log")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.set(xlabel="labelled images", ylabel="test accuracy")
    return figure


def scores_figure(
    scores: Mapping[str, Mapping[str, Sequence[float]]], label: str, *, chance: float | None = None
) -> Figure:
    """Scores per condition and method: a dot for each repetition, an upright line at the mean.

    Args:
        scores: By condition, then by method; the last method is the one to look at.
        label: What the horizontal axis measures, from 0 to 1.
        chance: The level of guessing.
    """
    rows = [(condition, method) for condition, methods in scores.items() for method in methods]
    figure, panels = plt.subplots(
        len(scores), 1, figsize=(WIDTH, 0.55 * len(rows) + 0.45 * len(scores)), sharex=True, squeeze=False
    )
    for ax, (condition, methods) in zip(panels[:, 0], scores.items(), strict=True):
        names = list(methods)
        for place, name in enumerate(reversed(names)):
            values = np.asarray(methods[name])
            colour = ACCENT if name == names[-1] else NOISE
            ax.scatter(
                values, np.full(len(values), place), s=22, color=colour, alpha=0.8, linewidths=0, zorder=3
            )
            mean, deviation = values.mean(), values.std(ddof=1)
            ax.plot([mean, mean], [place - 0.25, place + 0.25], color=INK, linewidth=1.8, zorder=4)
            ax.annotate(
                f"{mean:.2f} ± {deviation:.2f}",
                (min(mean, 0.9), place + 0.25),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
            )
        if chance is not None:
            ax.axvline(chance, color=NOISE, linestyle="--", linewidth=0.8)
        ax.set(xlim=(0, 1.02), ylim=(-0.5, len(names) - 0.15), title=condition)
        ax.set_yticks(range(len(names)), names[::-1])
        ax.grid(visible=False, axis="y")
    panels[-1, 0].set_xlabel(label)
    return figure
