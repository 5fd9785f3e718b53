"""Similarity graphs against scipy, by hand, and what must hold for every cloud."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csgraph

from topokd_lib.topology import (
    cosine_graph,
    graph_spectrum,
    h0_deaths,
    minimum_spanning_tree,
    nearest_neighbours,
    normalised_adjacency,
    normalised_laplacian,
    signal_smoothness,
    spectral_distance,
)

SEEDS = st.integers(0, 10**6)


def cloud(seed, count=9, dim=4):
    return torch.rand(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def graph(seed, count=9):
    return cosine_graph(cloud(seed, count))


@pytest.mark.parametrize("isolated", [False, True])
def test_scipy_agrees_on_the_laplacian(isolated):
    adjacency = graph(0)
    if isolated:
        adjacency[3] = adjacency[:, 3] = 0
    expected = csgraph.laplacian(adjacency.numpy(), normed=True)
    np.testing.assert_allclose(normalised_laplacian(adjacency), expected, atol=1e-12)


@given(seed=SEEDS)
def test_spectrum_of_a_graph_lies_between_0_and_2(seed):
    spectrum = graph_spectrum(graph(seed))
    assert spectrum[0].item() == pytest.approx(0, abs=1e-9)
    assert (spectrum.diff() >= 0).all()
    assert spectrum[-1] <= 2 + 1e-9
    assert spectrum.sum().item() == pytest.approx(9)  # the trace


def test_number_of_zeros_is_the_number_of_components():
    blocks = torch.block_diag(graph(0, 4), graph(1, 3), torch.zeros(1, 1, dtype=torch.float64))
    assert int((graph_spectrum(blocks).abs() < 1e-9).sum()) == 3


def test_complete_graph_by_hand():
    """Eigenvalues 0 and, four times, 5/4."""
    complete = torch.ones(5, 5) - torch.eye(5)
    np.testing.assert_allclose(graph_spectrum(complete), [0, 1.25, 1.25, 1.25, 1.25], atol=1e-6)


@given(seed=SEEDS, factor=st.floats(0.01, 100))
def test_the_size_of_points_and_of_weights_is_ignored(seed, factor):
    points = cloud(seed)
    sizes = torch.linspace(0.5, 2, 9, dtype=torch.float64)[:, None]
    torch.testing.assert_close(cosine_graph(points * sizes), cosine_graph(points))
    adjacency = cosine_graph(points)
    torch.testing.assert_close(normalised_adjacency(factor * adjacency), normalised_adjacency(adjacency))


@given(first=SEEDS, second=SEEDS)
def test_spectra_are_nearer_than_laplacians(first, second):
    """Hoffman and Wielandt; the names of the vertices count on the right only."""
    one, other = graph(first), graph(second)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(first))
    bound = torch.linalg.matrix_norm(normalised_laplacian(one) - normalised_laplacian(other))
    assert spectral_distance(one, other) <= bound + 1e-9
    renamed = one[order][:, order]
    assert spectral_distance(one, renamed) < 1e-9


@given(seed=SEEDS)
def test_smoothness_is_the_sum_over_edges(seed):
    adjacency = graph(seed)
    signals = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    scaled = signals / adjacency.sum(dim=1).sqrt()[:, None]
    changes = (scaled[:, None] - scaled[None, :]).square()
    expected = (adjacency[..., None] * changes).sum(dim=(0, 1)) / (2 * signals.square().sum(dim=0))
    found = signal_smoothness(adjacency, signals)
    torch.testing.assert_close(found, expected)
    assert ((found > -1e-9) & (found < 2 + 1e-9)).all()


def test_eigenvectors_are_as_smooth_as_their_eigenvalues():
    adjacency = graph(5)
    values, vectors = torch.linalg.eigh(normalised_laplacian(adjacency))
    torch.testing.assert_close(signal_smoothness(adjacency, vectors), values, atol=1e-9, rtol=1e-6)


@given(seed=SEEDS, count=st.integers(1, 12))
def test_neighbours_are_symmetric_and_every_vertex_has_its_strongest(seed, count):
    adjacency = graph(seed)
    kept = nearest_neighbours(adjacency, count)
    assert torch.equal(kept, kept.T)
    assert not kept.diagonal().any()
    assert (kept.sum(dim=1) >= min(count, 8)).all()
    strongest = adjacency.argsort(dim=1, descending=True)[:, : min(count, 8)]
    assert kept.gather(1, strongest).all()


def test_a_vertex_names_no_vertex_that_it_is_not_joined_to():
    pair = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    kept = nearest_neighbours(torch.block_diag(pair, pair), 3)
    assert torch.equal(kept, torch.block_diag(pair, pair).bool())


def test_obtuse_angles_and_the_origin_are_not_joined():
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    adjacency = cosine_graph(points)
    assert adjacency[0, 1] == 0
    assert adjacency[2].abs().sum() == 0
    normalised = normalised_adjacency(adjacency)
    normalised.square().sum().backward()
    assert torch.isfinite(normalised).all()
    assert torch.isfinite(points.grad).all()


def test_strongest_edges_that_join_everything_are_those_of_h0():
    """On the unit sphere the squared distance is 2 − 2 cos: one order of edges, one spanning tree."""
    points = torch.nn.functional.normalize(cloud(3), dim=1)
    tree = csgraph.minimum_spanning_tree((2 - 2 * cosine_graph(points)).fill_diagonal_(0).numpy())
    deaths = np.sort(np.sqrt(tree.data))
    np.testing.assert_allclose(h0_deaths(points[None])[0], deaths, rtol=1e-6)
    assert minimum_spanning_tree(points[None]).shape[1] == len(deaths)


class TestErrors:
    def test_a_single_point(self):
        with pytest.raises(ValueError, match="needs at least 2 points, got 1"):
            cosine_graph(torch.ones(1, 3))

    def test_no_neighbour(self):
        with pytest.raises(ValueError, match="keeps at least one neighbour, got 0"):
            nearest_neighbours(torch.ones(3, 3), 0)

    def test_a_class_without_a_point(self):
        with pytest.raises(ValueError, match="signal 1 is 0 at every vertex"):
            signal_smoothness(graph(0), torch.eye(9, 2, dtype=torch.float64) * torch.tensor([1.0, 0.0]))
