"""Persistence images: the image itself, and the figures of the chapter about it."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from torch import Tensor

from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.diagrams import draw_diagram
from topokd_lib.plotting.style import ACCENT, INK, NOISE, WIDTH, dimension_colour, small_multiples
from topokd_lib.topology import PersistenceImage

__all__ = [
    "accuracies_figure",
    "bandwidth_and_resolution_figure",
    "cloud_to_image_figure",
    "confusable_profiles_figure",
    "draw_bars",
    "draw_image",
    "gradient_at_the_edge_figure",
    "identical_columns_figure",
    "image_with_numbers_figure",
    "short_bar_figure",
]

Image = Float[Tensor, "persistence birth"]


def draw_image(
    ax: Axes, values: Image, image: PersistenceImage, *, dimension: int = 1, highest: float | None = None
) -> None:
    """Draw a persistence image over its window, birth to the right and persistence upwards.

    Pixels of a density are centred at the nodes where it was sampled, so they reach half a pixel beyond the
    window. If the window has no width, the columns stand side by side without a scale.

    Args:
        ax: Gets the axes' names.
        values: What ``image`` made of one diagram.
        image: The conventions under which it did.
        dimension: Homology dimension, which chooses the hue; white is 0.
        highest: Value of the darkest colour, to compare images; ``None`` takes the largest pixel.

    Raises:
        ValueError: If ``values`` is not an image of the resolution of ``image``.
    """
    if tuple(values.shape) != image.resolution:
        raise ValueError(
            f"these conventions make images of {image.resolution} (persistence, birth) pixels, "
            f"got {tuple(values.shape)}; pass one image of a batch"
        )
    rows, columns = image.resolution
    flat = image.birth_range[0] == image.birth_range[1]
    ax.imshow(
        values.detach().cpu().numpy(),
        cmap=_ramp(dimension),
        vmin=0.0,
        vmax=highest,
        origin="lower",
        interpolation="nearest",
        aspect="auto",
        extent=(
            *((0.0, 1.0) if flat else _extent(image.birth_range, columns, image.value)),
            *_extent(image.persistence_range, rows, image.value),
        ),
    )
    ax.figure.set_dpi(200)  # sharp pixels inside the vector graphic
    ax.grid(visible=False)
    ax.set_box_aspect(1)
    ax.set(xlabel="birth", ylabel="persistence")
    if flat:
        ax.set_xticks([])
        ax.set_xlabel(f"birth (all {image.birth_range[0]:g})")


def draw_bars(ax: Axes, pairs: Float[Tensor, "bars 2"], *, dimension: int = 1) -> None:
    """Mark bars, given by birth and death, as points in birth–persistence coordinates."""
    births, deaths = pairs.detach().cpu().numpy().T
    ax.scatter(
        births,
        deaths - births,
        s=26,
        color=dimension_colour(dimension),
        edgecolors="white",
        linewidths=0.9,
        zorder=3,
        clip_on=False,
    )


def cloud_to_image_figure(
    cloud: Float[Tensor, "points 2"], pairs: Float[Tensor, "bars 2"], values: Image, image: PersistenceImage
) -> Figure:
    """A point cloud, its diagram in dimension 1, and the persistence image of that diagram."""
    figure, (left, middle, right) = small_multiples(3, share=False)
    figure.set_size_inches(WIDTH, 2.35)
    draw_cloud(left, cloud, size=8.0)
    draw_diagram(middle, pairs, dimension=1)
    draw_image(right, values, image)
    left.set_aspect("equal", adjustable="datalim")
    left.set_title(f"{len(cloud)} points")
    for ax in (left, middle, right):
        ax.set_box_aspect(1)
        ax.locator_params(nbins=3)
    middle.set_title(f"{len(pairs)} bars")
    right.set_title(f"{image.pixels} numbers")
    return figure


def image_with_numbers_figure(
    pairs: Float[Tensor, "bars 2"], values: Image, image: PersistenceImage
) -> Figure:
    """A small image with its value written in each pixel, and the bars that made it."""
    figure, ax = plt.subplots(figsize=(0.62 * WIDTH, 0.62 * WIDTH))
    draw_image(ax, values, image)
    draw_bars(ax, pairs)
    births = np.linspace(*image.birth_range, image.resolution[1])
    persistences = np.linspace(*image.persistence_range, image.resolution[0])
    for row, persistence in enumerate(persistences):
        for column, birth in enumerate(births):
            value = values[row, column].item()
            dark = value > 0.6 * values.max().item()
            ax.annotate(
                f"{value:.4g}",
                (birth, persistence),
                xytext=(0, 10),
                textcoords="offset points",
                ha="center",
                color="white" if dark else INK,
            )
    ax.set(xticks=births, yticks=persistences)
    return figure


def short_bar_figure(
    lengths: Sequence[float], changes: Mapping[str, Sequence[float]], bound: Sequence[float]
) -> Figure:
    """How much one bar changes the image as it becomes short, for several weights.

    Args:
        lengths: Persistence of the bar; its distance from the empty diagram is half of it.
        changes: Per weight, the sum of the pixels' absolute changes.
        bound: What the stability theorem allows for the weight that vanishes on the diagonal.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.5 * WIDTH))
    places = ((-1, 7), (-3, -15))  # which point is named, and how far above
    for (name, change), colour, (point, above) in zip(changes.items(), (ACCENT, INK), places, strict=True):
        ax.loglog(lengths, change, color=colour, marker="o")
        at = (lengths[point], change[point])
        ax.annotate(f"weight: {name}", at, xytext=(6, above), textcoords="offset points", color=INK)
    ax.loglog(lengths, bound, color=NOISE, linestyle="--")
    ax.annotate(
        "the theorem's bound",
        (lengths[-3], bound[-3]),
        xytext=(-6, 8),
        textcoords="offset points",
        ha="right",
        color=NOISE,
    )
    ax.set(xlabel="persistence of the bar", ylabel="change of the image")
    return figure


