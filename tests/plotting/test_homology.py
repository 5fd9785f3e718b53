import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from topokd_lib.plotting.homology import (
    barcodes_figure,
    draw_matrix,
    growing_tree_figure,
    learning_curve_figure,
    matrices_figure,
    scores_figure,
)
from topokd_lib.plotting.style import ACCENT, H0, use_house_style
from topokd_lib.topology import h0_deaths

mpl.use("agg")

MATRIX = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 0]], dtype=bool)


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def test_a_matrix_shows_its_entries_and_the_lowest_of_each_column():
    ax = plt.figure().add_subplot()
    draw_matrix(ax, MATRIX, "ABC", ["AC", "none", "AB"])
    assert "".join(text.get_text() for text in ax.texts) == "1·1··11··"
    boxes = [box for box in ax.patches if box.get_gid() == "lowest"]
    centres = {tuple(np.round(box.get_center(), 6)) for box in boxes}
    assert centres == {(0, 2), (2, 1)}  # column, row; the empty column has none
    assert [label.get_text() for label in ax.get_yticklabels()] == ["A", "B", "C"]


def test_a_matrix_needs_a_name_for_each_row_and_column():
    ax = plt.figure().add_subplot()
    with pytest.raises(ValueError, match="got 2 for the rows and 3 for the columns"):
        draw_matrix(ax, MATRIX, "AB", ["x", "y", "z"])


def test_matrices_stand_side_by_side_under_their_names():
    figure = matrices_figure({"before": MATRIX, "after": MATRIX}, "ABC", "xyz")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["before", "after"]


def test_barcodes_share_an_axis_that_is_named_once():
    figure = barcodes_figure({"a": [[(0, math.inf)], [(1, 2)]], "b": [[(0, math.inf)]]}, "time", end=3.0)
    above, below = figure.axes
    assert [tuple(map(float, line.get_xdata())) for line in above.lines] == [(0, 3), (1, 2)]
    assert (above.get_xlabel(), below.get_xlabel()) == ("", "time")
    assert above.get_xlim() == below.get_xlim() == (0, 3)


def test_the_tree_grows_by_its_shortest_edges():
    cloud = torch.rand(7, 2, generator=torch.Generator().manual_seed(0)).double()
    deaths = h0_deaths(cloud[None])[0]
    *panels, barcode = growing_tree_figure(cloud, (0, 2, 6), names="1234567").axes
    for kept, ax in zip((0, 2, 6), panels, strict=True):
        (tree,) = [artist for artist in ax.collections if artist.get_gid() == "tree"]
        lengths = sorted(np.linalg.norm(a - b) for a, b in tree.get_segments())
        np.testing.assert_allclose(lengths, deaths[:kept])
    assert [ax.get_title(loc="left") for ax in panels] == ["0 edges", "2 edges", "6 edges"]
    bars = [line for line in barcode.lines if line.get_color() == H0]
    np.testing.assert_allclose([line.get_xdata()[1] for line in bars][:6], deaths)
    assert len(bars) == 7
    (mark,) = [line for line in barcode.lines if line.get_color() == ACCENT]
    np.testing.assert_allclose(mark.get_xdata(), deaths[1])  # not at 0 edges, not at the end


def test_a_learning_curve_shows_mean_and_deviation():
    figure = learning_curve_figure(
        [10, 20], {"pixels": [[0.5, 0.7], [0.8, 0.9]]}, {"rule": 0.6, "guess": 0.3}
    )
    (ax,) = figure.axes
    (container,) = ax.containers
    np.testing.assert_allclose(container[0].get_xydata(), [[10, 0.6], [20, 0.85]])
    ends = container[2][0].get_segments()
    np.testing.assert_allclose(ends[0][:, 1], [0.6 - 0.1414, 0.6 + 0.1414], atol=1e-4)
    assert {text.get_text() for text in ax.texts} == {"pixels", "rule", "guess"}
    levels = [line.get_ydata()[0] for line in ax.lines if len(set(line.get_ydata())) == 1]
    assert {0.6, 0.3} <= {float(level) for level in levels}


def test_scores_show_every_repetition_and_name_the_mean():
    scores = {"easy": {"old": [0.9, 0.7], "new": [0.5, 0.5]}, "hard": {"old": [0.1, 0.3], "new": [1.0, 0.8]}}
    figure = scores_figure(scores, "share", chance=0.2)
    easy, hard = figure.axes
    assert [text.get_text() for text in easy.texts] == ["0.50 ± 0.00", "0.80 ± 0.14"]
    assert [label.get_text() for label in hard.get_yticklabels()] == ["new", "old"]
    dots = np.concatenate([artist.get_offsets() for artist in hard.collections])
    np.testing.assert_allclose(dots, [[1, 0], [0.8, 0], [0.1, 1], [0.3, 1]])
    assert (easy.get_xlabel(), hard.get_xlabel()) == ("", "share")
