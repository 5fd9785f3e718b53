import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from topokd_lib.plotting.clouds import draw_cloud
from topokd_lib.plotting.diagrams import INFINITY_HEIGHT, draw_diagram
from topokd_lib.plotting.style import ACCENT, H0, H1, TEACHER, small_multiples

mpl.use("agg")


@pytest.fixture
def ax():
    yield plt.figure().add_subplot()
    plt.close("all")


def offsets(collection):
    return np.asarray(collection.get_offsets())


def texts(ax):
    return [text.get_text() for text in ax.texts]


def colour(collection):
    return tuple(collection.get_facecolor()[0][:3])


def test_finite_pairs_stand_where_they_belong(ax):
    pairs = torch.tensor([[0.0, 0.5], [0.1, 2.0]], requires_grad=True)
    draw_diagram(ax, pairs, dimension=1)
    (points,) = ax.collections
    np.testing.assert_allclose(offsets(points), [[0, 0.5], [0.1, 2.0]])
    assert colour(points) == to_rgba(H1)[:3]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("birth", "death")


def test_axes_are_square_and_carry_the_diagonal(ax):
    draw_diagram(ax, [(0.2, 0.9)])
    assert ax.get_aspect() == 1
    assert ax.get_xlim() == ax.get_ylim()
    (line,) = ax.lines
    assert line.get_slope() == 1
    assert line.get_xy1() == (0, 0)


def test_bars_without_end_stand_on_a_marked_line_above_all_finite_ones(ax):
    draw_diagram(ax, [(0, 3.0), (0.5, math.inf), (1.0, math.inf)])
    finite, endless = ax.collections
    np.testing.assert_allclose(offsets(endless), [[0.5, INFINITY_HEIGHT], [1.0, INFINITY_HEIGHT]])
    ax.figure.canvas.draw()
    # In pixels: births in data units, heights as a fraction of the axes.
    pixels = endless.get_offset_transform().transform(offsets(endless))
    expected_x = ax.transData.transform([[0.5, 0], [1.0, 0]])[:, 0]
    height = ax.transAxes.transform((0, INFINITY_HEIGHT))[1]
    np.testing.assert_allclose(pixels[:, 0], expected_x)
    np.testing.assert_allclose(pixels[:, 1], height)
    assert ax.transData.transform(offsets(finite))[:, 1].max() < height
    assert "∞" in texts(ax)
    assert len(ax.lines) == 2


def test_no_tick_claims_a_value_at_infinity(ax):
    draw_diagram(ax, [(0, 1.4), (0, math.inf)])
    ax.figure.canvas.draw()
    height = ax.transAxes.transform((0, INFINITY_HEIGHT))[1]
    ticks = ax.transData.transform([(0, tick) for tick in ax.get_yticks()])[:, 1]
    assert len(ticks) >= 3
    assert ticks.max() < height
    assert list(ax.get_xticks()) == list(ax.get_yticks())


def test_without_endless_bars_there_is_no_line_for_them(ax):
    draw_diagram(ax, [(0, 3.0)])
    assert "∞" not in texts(ax)
    assert len(ax.collections) == 1


def test_a_second_dimension_joins_the_first(ax):
    draw_diagram(ax, [(0, 5.0), (0, math.inf)])
    draw_diagram(ax, [(1.0, 2.0), (6.0, math.inf)], dimension=1)
    low, high = ax.get_xlim()
    assert low < 0
    assert high > 6
    assert len(ax.lines) == 2
    assert texts(ax).count("∞") == 1
    assert {"$H_0$", "$H_1$"} <= set(texts(ax))
    assert {colour(c) for c in ax.collections if len(offsets(c))} == {to_rgba(H0)[:3], to_rgba(H1)[:3]}


def test_shared_axes_hold_every_diagram():
    _, panels = small_multiples(2)
    draw_diagram(panels[0], [(0, 5.0)])
    draw_diagram(panels[1], [(-1.0, 2.0)])
    assert panels[0].get_xlim() == panels[1].get_xlim() == panels[1].get_ylim()
    assert panels[0].get_xlim()[0] < -1
    assert panels[0].get_xlim()[1] > 5
    assert [len(panel.lines) for panel in panels] == [1, 1]
    plt.close("all")


