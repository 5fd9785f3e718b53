import io

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from topokd_lib.plotting.distillation import (
    deaths_figure,
    draw_classes,
    free_cloud_figure,
    gaps_figure,
    profiles_figure,
)
from topokd_lib.plotting.style import STUDENT, TEACHER, use_house_style
from topokd_lib.topology import PersistenceImage, h0_deaths

mpl.use("agg")

LINE = torch.tensor([[0.0], [1.0], [2.0]])
OTHER = torch.tensor([[0.0], [1.0], [3.0]])
IMAGE = PersistenceImage((0.0, 0.0), (1.0, 2.0), 0.8, (2, 1), weight="constant")


@pytest.fixture(autouse=True)
def _house():
    with mpl.rc_context():
        use_house_style()
        yield
    plt.close("all")


def saved(figure):
    """The bytes of the figure as the book saves it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def colours(ax):
    return [to_hex(line.get_color()).upper() for line in ax.lines]


def test_deaths_are_drawn_by_rank_in_the_colours_of_the_roles():
    deaths = (torch.tensor([1.0, 2.0]).requires_grad_(), torch.tensor([1.0, 5.0]))
    ax, _ = deaths_figure({"edge length": deaths, "scaled": deaths}).axes
    assert colours(ax) == [TEACHER, STUDENT]
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, 1], [2, 5]])
    assert ax.get_title(loc="left") == "edge length"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["teacher", "student"]


def test_gaps_are_written_between_the_points_and_pixels_lie_on_their_curve():
    above, below = gaps_figure(LINE, OTHER.requires_grad_(), IMAGE).axes
    assert [text.get_text() for text in above.texts] == ["teacher", "1", "1", "student", "1", "2"]
    for curve, pixels in zip(below.lines[::2], below.lines[1::2], strict=True):
        where, heights = pixels.get_data()
        np.testing.assert_array_equal(where, [1, 2])
        np.testing.assert_allclose(np.interp(where, *curve.get_data()), heights, rtol=1e-5)


def test_profiles_span_the_window_and_share_their_scale():
    columns = (torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.0, 3.0, 0.0]))
    left, right = profiles_figure({"exact": columns, "RipsNet": columns[::-1]}, (2.0, 4.0)).axes
    np.testing.assert_array_equal(left.lines[1].get_xydata(), [[2, 0], [3, 3], [4, 0]])
    assert left.get_ylim() == right.get_ylim()
    assert colours(right) == [TEACHER, STUDENT]


def test_a_cloud_is_drawn_as_its_classes_joined_by_the_tree():
    ax = plt.figure().add_subplot()
    cloud = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
    draw_classes(ax, cloud, torch.tensor([7, 8, 9]), colour=TEACHER)
    assert [(t.get_text(), t.get_position()) for t in ax.texts] == [
        ("7", (0.0, 0.0)),
        ("8", (3.0, 0.0)),
        ("9", (0.0, 1.0)),
    ]
    (tree,) = ax.collections
    lengths = sorted(np.ptp(segment, axis=0).max() for segment in tree.get_segments())
    np.testing.assert_allclose(lengths, h0_deaths(cloud[None])[0])
    assert np.ptp(ax.get_xlim()) == pytest.approx(np.ptp(ax.get_ylim()))


def test_the_descent_shows_the_deaths_of_its_two_ends():
    labels = torch.arange(6)
    teacher, *path = torch.randn(4, 6, 2)
    figure = free_cloud_figure(teacher, dict(zip((0, 5, 9), path, strict=True)), labels)
    *clouds, below = figure.axes
    assert [ax.get_title(loc="left") for ax in clouds] == [
        "teacher",
        *(f"student, step {k}" for k in (0, 5, 9)),
    ]
    drawn = [line.get_ydata() for line in below.lines]
    for deaths, cloud in zip(drawn, (teacher, path[0], path[2]), strict=True):
        np.testing.assert_allclose(deaths, h0_deaths(cloud[None])[0])


def test_a_descent_needs_three_snapshots():
    cloud = torch.randn(4, 2)
    with pytest.raises(ValueError, match="three snapshots beside the teacher, got 1"):
        free_cloud_figure(cloud, {0: cloud}, torch.arange(4))


def test_two_drawings_give_the_same_bytes():
    first, second = (saved(gaps_figure(LINE, OTHER, IMAGE)) for _ in range(2))
    assert first == second
