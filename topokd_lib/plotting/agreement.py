"""What losses transfer, side by side: the five numbers of an agreement for each of them."""

from collections.abc import Mapping

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from topokd_lib.plotting.style import ACCENT, H0, H1, NOISE, STUDENT, TEACHER, WIDTH
from topokd_lib.topology import CloudAgreement

__all__ = ["agreement_figure"]

_SHARES = (
    ("distances", "rank correlation of distances", TEACHER, "o"),
    ("neighbours", "common neighbours", H1, "s"),
    ("tree", "common tree edges", H0, "^"),
)
_GAPS = (("deaths", "scaled", STUDENT, "o"), ("raw_deaths", "raw", ACCENT, "s"))


def agreement_figure(rows: Mapping[str, CloudAgreement]) -> Figure:
    """One row per loss: on the left what is in common, on the right how far the H0 deaths are apart.

    Args:
        rows: By the name of the loss; the first is the baseline, such as the start, and marked by grey lines.

    Raises:
        ValueError: If there is no row.
    """
    if not rows:
        raise ValueError("a figure of agreements needs at least one row")
    figure, panels = plt.subplots(
        1, 2, sharey=True, figsize=(WIDTH, 0.34 * len(rows) + 1.7), width_ratios=[3, 2]
    )
    titles = ("in common (1 is best)", "H0 difference (0 is best)")
    for panel, marks, title in zip(panels, (_SHARES, _GAPS), titles, strict=True):
        for field, label, colour, marker in marks:
            values = [getattr(row, field) for row in rows.values()]
            panel.plot(values, range(len(rows)), marker, color=colour, label=label, markersize=6, alpha=0.85)
            panel.axvline(values[0], color=NOISE, linewidth=0.8, linestyle=":", zorder=0)
        panel.set_title(title)
        panel.grid(visible=False, axis="x")
    panels[0].set_yticks(range(len(rows)), list(rows))
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    panels[0].set_xlim(-0.25, 1.05)
    panels[1].set_xlim(0, None)
    handles = [handle for panel in panels for handle in panel.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure
