import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from topokd_lib.plotting.differentiation import descent_figure, draw_gradient, fits_figure, gradients_figure
from topokd_lib.plotting.style import NOISE, STUDENT, TEACHER, use_house_style

mpl.use("agg")

POINTS = torch.tensor([[0.0, 0], [3, 0], [0, 4]])
SLOPES = torch.tensor([[-6.0, 0], [6, 0], [0, 0]])


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def test_arrows_point_against_the_gradient_and_resting_points_have_none():
    ax = plt.figure().add_subplot()
    draw_gradient(ax, POINTS, SLOPES, edges=[(0, 1)], step=0.1)
    arrows = [(text.xyann, text.xy) for text in ax.texts]
    expected = [((0, 0), (0.6, 0)), ((3, 0), (2.4, 0))]
    np.testing.assert_allclose(np.array(arrows), np.array(expected), atol=1e-6)
    (segment,) = ax.collections[-1].get_segments()
    np.testing.assert_allclose(segment, POINTS[:2])


def test_every_point_needs_a_gradient():
    ax = plt.figure().add_subplot()
    with pytest.raises(ValueError, match="3 points and 2 gradients"):
        draw_gradient(ax, POINTS, SLOPES[:2])


def test_the_panels_of_gradients_carry_their_titles():
    figure = gradients_figure(POINTS, {"a": (SLOPES, [(0, 1)]), "b": (-SLOPES, [])})
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["a", "b"]
    assert [len(ax.texts) for ax in figure.axes] == [2, 2]


def test_a_descent_keeps_its_start_as_a_shadow_and_one_range():
    figure = descent_figure({"start": POINTS, "end": POINTS + 1})
    left, right = figure.axes
    assert left.get_xlim() == right.get_xlim()
    shadow, moved = right.collections
    np.testing.assert_allclose(shadow.get_offsets(), POINTS)
    np.testing.assert_allclose(moved.get_offsets(), POINTS + 1)
    assert to_hex(shadow.get_facecolors()[0]).upper() == NOISE
    assert to_hex(moved.get_facecolors()[0]).upper() == STUDENT


def test_fits_show_teacher_start_and_student_in_their_colours():
    teacher = torch.tensor([1.0, 2, 3])
    figure = fits_figure({"image": {"start": teacher / 2, "student": teacher - 0.1}}, teacher, "start")
    colours = {line.get_label(): line.get_color() for line in figure.axes[0].lines}
    assert colours == {"teacher": TEACHER, "start": NOISE, "student": STUDENT}
