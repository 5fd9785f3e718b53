import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from topokd_lib.plotting.embeddings import draw_embedding

mpl.use("agg")

POINTS, LABELS = np.arange(12.0).reshape(6, 2), [0, 0, 0, 2, 2, 2]


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def test_one_colour_for_each_class_and_its_name_at_the_median(ax):
    draw_embedding(ax, torch.tensor(POINTS), torch.tensor(LABELS), classes=["cat", "dog", "ship"])
    assert [len(dots.get_offsets()) for dots in ax.collections] == [3, 3]
    colours = [tuple(dots.get_facecolor()[0]) for dots in ax.collections]
    assert len(set(colours)) == 2
    assert [(text.get_text(), *text.xy) for text in ax.texts] == [("cat", 2.0, 3.0), ("ship", 8.0, 9.0)]
    assert not ax.axison


def test_a_class_keeps_its_colour_where_others_are_missing(ax):
    draw_embedding(ax, POINTS[3:], LABELS[3:], classes=["cat", "dog", "ship"])
    assert tuple(ax.collections[0].get_facecolor()[0])[:3] == pytest.approx(
        mpl.colormaps["tab10"](2)[:3], abs=0.01
    )


@pytest.mark.parametrize("labels", [[0, 1], [0, 0, 0, 0, 0, 3], [0, 0, 0, 0, 0, -1]])
def test_labels_that_do_not_fit(ax, labels):
    with pytest.raises(ValueError, match="6 points need as many labels in 0 … 1"):
        draw_embedding(ax, POINTS, labels, classes=["cat", "dog"])
