"""Figures of topology in distillation: what the teacher's cloud and the student's have in common."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from torch import Tensor

from topokd_lib.plotting.style import NOISE, STUDENT, TEACHER, WIDTH, small_multiples
from topokd_lib.topology import PersistenceImage, h0_deaths, minimum_spanning_tree, rips_diagrams

__all__ = ["deaths_figure", "draw_classes", "free_cloud_figure", "gaps_figure", "profiles_figure"]

Deaths = Float[Tensor, " bars"]
Profile = Float[Tensor, " rows"]

_ROLES = (("teacher", TEACHER, "-"), ("student", STUDENT, (0, (5, 2))))


def deaths_figure(panels: Mapping[str, tuple[Deaths, Deaths]]) -> Figure:
    """Sorted H0 deaths of teacher and student, rank by rank; one panel per unit.

    Args:
        panels: Deaths of the teacher and of the student, ascending, by the unit that they are in.
    """
    figure, axes = small_multiples(len(panels), aspect=0.9, share=False)
    for ax, (unit, pair) in zip(axes, panels.items(), strict=True):
        for (role, colour, dashes), deaths in zip(_ROLES, pair, strict=True):
            ranks = np.arange(1, len(deaths) + 1)
            ax.plot(ranks, deaths.detach().numpy(), color=colour, linestyle=dashes, linewidth=2, label=role)
        ax.set(xlabel="bar, the shortest first", title=unit, ylim=(0, None))
    axes[0].set_ylabel("death")
    axes[0].legend(loc="upper left")
    return figure


def gaps_figure(
    teacher: Float[Tensor, "points 1"], student: Float[Tensor, "points 1"], image: PersistenceImage
) -> Figure:
    """Two clouds on a line above the profiles of their images, with the pixels as dots.

    Args:
        teacher: Its points, from left to right.
        student: The same.
        image: Conventions; the smooth curves are the same image with many rows and a wider range.
    """
    figure, (above, below) = plt.subplots(
        2, figsize=(0.8 * WIDTH, 0.72 * WIDTH), height_ratios=[1, 2.2], squeeze=True
    )
    first, last = image.persistence_range
    wide = replace(image, persistence_range=(first - 1.0, last + 1.0), resolution=(121, 1))
    for height, (role, colour, dashes), cloud in zip((1, 0), _ROLES, (teacher, student), strict=True):
        places = cloud[:, 0].detach().numpy()
        above.plot(places, np.full(len(places), height), "-o", color=colour, markersize=7)
        above.annotate(role, (places[0], height), xytext=(-12, 0), textcoords="offset points", ha="right",
                       va="center", color=colour)  # fmt: skip
        for left, right in pairwise(places):
            above.annotate(f"{right - left:g}", ((left + right) / 2, height), xytext=(0, 5),
                           textcoords="offset points", ha="center")  # fmt: skip
        (diagrams,) = rips_diagrams(cloud[None].detach())
        curve, pixels = wide(diagrams)[0, :, 0], image(diagrams)[0, :, 0]
        below.plot(np.linspace(first - 1, last + 1, 121), curve.numpy(), color=colour, linestyle=dashes)
        below.plot(np.linspace(first, last, len(pixels)), pixels.numpy(), "o", color=colour, markersize=7)
    lowest, highest = (f(teacher.min().item(), student.min().item(), teacher.max().item(),
                         student.max().item()) for f in (min, max))  # fmt: skip
    above.set(xlim=(lowest - 0.35 * (highest - lowest), highest + 0.1), ylim=(-0.5, 1.7))
    above.axis("off")
    below.set(xlabel="persistence", ylabel="pixel", ylim=(0, None))
    return figure


def profiles_figure(
    panels: Mapping[str, tuple[Profile, Profile]], persistence_range: tuple[float, float]
) -> Figure:
    """Columns of the images of teacher and student, one panel for each way to obtain them.

    Args:
        panels: The teacher's and the student's column by what made them.
        persistence_range: Of the images.
    """
    figure, axes = small_multiples(len(panels), aspect=0.85)
    for ax, (title, pair) in zip(axes, panels.items(), strict=True):
        for (role, colour, dashes), column in zip(_ROLES, pair, strict=True):
            nodes = np.linspace(*persistence_range, len(column))
            ax.plot(nodes, column.detach().numpy(), color=colour, linestyle=dashes, linewidth=2, label=role)
        ax.set(xlabel="persistence", title=title)
    axes[0].set_ylabel("pixel")
    axes[0].legend(loc="upper right")
    return figure


def free_cloud_figure(
    teacher: Float[Tensor, "points 2"],
    snapshots: Mapping[int, Float[Tensor, "points 2"]],
    labels: Int[Tensor, " points"],
) -> Figure:
    """A cloud of free points at some steps of its descent beside the cloud whose bars it copies.

    Each point is drawn as the class of its image, joined by the minimum spanning tree. Below, sorted H0
    deaths of the teacher and of the first and the last snapshot.

    Args:
        teacher: Its cloud.
        snapshots: The student's cloud by step; three of them fill the figure.
        labels: Class of each image, in the order of the points of every cloud.

    Raises:
        ValueError: If there are not three snapshots.
    """
    if len(snapshots) != 3:
        raise ValueError(f"the figure holds three snapshots beside the teacher, got {len(snapshots)}")
    figure, axes = plt.subplot_mosaic(
        [["0", "1"], ["2", "3"], ["deaths", "deaths"]],
        figsize=(WIDTH, 1.45 * WIDTH),
        height_ratios=[1, 1, 0.75],
    )
    draw_classes(axes["0"], teacher, labels, colour=TEACHER)
    axes["0"].set_title("teacher")
    for place, (step, cloud) in zip("123", snapshots.items(), strict=True):
        draw_classes(axes[place], cloud, labels, colour=STUDENT)
        axes[place].set_title(f"student, step {step}")
    below, steps = axes["deaths"], list(snapshots)
    ranks = np.arange(1, len(teacher))
    curves = (
        ("teacher", teacher, TEACHER, "-", 4.0, 0.45),
        (f"student, step {steps[0]}", snapshots[steps[0]], NOISE, ":", 2.0, 1.0),
        (f"student, step {steps[-1]}", snapshots[steps[-1]], STUDENT, (0, (5, 2)), 2.0, 1.0),
    )
    for name, cloud, colour, dashes, width, alpha in curves:
        deaths = h0_deaths(cloud.detach()[None])[0].numpy()
        below.plot(ranks, deaths, color=colour, linestyle=dashes, linewidth=width, alpha=alpha, label=name)
    below.set(xlabel="bar, the shortest first", ylabel="death", ylim=(0, None))
    below.legend(loc="upper left")
    return figure


def draw_classes(
    ax: Axes, cloud: Float[Tensor, "points 2"], labels: Int[Tensor, " points"], *, colour: str
) -> None:
    """A cloud whose points are the numbers of their classes, with its minimum spanning tree."""
    points = cloud.detach()
    edges = points[minimum_spanning_tree(points[None])[0]]
    ax.add_collection(LineCollection(list(edges.numpy()), color=NOISE, linewidth=0.8, gid="tree"))
    for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True):
        ax.text(x, y, str(label), color=colour, fontsize=9.5, weight="bold", ha="center", va="center")
    low, high = points.min(dim=0).values, points.max(dim=0).values
    middle, half = (low + high) / 2, 0.58 * float((high - low).max())
    ax.set(
        xlim=(float(middle[0]) - half, float(middle[0]) + half),
        ylim=(float(middle[1]) - half, float(middle[1]) + half),
        xticks=[],
        yticks=[],
        aspect="equal",
    )
    ax.spines[:].set_visible(False)