def bandwidth_and_resolution_figure(
    pairs: Float[Tensor, "bars 2"], images: Sequence[Sequence[tuple[Image, PersistenceImage]]]
) -> Figure:
    """One diagram under several bandwidths (rows) and resolutions (columns), with its bars on top."""
    figure, panels = small_multiples(len(images[0]), len(images))
    for index, (values, image) in enumerate(pair for row in images for pair in row):
        ax = panels[index]
        draw_image(ax, values, image)
        draw_bars(ax, pairs)
        ax.set_title(f"h = {image.bandwidth:g}, {image.resolution[0]}×{image.resolution[1]}", fontsize=9.5)
        if index % len(images[0]):
            ax.set_ylabel("")
        if index < len(panels) - len(images[0]):
            ax.set_xlabel("")
    return figure


def confusable_profiles_figure(
    persistences: Sequence[Sequence[float]],
    profiles: Mapping[float, Sequence[Float[Tensor, " pixels"]]],
    window: tuple[float, float],
) -> Figure:
    """Columns of the images of two diagrams, per bandwidth, above the bars that made them.

    Args:
        persistences: Of the bars of the first and of the second diagram.
        profiles: Per bandwidth, the column of the first and of the second image.
        window: Persistence range of the images.
    """
    figure, panels = small_multiples(len(profiles), share=False, aspect=0.85)
    for ax, (bandwidth, columns) in zip(panels, profiles.items(), strict=True):
        nodes = np.linspace(*window, len(columns[0]))
        highest = max(float(column.max()) for column in columns)
        for depth, (bars, column, colour, dashes) in enumerate(
            zip(persistences, columns, (ACCENT, INK), ("-", (0, (4, 3))), strict=True)
        ):
            ax.plot(nodes, column.numpy() / highest, color=colour, linestyle=dashes, linewidth=1.8)
            level = np.full(len(bars), -0.1 - 0.1 * depth)
            ax.scatter(bars, level, color=colour, s=18, marker="|", linewidths=2)
            if ax is panels[0]:
                ax.annotate(
                    f"{len(bars)} bars", (0.04, 0.92 - 0.1 * depth), xycoords="axes fraction", color=colour
                )
        ax.set(title=f"h = {bandwidth:g}", xlabel="persistence", ylim=(-0.28, 1.08), xlim=window)
        ax.set_yticks([0, 0.5, 1])
    panels[0].set_ylabel("pixel / largest")
    return figure


