import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from topokd_lib.plotting.results import draw_runs, plot_methods
from topokd_lib.plotting.style import NOISE, STUDENT, use_house_style

mpl.use("agg")

RUNS = {"no teacher": [90.0, 92.0], "KD": [93.0, 95.0, 94.0], "TopKD": [96.0]}


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def test_every_run_is_a_dot_and_the_bar_is_mean_and_deviation():
    _, axes = plt.subplots()
    draw_runs(axes, RUNS, title="test accuracy (%)")
    dots, bars, means = axes.lines[0::3], axes.lines[1::3], axes.lines[2::3]
    assert [list(line.get_xdata()) for line in dots] == list(RUNS.values())
    assert [list(line.get_ydata()) for line in dots] == [[0, 0], [1, 1, 1], [2]]
    assert [line.get_xdata()[0] for line in means] == [91.0, 94.0, 96.0]
    assert list(bars[0].get_xdata()) == pytest.approx([91 - 2**0.5, 91 + 2**0.5])
    assert list(bars[1].get_xdata()) == [93.0, 95.0]
    assert list(bars[2].get_xdata()) == [96.0, 96.0]  # one run has no spread


def test_baseline_is_grey_and_on_top_and_methods_are_named():
    _, axes = plt.subplots()
    draw_runs(axes, RUNS, title="test accuracy (%)")
    assert [to_hex(line.get_color()).upper() for line in axes.lines[0::3]] == [NOISE, STUDENT, STUDENT]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(RUNS)
    assert axes.get_ylim() == (2.5, -0.5)
    assert axes.get_xlabel() == "test accuracy (%)"


def test_one_panel_per_quantity():
    figure = plot_methods({"accuracy": RUNS, "distance": RUNS})
    assert [panel.get_xlabel() for panel in figure.axes] == ["accuracy", "distance"]
    single = plot_methods({"accuracy": RUNS})
    assert len(single.axes) == 1
    assert single.get_size_inches()[1] * 2 == pytest.approx(figure.get_size_inches()[1])


def test_errors():
    _, axes = plt.subplots()
    with pytest.raises(ValueError, match="every method needs at least one run, got none for: KD"):
        draw_runs(axes, {"no teacher": [1.0], "KD": []}, title="x")
    with pytest.raises(ValueError, match="got none for: any"):
        draw_runs(axes, {}, title="x")
    with pytest.raises(ValueError, match="at least one panel"):
        plot_methods({})
