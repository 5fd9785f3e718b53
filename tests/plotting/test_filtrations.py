import math
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from topokd_lib.data import sample_cloud
from topokd_lib.plotting.barcodes import draw_barcode
from topokd_lib.plotting.filtrations import (
    diagrams_figure,
    draw_complex,
    rips_figure,
    scales_figure,
    tree_figure,
)
from topokd_lib.plotting.style import ACCENT, H0, H1, use_house_style
from topokd_lib.topology import h0_deaths, rips_diagrams

mpl.use("agg")

RECTANGLE = torch.tensor([[0.0, 0], [4, 0], [4, 3], [0, 3]])


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


def part(ax, name):
    (found,) = [artist for artist in ax.get_children() if artist.get_gid() == name]
    return found


def edges(ax):
    vertices = part(ax, "edges").get_path().vertices.reshape(-1, 2, 2)
    return sorted(np.linalg.norm(vertices[:, 0] - vertices[:, 1], axis=1).round(6))


def bars(ax):
    return [(*map(float, line.get_xdata()), line.get_color()) for line in ax.lines]


@pytest.mark.parametrize(
    ("epsilon", "lengths", "triangles"),
    [(0.0, [], 0), (2.999, [], 0), (3.0, [3, 3], 0), (4.0, [3, 3, 4, 4], 0), (5.0, [3, 3, 4, 4, 5, 5], 4)],
)
def test_a_simplex_is_drawn_from_its_filtration_value_on(ax, epsilon, lengths, triangles):
    draw_complex(ax, RECTANGLE, epsilon)
    assert edges(ax) == lengths
    assert len(part(ax, "triangles").get_paths()) == triangles


def test_every_triangle_of_a_larger_complex_is_drawn_once(ax):
    cloud = sample_cloud("figure eight", 30, noise=0.1, seed=3)
    draw_complex(ax, cloud, 0.8)
    near = torch.cdist(cloud.double(), cloud.double()) <= 0.8
    expected = sum(all(near[i, j] for i, j in combinations(t, 2)) for t in combinations(range(30), 3))
    assert len(part(ax, "triangles").get_paths()) == expected > 50


def test_balls_have_half_the_edge_length_as_radius(ax):
    draw_complex(ax, RECTANGLE, 3.0, balls=True)
    boxes = [path.get_extents() for path in part(ax, "balls").get_paths()]
    assert [(box.width, box.height) for box in boxes] == [(pytest.approx(3), pytest.approx(3))] * 4


def test_names_stand_at_the_points(ax):
    draw_complex(ax, RECTANGLE, 0.0, names="ABCD")
    assert [(text.get_text(), text.xy) for text in ax.texts] == list(
        zip("ABCD", map(tuple, RECTANGLE.tolist()), strict=True)
    )


def test_thousands_of_triangles_become_pixels(ax):
    draw_complex(ax, torch.rand(30, 2), 2.0)
    assert part(ax, "triangles").get_rasterized()
    assert not part(ax, "edges").get_rasterized()


@pytest.mark.parametrize("epsilon", [-1.0, math.nan])
def test_a_scale_below_zero_is_refused(ax, epsilon):
    with pytest.raises(ValueError, match=r"a filtration begins at 0, got epsilon=(-1\.0|nan)"):
        draw_complex(ax, RECTANGLE, epsilon)


def test_bars_run_from_birth_to_death_and_are_sorted_by_death(ax):
    draw_barcode(ax, [[(0, 4), (0, math.inf), (0, 3)], torch.tensor([[4.0, 5.0]])], end=6.0)
    assert bars(ax) == [(0, 3, H0), (0, 4, H0), (0, 6, H0), (4, 5, H1)]
    assert ax.get_xlim() == (0, 6)
    heights = [line.get_ydata()[0] for line in ax.lines]
    assert heights == sorted(set(heights))
    assert [text.get_text() for text in ax.texts] == ["$H_0$", "$H_1$"]
    (arrow,) = ax.collections
    np.testing.assert_allclose(arrow.get_offsets(), [[6, heights[2]]])


def test_the_scale_is_marked_and_fits_on_the_axis(ax):
    draw_barcode(ax, [[(0, 1)]], epsilon=3.0)
    assert bars(ax)[-1] == (3, 3, ACCENT)
    assert ax.get_xlim()[1] > 3


def test_a_bar_beyond_the_end_is_cut_and_has_an_arrow(ax):
    draw_barcode(ax, [[(0, 1), (0, 7)]], end=2.0)
    assert bars(ax) == [(0, 1, H0), (0, 2, H0)]
    assert len(ax.collections) == 1


@pytest.mark.parametrize("diagrams", [[], [[]], [[], torch.zeros(0, 2)]])
def test_a_barcode_without_bars_is_refused(ax, diagrams):
    with pytest.raises(ValueError, match="no bar to draw; keep the essential bar"):
        draw_barcode(ax, diagrams)


def test_a_single_endless_bar_can_be_drawn(ax):
    draw_barcode(ax, [[(0, math.inf)]])
    assert bars(ax) == [(0, 1, H0)]


def test_scales_share_their_axes_and_say_their_scale():
    figure = scales_figure(RECTANGLE, [3.0, 4.0, 5.5], names="ABCD")
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        r"$\varepsilon = 3$",
        r"$\varepsilon = 4$",
        r"$\varepsilon = 5.5$",
    ]
    assert [len(edges(ax)) for ax in figure.axes] == [2, 4, 6]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes}) == 1


def test_complex_diagram_and_barcode_show_the_same_numbers():
    figure = rips_figure(RECTANGLE, 4.5)
    panels = {ax.get_label(): ax for ax in figure.axes}
    assert edges(panels["complex"]) == [3, 3, 4, 4]
    *drawn, marked = bars(panels["barcode"])
    assert [(b, d) for b, d, _ in drawn if d <= 5] == [(0, 3), (0, 3), (0, 4), (4, 5)]
    assert marked == (4.5, 4.5, ACCENT)
    dots = [
        tuple(map(float, dot)) for points in panels["diagram"].collections for dot in points.get_offsets()
    ]
    assert {(0.0, 3.0), (0.0, 4.0), (4.0, 5.0)} <= set(dots)


def test_the_tree_has_the_lengths_of_the_bars():
    cloud = sample_cloud("two circles", 25, noise=0.05, seed=1)
    left, right = tree_figure(cloud).axes
    segments = np.array(part(left, "tree").get_segments())
    lengths = np.sort(np.linalg.norm(segments[:, 0] - segments[:, 1], axis=1))
    *finite, endless = [death for _, death, _ in bars(right)]
    np.testing.assert_allclose(lengths, finite)
    np.testing.assert_allclose(lengths, h0_deaths(cloud.double()[None])[0])
    assert endless > finite[-1]


def test_diagrams_are_drawn_in_one_range_below_their_clouds():
    circle = sample_cloud("circle", 20, seed=0)
    clouds = {"one": circle, "two": torch.cat([circle, torch.zeros(1, 2)])}
    one, two, below_one, below_two = diagrams_figure(clouds).axes
    assert (one.get_title(loc="left"), two.get_title(loc="left")) == ("one", "two")
    assert one.get_xlim() == two.get_xlim()
    assert below_one.get_xlim() == below_two.get_xlim() == below_one.get_ylim()
    (loop,) = rips_diagrams(clouds["two"].double()[None], dimensions=(1,))
    purple = [c for c in below_two.collections if tuple(c.get_facecolor()[0][:3]) == to_rgba(H1)[:3]]
    np.testing.assert_allclose(np.concatenate([c.get_offsets() for c in purple]), loop[0])
