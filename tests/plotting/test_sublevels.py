import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from topokd_lib.plotting.style import H0, use_house_style
from topokd_lib.plotting.sublevels import draw_sublevel, levels_figure, pictures_figure, signal_figure
from topokd_lib.topology import cubical_diagrams

mpl.use("agg")

RING = torch.tensor([[1.0, 1, 1], [1, 9, 1], [1, 1, 5]])


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


@pytest.mark.parametrize(("level", "marked"), [(0.5, 0), (1.0, 7), (5.0, 8), (9.0, 9)])
def test_pixels_up_to_the_level_are_marked(level, marked):
    ax = plt.figure().add_subplot()
    draw_sublevel(ax, RING, level)
    below = np.ma.masked_invalid(ax.images[1].get_array())
    assert below.count() == marked


def test_levels_are_drawn_two_in_a_row_with_their_titles():
    figure = levels_figure(RING, [1.0, 5.0, 9.0])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [rf"$\varepsilon = {level}$" for level in (1, 5, 9)]


def test_a_bar_stands_at_its_minimum_and_ends_where_it_dies():
    figure = signal_figure(torch.tensor([2.0, 0, 3, 1, 4]))
    ax = figure.axes[0]
    bars = [line for line in ax.lines if line.get_color() == H0]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in bars] == [([3, 3], [1, 3])]
    (endless,) = ax.texts
    assert endless.xyann == (1, 0)


def test_pictures_stand_above_their_own_diagrams():
    figure = pictures_figure({"ring": RING, "flat": torch.zeros(3, 3)}, construction="vertices")
    assert [ax.get_title(loc="left") for ax in figure.axes[:2]] == ["ring", "flat"]
    _, holes = cubical_diagrams(RING[None], construction="vertices")
    dots = [collection.get_offsets().tolist() for collection in figure.axes[2].collections]
    assert dots == [[], holes[0].tolist()]
