import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from topokd_lib.plotting import style
from topokd_lib.plotting.arrays import as_rows
from topokd_lib.plotting.style import dimension_colour, save_figure, small_multiples, use_house_style

mpl.use("agg")


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def some_figure():
    figure, panels = small_multiples(2)
    panels[0].plot([0, 1], [0, 3])
    panels[1].scatter([0, 2], [1, 1])
    panels[1].set_title("title")
    return figure, panels


def test_colours_keep_their_meaning():
    assert style.TEACHER == "#0072B2"
    assert style.STUDENT == "#D55E00"
    assert style.NOISE == "#7F7F7F"
    assert (dimension_colour(0), dimension_colour(1)) == (style.H0, style.H1) == ("#009E73", "#CC79A7")
    assert style.ACCENT == "#E69F00"


def test_homology_without_a_colour_is_refused():
    with pytest.raises(ValueError, match=r"dimensions 0 … 2, got 3; pass a colour"):
        dimension_colour(3)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgba(colour)[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_and_colours_can_be_told_apart():
    assert 1.05 / (luminance(style.INK) + 0.05) > 7
    cycle = [to_rgba(entry["color"]) for entry in mpl.rcParams["axes.prop_cycle"]]
    assert len(cycle) == 7
    distances = [np.linalg.norm(np.subtract(a, b)) for i, a in enumerate(cycle) for b in cycle[:i]]
    assert min(distances) > 0.25


def test_figures_are_transparent_and_as_wide_as_the_column():
    figure, _ = some_figure()
    assert figure.get_facecolor()[3] == 0
    assert all(ax.get_facecolor()[3] == 0 for ax in figure.axes)
    assert figure.get_figwidth() == style.WIDTH
    assert style.WIDTH * 96 <= 41 * 16


def test_text_is_readable_on_a_phone():
    """A figure as wide as the column shrinks to the 358 pixels between the margins of a 390-pixel screen."""
    shrunk = 358 / (style.WIDTH * 96)
    sizes = [
        value
        for key, value in style.HOUSE_STYLE.items()
        if key.endswith(("size", "labelsize")) and "marker" not in key and "figsize" not in key
    ]
    assert len(sizes) >= 6
    assert min(sizes) * 96 / 72 * shrunk > 8.5


def test_small_multiples_share_their_limits():
    figure, panels = some_figure()
    figure.canvas.draw()
    assert len(panels) == 2
    assert panels[0].get_xlim() == panels[1].get_xlim()
    assert panels[0].get_ylim() == panels[1].get_ylim()
    assert panels[0].get_xlim()[1] >= 2
    assert panels[0].get_ylim()[1] >= 3


def test_small_multiples_may_go_their_own_ways():
    _, panels = small_multiples(3, 2, share=False, aspect=0.5)
    assert len(panels) == 6
    panels[0].set_xlim(0, 7)
    assert panels[1].get_xlim() != (0, 7)
    heights = [small_multiples(3, 2, aspect=aspect)[0].get_figheight() for aspect in (0.5, 1.0)]
    assert heights[0] < heights[1]


@pytest.mark.parametrize("suffix", ["svg", "pdf", "png"])
def test_saving_twice_gives_the_same_bytes(tmp_path, suffix):
    one = save_figure(some_figure()[0], tmp_path / "new" / f"one.{suffix}")
    two = save_figure(some_figure()[0], tmp_path / f"two.{suffix}")
    assert one.stat().st_size > 1000
    assert one.read_bytes() == two.read_bytes()
    assert b"Date" not in one.read_bytes()


def test_a_saved_svg_is_transparent_undated_and_has_text_as_outlines(tmp_path):
    svg = save_figure(some_figure()[0], tmp_path / "figure.svg").read_text()
    assert "dc:date" not in svg
    assert "<text" not in svg
    assert "fill: #ffffff" not in svg


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write a figure as 'a\.doc'; .* svg"):
        save_figure(some_figure()[0], tmp_path / "a.doc")
    with pytest.raises(ValueError, match=r"cannot write a figure as 'a';"):
        save_figure(some_figure()[0], tmp_path / "a")


def test_rows_come_from_tensors_arrays_and_lists():
    weights = torch.tensor([[0.0, 1.0], [2.0, 3.0]], requires_grad=True)
    for values in (weights, weights.detach().numpy(), [[0, 1], [2, 3]]):
        np.testing.assert_array_equal(as_rows(values, "rows"), [[0, 1], [2, 3]])
    assert as_rows([], "rows").shape == (0, 2)
    assert as_rows(torch.empty(0, 2), "rows").shape == (0, 2)


def test_what_is_not_rows_of_two_numbers_is_refused():
    with pytest.raises(
        ValueError, match=r"pairs must have shape \(rows, 2\), found \(4, 5, 2\); pick one item"
    ):
        as_rows(torch.zeros(4, 5, 2), "pairs")
    with pytest.raises(ValueError, match=r"pairs must be numbers, row 1 is \[nan, 1\.0\]"):
        as_rows([(0, 1), (float("nan"), 1)], "pairs")


def test_the_library_itself_does_not_import_matplotlib():
    code = "import sys, topokd_lib, topokd_lib.data; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
