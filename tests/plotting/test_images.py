import io
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from topokd_lib.plotting.images import (
    accuracies_figure,
    bandwidth_and_resolution_figure,
    cloud_to_image_figure,
    confusable_profiles_figure,
    draw_bars,
    draw_image,
    gradient_at_the_edge_figure,
    identical_columns_figure,
    image_with_numbers_figure,
    short_bar_figure,
)
from topokd_lib.plotting.style import ACCENT, H0, H1, use_house_style
from topokd_lib.topology import PersistenceDiagrams, PersistenceImage

mpl.use("agg")

PAIRS = torch.tensor([[0.0, 2.0], [1.0, 2.0]])
IMAGE = PersistenceImage((0.0, 2.0), (0.0, 2.0), bandwidth=0.8, resolution=(3, 5))
VALUES = IMAGE(PersistenceDiagrams.from_list([PAIRS], dimension=1))[0]


@pytest.fixture(autouse=True)
def _house():
    with mpl.rc_context():
        use_house_style()
        yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.figure().add_subplot()


def texts(ax):
    return [text.get_text() for text in ax.texts]


def offsets(ax):
    return np.concatenate([np.asarray(collection.get_offsets()) for collection in ax.collections])


def drawn(figure):
    """The bytes of the figure as the book saves it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def test_pixels_of_a_density_are_centred_at_its_nodes(ax):
    draw_image(ax, VALUES.requires_grad_(), IMAGE)
    (picture,) = ax.images
    np.testing.assert_allclose(picture.get_extent(), [-0.25, 2.25, -0.5, 2.5])
    np.testing.assert_allclose(picture.get_array(), VALUES.detach())
    assert picture.origin == "lower"  # persistence upwards
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("birth", "persistence")


def test_cells_of_a_mass_tile_the_window(ax):
    mass = PersistenceImage((0.0, 2.0), (1.0, 3.0), bandwidth=0.8, resolution=(3, 5), value="mass")
    draw_image(ax, VALUES, mass)
    np.testing.assert_allclose(ax.images[0].get_extent(), [0, 2, 1, 3])


def test_zero_is_white_and_one_scale_can_be_shared(ax):
    draw_image(ax, VALUES, IMAGE, dimension=0, highest=7.0)
    (picture,) = ax.images
    assert picture.get_clim() == (0.0, 7.0)
    assert picture.cmap(0.0)[:3] == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(picture.cmap(0.5)[:3], to_rgba(H0)[:3], atol=0.01)


def test_a_window_without_width_has_no_scale_of_births(ax):
    flat = PersistenceImage((0.0, 0.0), (0.0, 2.0), bandwidth=0.8, resolution=(3, 5))
    draw_image(ax, VALUES, flat)
    assert not len(ax.get_xticks())
    assert ax.get_xlabel() == "birth (all 0)"


def test_values_must_fit_the_conventions(ax):
    with pytest.raises(ValueError, match=r"images of \(3, 5\).*got \(5, 3\); pass one image of a batch"):
        draw_image(ax, VALUES.T, IMAGE)


def test_bars_stand_at_birth_and_persistence(ax):
    draw_bars(ax, PAIRS)
    np.testing.assert_allclose(offsets(ax), [[0, 2], [1, 1]])


def test_cloud_diagram_and_image_say_how_many_they_hold():
    figure = cloud_to_image_figure(torch.rand(9, 2), PAIRS, VALUES, IMAGE)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["9 points", "2 bars", "15 numbers"]


def test_each_pixel_carries_its_number():
    figure = image_with_numbers_figure(PAIRS, VALUES, IMAGE)
    (ax,) = figure.axes
    assert texts(ax) == [f"{value:.4g}" for value in VALUES.flatten().tolist()]
    np.testing.assert_allclose([text.xy for text in ax.texts][5], (0.0, 1.0))  # second row, first column


def test_short_bar_draws_both_weights_and_the_bound():
    lengths = [1.0, 0.1, 0.01]
    changes = {"constant": [1.0, 1.0, 1.0], "persistence": lengths}
    (ax,) = short_bar_figure(lengths, changes, [5.0, 0.5, 0.05]).axes
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.0] * 3, lengths, [5.0, 0.5, 0.05]]
    assert texts(ax) == ["weight: constant", "weight: persistence", "the theorem's bound"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_small_multiples_name_bandwidth_and_resolution():
    fine = PersistenceImage((0.0, 2.0), (0.0, 2.0), bandwidth=0.4, resolution=(3, 5))
    figure = bandwidth_and_resolution_figure(PAIRS, [[(VALUES, IMAGE)] * 2, [(VALUES, fine)] * 2])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["h = 0.8, 3×5"] * 2 + ["h = 0.4, 3×5"] * 2
    assert all(len(offsets(ax)) == 2 for ax in figure.axes)
    assert [ax.get_ylabel() for ax in figure.axes] == ["persistence", ""] * 2


def test_profiles_share_the_larger_maximum():
    first, second = torch.tensor([0.0, 4.0, 2.0]), torch.tensor([1.0, 2.0, 0.0])
    figure = confusable_profiles_figure(([1.0, 2.0], [1.5]), {0.1: (first, second)}, (0.0, 3.0))
    (ax,) = figure.axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0, 1, 0.5])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.25, 0.5, 0])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 1.5, 3])
    assert texts(ax) == ["2 bars", "1 bars"]
    np.testing.assert_allclose(offsets(ax)[:, 0], [1.0, 2.0, 1.5])


def test_accuracies_show_every_repetition_the_mean_and_guessing():
    (ax,) = accuracies_figure({"images": [0.8, 0.9], "numbers": [0.4, 0.6]}, chance=0.25).axes
    assert texts(ax) == ["0.50 ± 0.14", "0.85 ± 0.07", "guessing"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["numbers", "images"]
    np.testing.assert_allclose(offsets(ax), [[0.4, 0], [0.6, 0], [0.8, 1], [0.9, 1]])
    assert to_rgba(ACCENT)[:3] == tuple(ax.collections[1].get_facecolor()[0][:3])  # the first is the point
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx([0.5, 0.85, 0.25])


def test_identical_columns_are_drawn_as_image_and_as_one_curve():
    flat = PersistenceImage((0.0, 0.0), (0.0, 2.0), bandwidth=0.8, resolution=(3, 5))
    left, right = identical_columns_figure(torch.tensor([0.5, 1.0]), VALUES, flat).axes
    np.testing.assert_allclose(right.lines[0].get_ydata(), VALUES[:, 0].detach())
    np.testing.assert_allclose(right.lines[0].get_xdata(), [0, 1, 2])
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["15 pixels", "3 numbers"]


def test_gradients_are_drawn_on_logarithmic_axes_beside_the_window():
    gradients = {"image": [1e-9, 1.0], "bar lengths": [2.0, 1.0]}
    (ax,) = gradient_at_the_edge_figure([0.1, 1.0], gradients, (0.5, 2.0)).axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert {"image", "bar lengths"} < set(texts(ax))
    (band,) = ax.patches
    assert (band.get_x(), band.get_x() + band.get_width()) == (0.5, 2.0)
    assert math.isclose(ax.texts[0].xy[0], 1.0)  # the middle of the band


def test_two_drawings_are_the_same_bytes():
    assert drawn(image_with_numbers_figure(PAIRS, VALUES, IMAGE)) == drawn(
        image_with_numbers_figure(PAIRS, VALUES, IMAGE)
    )


def test_bars_of_dimension_one_are_purple(ax):
    draw_bars(ax, PAIRS, dimension=1)
    assert tuple(ax.collections[0].get_facecolor()[0][:3]) == to_rgba(H1)[:3]
