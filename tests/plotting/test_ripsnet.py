import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from topokd_lib.data import sample_cloud
from topokd_lib.plotting.ripsnet import clouds_and_images_figure, estimates_figure, robustness_figure
from topokd_lib.plotting.style import use_house_style
from topokd_lib.topology import PersistenceImage, rips_diagrams

mpl.use("agg")

IMAGE = PersistenceImage((0.0, 2.0), (0.0, 2.0), bandwidth=0.2, resolution=(5, 4))


@pytest.fixture(autouse=True)
def house():
    with mpl.rc_context():
        use_house_style()
        yield
        plt.close("all")


def test_every_cloud_stands_above_its_exact_image_in_one_range_of_brightness():
    clouds = {kind: sample_cloud(kind, 30, seed=0) for kind in ("circle", "disc")}
    figure = clouds_and_images_figure(clouds, IMAGE)
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title(loc="left") for ax in above] == list(clouds)
    for ax, cloud in zip(below, clouds.values(), strict=True):
        expected = IMAGE(rips_diagrams(cloud[None], dimensions=(1,))[0])[0]
        np.testing.assert_allclose(ax.images[0].get_array(), expected)
    assert len({ax.images[0].get_clim() for ax in below}) == 1


def test_estimates_stand_below_the_exact_images_and_share_their_brightness():
    exact, estimate = torch.rand(20), torch.rand(20) / 2
    figure = estimates_figure({"one": (exact, estimate), "two": (estimate, exact)}, IMAGE)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), exact.reshape(5, 4))
    np.testing.assert_allclose(figure.axes[2].images[0].get_array(), estimate.reshape(5, 4))
    assert figure.axes[0].images[0].get_clim() == figure.axes[2].images[0].get_clim()


def test_robustness_is_drawn_in_per_cent_with_the_lazy_answer_at_one():
    figure = robustness_figure([0.0, 0.1], {"exact": [0.0, 0.6], "RipsNet": [0.5, 0.5]})
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines["exact"].get_xdata()) == [0, 10]
    assert list(lines["RipsNet"].get_ydata()) == [0.5, 0.5]
    assert any(list(line.get_ydata()) == [1, 1] for line in figure.axes[0].lines)
