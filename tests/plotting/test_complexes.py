import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from topokd_lib.plotting.complexes import (
    complexes_figure,
    draw_simplices,
    pixel_complexes_figure,
    probability_simplex_figure,
)
from topokd_lib.plotting.style import use_house_style
from topokd_lib.topology import closure, triangulated_grid

mpl.use("agg")

CORNERS = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
HALF = closure([(0, 1, 2), (2, 3), (0, 3)])


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def part(ax, name):
    (found,) = [artist for artist in ax.get_children() if artist.get_gid() == name]
    return found


def segments(ax, name):
    ends = part(ax, name).get_path().vertices.reshape(-1, 2, 2)
    return {frozenset(map(tuple, segment)) for segment in ends.tolist()}


def between(*edges):
    return {frozenset((CORNERS[a], CORNERS[b])) for a, b in edges}


def test_a_complex_is_drawn_with_all_its_parts_and_no_more():
    ax = plt.figure().add_subplot()
    draw_simplices(ax, CORNERS, HALF, names="ABCD", chain=[(0, 2), (2, 3), (0, 3)])
    assert segments(ax, "edges") == between((0, 1), (0, 2), (1, 2), (2, 3), (0, 3))
    assert segments(ax, "chain") == between((0, 2), (2, 3), (0, 3))
    (triangle,) = part(ax, "triangles").get_paths()
    assert set(map(tuple, triangle.vertices.tolist())) == set(CORNERS[:3])
    assert [text.get_text() for text in ax.texts] == list("ABCD")


def test_points_that_are_no_vertices_are_left_out():
    ax = plt.figure().add_subplot()
    draw_simplices(ax, CORNERS, [(1,), (3,), (1, 3)], names="ABCD")
    (dots,) = [artist for artist in ax.collections if artist.get_gid() is None]
    np.testing.assert_array_equal(dots.get_offsets(), [CORNERS[1], CORNERS[3]])
    assert [text.get_text() for text in ax.texts] == ["B", "D"]


def test_a_vertex_without_a_point_is_refused():
    ax = plt.figure().add_subplot()
    with pytest.raises(ValueError, match="vertex 4 has no point to be drawn at; there are 4 points"):
        draw_simplices(ax, CORNERS, [(4,)])


def test_thousands_of_triangles_become_pixels():
    ax = plt.figure().add_subplot()
    grid = triangulated_grid(18, 18)
    draw_simplices(ax, [divmod(vertex, 18) for vertex in range(18 * 18)], grid)
    assert part(ax, "triangles").get_rasterized()


def test_panels_carry_their_names_and_only_their_chains():
    figure = complexes_figure(
        CORNERS, {"one": HALF, "two": HALF, "three": HALF}, names="ABCD", chains={"two": [(0, 3)]}
    )
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two", "three"]
    assert [len([a for a in ax.patches if a.get_gid() == "chain"]) for ax in figure.axes] == [0, 1, 0]
    # names stand outside: further from the middle than their point
    for text, (x, y) in zip(figure.axes[0].texts, CORNERS, strict=True):
        assert text.xy == (x, y)
        assert np.dot(text.xyann, (x - 0.5, y - 0.5)) > 0


def test_the_name_of_a_point_in_the_middle_stands_above_it():
    star = [(0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (2.0, 2.0), (1.0, 1.0)]
    figure = complexes_figure(star, {"star": closure([(0, 4), (3, 4)])}, names="ABCDE")
    offset = figure.axes[0].texts[4].xyann
    assert offset[0] == 0 < offset[1]


def test_pixels_are_drawn_where_they_are_in_the_image():
    image = torch.zeros(6, 8)
    bright = [(1, 2), (1, 3), (2, 3)]  # row, column
    for place in bright:
        image[place] = 1.0
    wanted = {row * 8 + column for row, column in bright}
    inside = [s for s in triangulated_grid(6, 8) if wanted >= set(s)]
    figure = pixel_complexes_figure({"bend": image}, [inside], chains=[[(10, 11)]], columns=1)
    (ax,) = figure.axes
    assert segments(ax, "chain") == {frozenset([(2.0, 1.0), (3.0, 1.0)])}
    assert len(part(ax, "triangles").get_paths()) == 1
    assert ax.get_xlim() == (0.5, 4.5)
    assert ax.get_ylim() == (3.5, -0.5)  # rows run downwards
    (shown,) = ax.images
    assert shown.get_array().tolist() == image.tolist()


def test_probabilities_are_places_in_a_triangle():
    rows = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    figure = probability_simplex_figure({"t": rows}, ["3", "8", "9"], [0, 1, 2, 2, 0])
    (ax,) = figure.axes
    height = 0.75**0.5
    places = [np.asarray(dots.get_offsets()) for dots in ax.collections]
    np.testing.assert_allclose(places[0], [[0, 0], [0.5, 0]], atol=1e-6)
    np.testing.assert_allclose(places[1], [[1, 0]], atol=1e-6)
    np.testing.assert_allclose(places[2], [[0.5, height], [0.5, height / 3]], atol=1e-6)
    np.testing.assert_allclose(places[3], [[0.5, height / 3]], atol=1e-6)  # the cross in the middle
