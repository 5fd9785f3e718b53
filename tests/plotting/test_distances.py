import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from topokd_lib.plotting.distances import bound_figure, draw_matching, matchings_figure, stability_figure
from topokd_lib.plotting.style import use_house_style
from topokd_lib.topology import rips_diagrams

mpl.use("agg")

FIRST, SECOND = [(0, 4), (1, 2)], [(0.5, 4.5)]


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def steps(ax):
    (lines,) = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    return sorted(np.array(segment).round(6).tolist() for segment in lines.get_segments())


def test_steps_end_at_bars_or_at_their_nearest_point_of_the_diagonal():
    ax = plt.figure().add_subplot()
    draw_matching(ax, FIRST, SECOND)
    assert steps(ax) == [[[0, 4], [0.5, 4.5]], [[1, 2], [1.5, 1.5]]]
    assert ax.get_aspect() == 1


def test_a_bar_of_the_second_that_nobody_wants_goes_to_the_diagonal():
    ax = plt.figure().add_subplot()
    draw_matching(ax, [(0, 4)], [(0, 4), (1, 1.2)])
    assert steps(ax) == [[[0, 4], [0, 4]], [[1.1, 1.1], [1, 1.2]]]


def test_pairs_must_be_finite_rows_of_two():
    ax = plt.figure().add_subplot()
    with pytest.raises(ValueError, match="persistence pairs"):
        draw_matching(ax, [(0, 1, 2)], SECOND)
    with pytest.raises(ValueError, match="bars that end"):
        draw_matching(ax, [(0, np.inf)], SECOND)


def test_matchings_are_drawn_in_one_range():
    figure = matchings_figure({"one": (FIRST, SECOND), "two": (FIRST, [(0, 1)])})
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    assert left.get_title(loc="left") == "one"


def test_squares_reach_twice_as_far_as_points_moved():
    points = torch.tensor([[0.0, 0], [3, 0], [0, 4], [3, 4]])
    figure = stability_figure(points, points + torch.tensor([0.3, 0.4]))
    squares = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    bars = sum(int(each.counts) for each in rips_diagrams(points[None], dimensions=(0, 1)))
    assert len(squares) == bars == 4
    for square in squares:
        assert square.get_width() == square.get_height() == pytest.approx(4 * 0.5)


def test_the_bound_has_slope_two():
    figure = bound_figure([0.1, 0.4], {"components": [0.1, 0.5], "loops": [0.0, 0.2]})
    for ax, values in zip(figure.axes, ([0.1, 0.5], [0.0, 0.2]), strict=True):
        (line,) = ax.lines
        np.testing.assert_allclose(line.get_ydata(), 2 * np.asarray(line.get_xdata()))
        np.testing.assert_allclose(ax.collections[0].get_offsets(), np.stack([[0.1, 0.4], values], axis=1))