def test_the_label_stands_at_the_most_persistent_pair(ax):
    draw_diagram(ax, [(0, 1.0), (0.5, 4.0), (3.0, 3.5)], label="mine", colour=ACCENT)
    (text,) = ax.texts
    assert text.get_text() == "mine"
    assert text.xy == (0.5, 4.0)
    assert colour(ax.collections[0]) == to_rgba(ACCENT)[:3]


def test_an_endless_bar_alone_is_labelled_and_an_empty_label_is_none(ax):
    draw_diagram(ax, [(2.0, math.inf)])
    assert [text.xy for text in ax.texts if text.get_text() == "$H_0$"] == [(2.0, INFINITY_HEIGHT)]
    draw_diagram(ax, [(0, 1.0)], dimension=1, label="")
    assert "$H_1$" not in texts(ax)


def test_an_empty_diagram_still_has_a_frame(ax):
    draw_diagram(ax, torch.empty(0, 2), limits=(0.0, 2.0))
    assert ax.get_xlim()[0] < 0
    assert ax.get_xlim()[1] > 2
    assert texts(ax) == []
    assert len(ax.lines) == 1


def test_limits_are_kept_and_nothing_is_lost_outside_them(ax):
    draw_diagram(ax, [(0, 1.0)], limits=(0.0, 10.0))
    assert ax.get_xlim()[1] > 10
    with pytest.raises(ValueError, match=r"pairs from 0 to 11 do not fit into limits=\(0\.0, 10\.0\); widen"):
        draw_diagram(ax, [(0, 11.0)], limits=(0.0, 10.0))


def test_one_pair_alone_gets_room(ax):
    draw_diagram(ax, [(1.0, 1.0)])
    low, high = ax.get_xlim()
    assert low < 1 < high


def test_a_whole_batch_is_refused(ax):
    with pytest.raises(ValueError, match=r"persistence pairs must have shape \(rows, 2\), found \(3, 4, 2\)"):
        draw_diagram(ax, torch.zeros(3, 4, 2))


def test_a_cloud_is_drawn_with_equal_units(ax):
    points = torch.tensor([[0.0, 0.0], [4.0, 1.0]])
    draw_cloud(ax, points, names=["$x_1$", "$x_2$"])
    np.testing.assert_allclose(offsets(ax.collections[0]), points)
    assert colour(ax.collections[0]) == to_rgba(TEACHER)[:3]
    assert texts(ax) == ["$x_1$", "$x_2$"]
    assert [text.xy for text in ax.texts] == [(0, 0), (4, 1)]
    ax.figure.canvas.draw()
    (x0, y0), (x1, y1) = ax.transData.transform([[0, 0], [1, 1]])
    assert x1 - x0 == pytest.approx(y1 - y0)
    assert ax.get_xlim()[0] < 0
    assert ax.get_xlim()[1] > 4


def test_points_may_have_their_own_colours(ax):
    draw_cloud(ax, [(0, 0), (1, 1)], colour=[H0, H1])
    found = [tuple(c[:3]) for c in ax.collections[0].get_facecolor()]
    assert found == [to_rgba(H0)[:3], to_rgba(H1)[:3]]


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([(0, 0), (1, math.inf)], {}, r"points must be finite, 1 are not"),
        ([(0, 0), (1, 1)], {"names": ["a"]}, r"2 points need as many names, got 1"),
        ([(0, 0)], {"colour": [H0, H1]}, r"1 points need as many colours, got 2"),
        ([(0, 0, 0)], {}, r"points must have shape \(rows, 2\), found \(1, 3\)"),
    ],
)
def test_clouds_that_cannot_be_drawn_are_refused(ax, points, options, message):
    with pytest.raises(ValueError, match=message):
        draw_cloud(ax, points, **options)
