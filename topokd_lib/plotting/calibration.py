"""Reliability diagrams: how often a network is right, given how sure it says it is."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from topokd_lib.plotting.style import ACCENT, INK, NOISE, STUDENT

__all__ = ["draw_reliability"]


def draw_reliability(
    ax: Axes,
    *,
    edges: Sequence[float],
    counts: Sequence[int],
    confidence: Sequence[float],
    accuracy: Sequence[float],
    colour: str = STUDENT,
) -> None:
    """Accuracy in each bin of confidence; on the diagonal a network is as good as its word.

    Bars are as wide as their bins, and the more images a bin holds, the less transparent its bar. The line
    from a bar's end to the diagonal is the gap that the expected calibration error (in the title) averages.

    Args:
        ax: Gets both axes from 0 to 1.
        edges: Where bins begin and end, one more than there are bins.
        counts: Images in each bin.
        confidence: Their mean confidence; ignored where a bin is empty.
        accuracy: Share of them that is right; likewise.
        colour: Of the bars.

    Raises:
        ValueError: If there are no images, or lengths do not fit.

    Example:
        >>> import torch
        >>> from matplotlib import pyplot as plt
        >>> from topokd_lib.analysis import measure_calibration
        >>> logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
        >>> found = measure_calibration(logits, torch.arange(50) % 3, bins=5)
        >>> figure, ax = plt.subplots()
        >>> draw_reliability(
        ...     ax,
        ...     edges=found.edges,
        ...     counts=found.counts,
        ...     confidence=found.bin_confidence,
        ...     accuracy=found.bin_accuracy,
        ... )
        >>> ax.get_title() == f"ECE {found.ece:.1%} on 50 images"
        True
        >>> plt.close(figure)
    """
    lengths = len(edges) - 1, len(counts), len(confidence), len(accuracy)
    total = sum(counts)
    if len(set(lengths)) != 1 or not total:
        raise ValueError(
            f"bins need images, one count, confidence and accuracy each and one more edge than bins, got "
            f"{total} images, {len(edges)} edges and {lengths[1]}, {lengths[2]} and {lengths[3]} values"
        )
    error = 0.0
    for bin_, count in enumerate(counts):
        if not count:
            continue
        right, sure = accuracy[bin_], confidence[bin_]
        error += count / total * math.fabs(right - sure)
        bar = ax.bar(edges[bin_], right, edges[bin_ + 1] - edges[bin_], align="edge", color=colour)
        bar[0].set(alpha=0.25 + 0.75 * count / max(counts), edgecolor=INK, linewidth=0.5)
        ax.plot([sure, sure], [right, sure], color=ACCENT, linewidth=2)
    ax.plot([0, 1], [0, 1], color=NOISE, linewidth=1, linestyle="--")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    ax.set_title(f"ECE {error:.1%} on {total} images")