def accuracies_figure(scores: Mapping[str, Sequence[float]], chance: float) -> Figure:
    """Accuracies per representation: a dot for each repetition, a bar at the mean, the level of guessing."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.22 * WIDTH + 0.38 * len(scores)))
    for row, values in enumerate(reversed(list(scores.values()))):
        colour = ACCENT if row == len(scores) - 1 else NOISE
        rows = np.full(len(values), row)
        ax.scatter(values, rows, s=22, color=colour, alpha=0.8, linewidths=0, zorder=3, clip_on=False)
        mean, deviation = np.mean(values), np.std(values, ddof=1)
        ax.plot([mean, mean], [row - 0.22, row + 0.22], color=INK, linewidth=1.8, zorder=4)
        text = f"{mean:.2f} ± {deviation:.2f}"
        ax.annotate(text, (mean, row + 0.22), xytext=(0, 3), textcoords="offset points", ha="center")
    ax.axvline(chance, color=NOISE, linestyle="--", linewidth=0.8)
    ax.annotate("guessing", (chance, -0.42), xytext=(4, 0), textcoords="offset points", fontsize=9.5)
    ax.set(xlim=(0, 1), ylim=(-0.5, len(scores) - 0.25), xlabel="test accuracy")
    ax.set_yticks(range(len(scores)), list(scores)[::-1])
    ax.grid(visible=False, axis="y")
    return figure


def identical_columns_figure(
    deaths: Float[Tensor, " bars"], values: Image, image: PersistenceImage
) -> Figure:
    """An image of dimension 0 whose columns are all the same, and the one column, above the bars' lengths."""
    figure, (left, right) = small_multiples(2, share=False)
    draw_image(left, values, image, dimension=0)
    nodes = np.linspace(*image.persistence_range, image.resolution[0])
    right.plot(nodes, values[:, 0].detach().numpy(), color=dimension_colour(0), marker="o")
    right.scatter(
        deaths.detach().numpy(), np.full(len(deaths), -0.06), color=INK, marker="|", s=30, linewidths=0.8
    )
    right.set(xlabel="persistence", ylabel="pixel", title=f"{image.resolution[0]} numbers", box_aspect=1)
    left.set_title(f"{image.pixels} pixels")
    return figure


def gradient_at_the_edge_figure(
    scales: Sequence[float], gradients: Mapping[str, Sequence[float]], window: tuple[float, float]
) -> Figure:
    """Size of the gradient that reaches a cloud as it is shrunk or stretched out of the image's window.

    Args:
        scales: Factors by which the cloud is multiplied.
        gradients: Per loss, the norm of its gradient at each scale.
        window: The scales at which the mean bar lies inside the window.
    """
    figure, ax = plt.subplots(figsize=(WIDTH, 0.55 * WIDTH))
    ax.axvspan(*window, color=NOISE, alpha=0.15, linewidth=0)
    ax.annotate("mean bar\nin the window", (np.sqrt(window[0] * window[1]), 0.03), ha="center", fontsize=9.5,
                xycoords=("data", "axes fraction"))  # fmt: skip
    for (name, norms), colour in zip(gradients.items(), (ACCENT, INK), strict=True):
        ax.loglog(scales, norms, color=colour, marker="o")
        ax.annotate(name, (scales[0], norms[0]), xytext=(8, -3), textcoords="offset points", va="top")
    ax.set(xlabel="scale of the cloud", ylabel="norm of the gradient")
    return figure


def _extent(window: tuple[float, float], pixels: int, value: str) -> tuple[float, float]:
    """Outer edges of the pixels: densities are sampled at their centres, masses fill the window."""
    if value == "mass" or pixels == 1:
        return window
    half = (window[1] - window[0]) / (pixels - 1) / 2
    return window[0] - half, window[1] + half


def _ramp(dimension: int) -> Colormap:
    """From white through the colour of the dimension to a dark shade of it."""
    colour = dimension_colour(dimension)
    shade = {0: "#00352A", 1: "#3F1431"}.get(dimension, INK)
    return LinearSegmentedColormap.from_list(f"H{dimension}", ["#FFFFFF", colour, shade])
