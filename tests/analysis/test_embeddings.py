"""UMAP keeps neighbours together, repeats itself, and is asked for by name when it is missing."""

import sys

import pytest
import torch

from topokd_lib.analysis import umap_embedding
from topokd_lib.data import load_digits


@pytest.fixture(scope="module")
def digits():
    data = load_digits(size=8)
    return data.test_images[:, 0].flatten(1).float(), data.test_labels


def test_digits_of_a_class_are_neighbours_and_the_seed_decides(digits):
    points, labels = digits
    placed = umap_embedding(points, seed=1)
    assert placed.shape == (360, 2)
    distances = torch.cdist(placed, placed).fill_diagonal_(torch.inf)
    assert (labels[distances.argmin(dim=1)] == labels).float().mean() > 0.9
    assert torch.equal(umap_embedding(points[:80], seed=1), umap_embedding(points[:80], seed=1))
    assert not torch.equal(umap_embedding(points[:80], seed=1), umap_embedding(points[:80], seed=2))


class TestErrors:
    @pytest.mark.parametrize("neighbours", [1, 5])
    def test_neighbours(self, neighbours):
        with pytest.raises(ValueError, match=f"got neighbours={neighbours} and 5 points"):
            umap_embedding(torch.rand(5, 2), neighbours=neighbours)

    def test_points_that_are_not_finite(self):
        with pytest.raises(ValueError, match="features must be finite, 1 points are not"):
            umap_embedding(torch.tensor([[0.0], [1.0], [torch.nan], [2.0]]), neighbours=2)

    def test_umap_that_is_not_there(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "umap", None)
        with pytest.raises(ImportError, match=r"needs umap-learn.*pip install 'topokd-lib\[book\]'"):
            umap_embedding(torch.rand(9, 2), neighbours=3)
