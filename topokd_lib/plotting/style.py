"""The house style: colours that mean the same on every page, and figures that fit it.

Figures are transparent vector graphics with text as outlines, so they look the same on every machine, a page
may invert them in dark mode, and two builds give the same bytes.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = [
    "ACCENT",
    "H0",
    "H1",
    "HOUSE_STYLE",
    "INK",
    "NOISE",
    "STUDENT",
    "TEACHER",
    "WIDTH",
    "dimension_colour",
    "save_figure",
    "small_multiples",
    "use_house_style",
]

TEACHER = "#0072B2"
"""Blue: the teacher."""
STUDENT = "#D55E00"
"""Vermilion: the student."""
NOISE = "#7F7F7F"
"""Grey: noise, background, whatever is not the point."""
H0 = "#009E73"
"""Bluish green: components."""
H1 = "#CC79A7"
"""Reddish purple: holes."""
ACCENT = "#E69F00"
"""Amber: the one thing to look at."""
INK = "#262626"
"""Text and axes."""

WIDTH = 5.6
"""Width of a figure in inches: 538 pixels on the page, and text still of 9 to 10 pixels on a phone of 390."""

HOUSE_STYLE: dict[str, object] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 11,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=[TEACHER, STUDENT, H0, H1, ACCENT, "#56B4E9", NOISE]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "none",
    "figure.figsize": (WIDTH, 3.4),
    "figure.titlesize": 12,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same outlines everywhere
    "font.size": 11,
    "grid.color": "#D9D9D9",
    "grid.linewidth": 0.6,
    "image.cmap": "viridis",
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "patch.linewidth": 0.8,
    "pdf.fonttype": 42,
    "savefig.bbox": "tight",
    "savefig.edgecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "topokd",
    "text.color": INK,
    "xtick.color": INK,
    "xtick.labelsize": 10,
    "ytick.color": INK,
    "ytick.labelsize": 10,
}
"""Every setting of the house style, by matplotlib's name."""

_UNDATED: dict[str, dict[str, None]] = {
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def use_house_style() -> None:
    """Draw in the house style from now on."""
    mpl.rcParams.update(HOUSE_STYLE)  # type: ignore[arg-type]


def dimension_colour(dimension: int) -> str:
    """Colour of homology in one dimension.

    Raises:
        ValueError: If the house style has none.
    """
    colours = (H0, H1, ACCENT)
    if not 0 <= dimension < len(colours):
        raise ValueError(
            f"homology has colours in dimensions 0 … {len(colours) - 1}, got {dimension}; pass a colour"
        )
    return colours[dimension]


def small_multiples(
    columns: int,
    rows: int = 1,
    *,
    aspect: float = 1.0,
    share: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, to be compared; by default they share both axes, so what looks larger is.

    More than three columns are hard to read on a phone.

    Args:
        columns: Panels beside each other.
        rows: Panels below each other.
        aspect: Height of a panel divided by its width.
        share: One range of values for all panels.

    Returns:
        The figure and its panels, row by row.
    """
    height = rows * (WIDTH / columns * aspect + 0.3)
    figure, panels = plt.subplots(
        rows, columns, figsize=(WIDTH, height), sharex=share, sharey=share, squeeze=False, layout="compressed"
    )
    return figure, list(np.ravel(panels))


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure, without a date, in the format that the suffix names; folders are made.

    Raises:
        ValueError: If matplotlib cannot write that format.
    """
    path = Path(path)
    if path.suffix[1:] not in figure.canvas.get_supported_filetypes():
        known = ", ".join(sorted(figure.canvas.get_supported_filetypes()))
        raise ValueError(f"cannot write a figure as {path.name!r}; give it one of the suffixes {known}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "topokd", "svg.fonttype": "path"}):
        figure.savefig(path, metadata=_UNDATED.get(path.suffix))
    return path
