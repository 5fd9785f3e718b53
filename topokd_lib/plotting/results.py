"""Figures of results: every run is a dot, so that nobody mistakes a mean for a certainty."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from topokd_lib.plotting.style import INK, NOISE, STUDENT, WIDTH

__all__ = ["draw_runs", "plot_methods"]


def draw_runs(axes: Axes, runs: Mapping[str, Sequence[float]], *, title: str) -> None:
    """One row per method: a dot for each run, and a bar from mean − sd to mean + sd.

    Args:
        axes: Where to draw.
        runs: Values by method; the first is the baseline and drawn in grey.
        title: What the values are, with their unit.

    Raises:
        ValueError: If a method has no run.
    """
    empty = [method for method, values in runs.items() if not values]
    if empty or not runs:
        raise ValueError(f"every method needs at least one run, got none for: {', '.join(empty) or 'any'}")
    for row, values in enumerate(runs.values()):
        colour = NOISE if row == 0 else STUDENT
        mean = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.6, markeredgewidth=0)
        axes.plot([mean - spread, mean + spread], [row, row], color=colour, linewidth=2)
        axes.plot([mean], [row], "|", color=INK, markersize=14, markeredgewidth=2)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel(title)
    axes.grid(visible=False, axis="y")


def plot_methods(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Panels below each other, one per quantity, each as :func:`draw_runs` draws it.

    Args:
        panels: Runs by method, by title.

    Raises:
        ValueError: If there is no panel, or a method without a run.
    """
    if not panels:
        raise ValueError("a figure needs at least one panel of runs, got none")
    methods = max(len(runs) for runs in panels.values())
    figure, axes = plt.subplots(
        len(panels), figsize=(WIDTH, len(panels) * (0.45 * methods + 0.7)), squeeze=False
    )
    for panel, (title, runs) in zip(axes[:, 0], panels.items(), strict=True):
        draw_runs(panel, runs, title=title)
    return figure
