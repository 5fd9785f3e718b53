"""How runs went, and what their accuracy costs."""

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from topokd_lib.plotting.style import INK, NOISE, STUDENT, WIDTH

__all__ = ["pareto_front", "plot_curves", "plot_pareto"]


def plot_curves(runs: Mapping[str, Sequence[float]], *, title: str = "test accuracy, %") -> Figure:
    """One line for each run over its epochs, named where it ends.

    Args:
        runs: A value after each epoch, by name; runs may differ in length.
        title: What the values are.

    Raises:
        ValueError: If there is no run, or one without an epoch.
    """
    empty = [name for name, values in runs.items() if not values]
    if empty or not runs:
        raise ValueError(
            f"curves need at least one epoch of each run, got none for: {', '.join(empty) or 'any'}"
        )
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    for name, values in runs.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.2)
    axes.set_xlabel("epoch")
    axes.set_ylabel(title)
    axes.legend(fontsize="small")
    return figure


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points that no other one beats: none is both cheaper (or as cheap) and better.

    Args:
        points: Cost and value by name.

    Example:
        >>> pareto_front({"slow": (9.0, 70.0), "quick": (1.0, 69.0), "bad": (5.0, 68.0)})
        ['quick', 'slow']
    """
    front: list[str] = []
    best = float("-inf")
    for name, (_, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if value > best:
            front.append(name)
            best = value
    return front


def plot_pareto(points: Mapping[str, tuple[float, float]], *, cost: str, value: str) -> Figure:
    """Each method as a dot over its cost; a line joins those that no other one beats.

    Args:
        points: Cost and value by name.
        cost: What the cost is, with its unit.
        value: Likewise.

    Raises:
        ValueError: If there is no point.
    """
    if not points:
        raise ValueError("a figure of costs needs at least one method, got none")
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    front = pareto_front(points)
    axes.plot(*zip(*(points[name] for name in front), strict=True), color=NOISE, linewidth=1.2, zorder=0)
    for name, point in points.items():
        axes.plot(*point, "o", color=STUDENT if name in front else NOISE)
        axes.annotate(name, point, xytext=(5, 4), textcoords="offset points", fontsize="small", color=INK)
    axes.set_xlabel(cost)
    axes.set_ylabel(value)
    axes.margins(x=0.15, y=0.15)
    return figure
