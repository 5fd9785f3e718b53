import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from topokd_lib.plotting.calibration import draw_reliability

mpl.use("agg")

BINS = {
    "edges": (0.0, 0.5, 0.75, 1.0),
    "counts": (1, 0, 3),
    "confidence": (0.4, float("nan"), 0.9),
    "accuracy": (0.0, float("nan"), 2 / 3),
}


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_bars_are_bins_and_lines_are_gaps(ax):
    draw_reliability(ax, **BINS)
    first, last = ax.patches
    assert (first.get_x(), first.get_width(), first.get_height()) == (0.0, 0.5, 0.0)
    assert (last.get_x(), last.get_width(), last.get_height()) == (0.75, 0.25, pytest.approx(2 / 3))
    assert first.get_alpha() < last.get_alpha() == 1
    gaps = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines[:-1]]
    assert gaps == [([0.4, 0.4], [0.0, 0.4]), ([0.9, 0.9], [pytest.approx(2 / 3), 0.9])]
    assert list(ax.lines[-1].get_ydata()) == [0, 1]


def test_title_is_the_error_that_the_gaps_average(ax):
    draw_reliability(ax, **BINS)
    assert ax.get_title() == f"ECE {0.25 * 0.4 + 0.75 * (0.9 - 2 / 3):.1%} on 4 images"
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 1), (0, 1))


@pytest.mark.parametrize("change", [{"counts": (0, 0, 0)}, {"edges": (0.0, 1.0)}, {"accuracy": (0.5,)}])
def test_bins_that_do_not_fit(ax, change):
    with pytest.raises(ValueError, match="bins need images, one count, confidence and accuracy each"):
        draw_reliability(ax, **{**BINS, **change})
