"""Signals and pictures below a rising level, beside their bars and diagrams."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from torch import Tensor

from topokd_lib.plotting.diagrams import draw_diagram
from topokd_lib.plotting.style import ACCENT, H0, INK, NOISE, WIDTH, small_multiples
from topokd_lib.topology import cubical_diagrams, signal_diagrams

__all__ = ["draw_sublevel", "levels_figure", "pictures_figure", "signal_figure"]

Picture = Float[Tensor, "height width"]


def draw_sublevel(ax: Axes, image: Picture, level: float) -> None:
    """Draw a picture in grey, its pixels of at most ``level`` in amber, darker where the picture is darker.

    Example:
        >>> from matplotlib.figure import Figure
        >>> ax = Figure().subplots()
        >>> draw_sublevel(ax, torch.tensor([[0.0, 1.0], [0.2, 0.6]]), 0.5)
        >>> len(ax.images)
        2
    """
    values = image.detach().numpy()
    low, high = float(values.min()), float(values.max())
    ax.imshow(values, cmap="gray", vmin=low, vmax=high)
    inside = np.where(values > level, np.nan, values)  # what is not a number stays as it is below
    shades = [tuple(strength * c for c in to_rgb(ACCENT)) for strength in np.linspace(0.55, 1, 64)]
    ax.imshow(inside, cmap=ListedColormap(shades), vmin=low, vmax=max(level, low + 1e-9))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def levels_figure(image: Picture, levels: Sequence[float]) -> Figure:
    """The sublevel sets of one picture at several levels, two in a row."""
    figure, axes = small_multiples(2, rows=-(-len(levels) // 2), aspect=0.75)
    for ax in axes[len(levels) :]:
        ax.remove()
    for ax, level in zip(axes, levels, strict=False):
        draw_sublevel(ax, image, level)
        ax.set_title(rf"$\varepsilon = {level:g}$")
    return figure


def signal_figure(signal: Float[Tensor, " samples"]) -> Figure:
    """A signal as a landscape; every bar stands at its minimum and ends at the level where it dies."""
    figure, ax = plt.subplots(figsize=(0.8 * WIDTH, 0.45 * WIDTH))
    values = signal.detach().numpy()
    ax.plot(values, "-o", color=INK, zorder=2)
    top = float(values.max()) + 0.12 * float(np.ptp(values))
    for birth, death in signal_diagrams(signal[None], essential="keep")[0].tolist():
        place = int(np.flatnonzero(values == birth)[0])
        if np.isinf(death):
            arrow = {"arrowstyle": "->", "color": H0, "linewidth": 3}
            ax.annotate("", (place, top), xytext=(place, birth), arrowprops=arrow)
        else:
            ax.plot([place, place], [birth, death], color=H0, linewidth=3, zorder=3)
            ax.axhline(death, color=NOISE, linestyle=(0, (4, 3)), linewidth=0.8, zorder=1)
    ax.set(xlabel="sample", ylabel="value", ylim=(None, top), xticks=range(len(values)))
    return figure


def pictures_figure(
    images: Mapping[str, Picture], *, construction: Literal["vertices", "top-cells"]
) -> Figure:
    """Pictures above, their diagrams in dimensions 0 and 1 below, all in one range.

    Args:
        images: Pictures of one size by title.
        construction: See :func:`~topokd_lib.topology.cubical_diagrams`.
    """
    stack = torch.stack(list(images.values()))
    both = cubical_diagrams(stack, construction=construction)
    limits = (float(stack.min()), float(stack.max()))
    figure, axes = small_multiples(len(images), rows=2, share=False)
    above, below = axes[: len(images)], axes[len(images) :]
    for i, (top, bottom, (title, image)) in enumerate(zip(above, below, images.items(), strict=True)):
        top.imshow(image.detach().numpy(), cmap="gray", vmin=limits[0], vmax=limits[1])
        top.set(xticks=[], yticks=[], title=title)
        top.spines[:].set_visible(False)
        for dimension, diagrams in enumerate(both):
            draw_diagram(bottom, diagrams[i], dimension=dimension, limits=limits, label="")
        ticks = np.linspace(*limits, 3)  # panels are narrow
        bottom.set(xticks=ticks, yticks=ticks)
        if i:
            bottom.set_ylabel("")
    return figure
