"""What RipsNet draws, beside the exact image, and how calm it is."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.images import draw_image
from topokd_lib.plotting.style import ACCENT, INK, NOISE, TEACHER, WIDTH, small_multiples
from topokd_lib.topology import PersistenceImage, rips_diagrams

__all__ = ["clouds_and_images_figure", "estimates_figure", "robustness_figure"]


def clouds_and_images_figure(
    clouds: Mapping[str, Float[Tensor, "points 2"]], image: PersistenceImage, *, dimension: int = 1
) -> Figure:
    """Clouds above, the exact images of their diagrams below, in one range of brightness.

    Args:
        clouds: Points of the plane by title.
        image: How images are drawn.
        dimension: Homology dimension.
    """
    figure, axes = small_multiples(len(clouds), rows=2, share=False)
    drawn = [image(rips_diagrams(cloud[None], dimensions=(dimension,))[0])[0] for cloud in clouds.values()]
    brightest = max(float(picture.max()) for picture in drawn)
    for top, bottom, (title, cloud), picture in zip(
        axes[: len(clouds)], axes[len(clouds) :], clouds.items(), drawn, strict=True
    ):
        draw_cloud(top, cloud, colour=INK)
        top.set(xticks=[], yticks=[], title=title)
        top.spines[:].set_visible(False)
        draw_image(bottom, picture, image, dimension=dimension, highest=brightest)
    return figure


def estimates_figure(
    panels: Mapping[str, tuple[Float[Tensor, " pixels"], Float[Tensor, " pixels"]]],
    image: PersistenceImage,
    *,
    dimension: int = 1,
) -> Figure:
    """Exact images above, RipsNet's below, column by column in one range of brightness.

    Args:
        panels: Exact and estimated pixels by title.
        image: How images are drawn.
        dimension: Homology dimension, which chooses the colour.
    """
    figure, axes = small_multiples(len(panels), rows=2)
    rows = axes[: len(panels)], axes[len(panels) :]
    for column, (title, pair) in enumerate(panels.items()):
        brightest = float(torch.stack(list(pair)).max())
        for row, pixels in zip(rows, pair, strict=True):
            draw_image(
                row[column],
                pixels.reshape(image.resolution),
                image,
                dimension=dimension,
                highest=brightest,
            )
        rows[0][column].set_title(title)
    return figure


def robustness_figure(shares: Sequence[float], errors: Mapping[str, Sequence[float]]) -> Figure:
    """Errors of images, in units of the error of the mean image, against the share of replaced points."""
    figure, ax = plt.subplots(figsize=(0.85 * WIDTH, 0.5 * WIDTH))
    for (name, values), colour in zip(errors.items(), (TEACHER, ACCENT), strict=True):
        ax.plot([100 * share for share in shares], values, "-o", color=colour, linewidth=2, label=name)
    ax.axhline(1, color=NOISE, linestyle=(0, (4, 3)), linewidth=0.8)
    ax.annotate("always the mean image", (0, 1), xytext=(2, 3), textcoords="offset points", color=INK)
    ax.set(xlabel="points replaced, %", ylabel="error", ylim=(0, None))
    ax.legend(loc="center right")
    return figure
