"""Minimum spanning trees: against Kruskal's algorithm, with and without numba, with ties and duplicates."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topokd_lib.topology import mst_edges, prim, spanning_tree

quick = settings(deadline=None, max_examples=60)


def kruskal(distances):
    """Edges after a stable sort of the upper triangle: equal ones stay in the order of (i, j)."""
    n = len(distances)
    first, second = np.triu_indices(n, 1)
    component = list(range(n))
    tree = []
    for place in np.argsort(distances[first, second], kind="stable"):
        a, b = component[first[place]], component[second[place]]
        if a != b:
            component = [a if c == b else c for c in component]
            tree.append([first[place], second[place]])
    return np.array(tree).reshape(-1, 2)


def matrices(max_points=9):
    """Symmetric matrices of few different numbers: nearly all edges are tied, many have the length 0."""
    shapes = st.tuples(st.integers(1, 3), st.integers(1, max_points)).map(lambda s: (s[0], s[1], s[1]))
    return hnp.arrays(np.float64, shapes, elements=st.integers(0, 4).map(float)).map(
        lambda m: torch.from_numpy(np.triu(m, 1) + np.triu(m, 1).transpose(0, 2, 1))
    )


@pytest.fixture(params=["numba", "numpy"])
def engine(request, monkeypatch):
    if request.param == "numba":
        pytest.importorskip("numba", reason="numba is optional (extra: fast)")
    else:
        monkeypatch.setattr(prim, "compiled", lambda: None)
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_tree_is_kruskals_also_with_ties_and_zeros(engine, dtype):
    @given(matrices())
    @quick
    def check(distances):
        found = mst_edges(distances.to(dtype))
        for tree, matrix in zip(found, distances.numpy(), strict=True):
            np.testing.assert_array_equal(tree, kruskal(matrix))

    check()


def test_large_graphs_in_chunks(engine, monkeypatch):
    points = torch.randn(9, 33, 4, dtype=torch.float64)
    distances = torch.cdist(points, points)
    expected = [kruskal(matrix) for matrix in distances.numpy()]
    np.testing.assert_array_equal(mst_edges(distances), expected)
    monkeypatch.setattr(spanning_tree, "_CHUNK", 2 * 33**2)
    np.testing.assert_array_equal(mst_edges(distances), expected)


def test_roundings_between_the_triangles_are_no_error():
    upper = torch.rand(1, 8, 8, dtype=torch.float64).triu(1)
    distances = upper + upper.mT
    noisy = upper + upper.mT * (1 + 1e-7 * torch.rand(1, 8, 8))
    assert not torch.equal(noisy, noisy.mT)
    assert torch.equal(mst_edges(noisy), mst_edges(distances))


def test_half_precision_and_gradients_do_not_get_in_the_way():
    distances = torch.tensor([[[0.0, 2, 1], [2, 0, 3], [1, 3, 0]]], requires_grad=True)
    for dtype in (torch.float16, torch.bfloat16):
        assert mst_edges(distances.to(dtype)).tolist() == [[[0, 2], [0, 1]]]
    edges = mst_edges(distances)
    distances[0, edges[0, :, 0], edges[0, :, 1]].sum().backward()
    assert distances.grad.tolist() == [[[0, 1, 1], [0, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (torch.zeros(3, 3), r"\(batch, points, points\), got shape \(3, 3\); add a batch axis"),
        (torch.zeros(1, 3, 4), r"square matrices .* got shape \(1, 3, 4\)"),
        (torch.zeros(1, 0, 0), "nothing in distances of shape"),
        (torch.zeros(0, 2, 2), "nothing in distances of shape"),
        (torch.zeros(1, 2, 2, dtype=torch.int64), r"real, got torch.int64; convert with distances.float"),
        (torch.tensor([[[0.0, np.nan], [np.nan, 0.0]]]), r"nan at \(graph, i, j\) = \(0, 0, 1\) \(2 such"),
        (torch.tensor([[[0.0, np.inf], [np.inf, 0.0]]]), r"finite and at least 0: inf"),
        (torch.tensor([[[0.0, -1.0], [-1.0, 0.0]]]), r"finite and at least 0: -1.0"),
        (torch.tensor([[[0.0, 1.0], [2.0, 0.0]]]), r"triangles of graph 0 differ by 1; symmetrise"),
    ],
)
def test_what_is_not_a_matrix_of_distances(distances, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(mst_edges)(distances)


def test_the_diagonal_is_not_read():
    distances = torch.tensor([[[np.nan, 1.0], [1.0, np.inf]]])
    assert mst_edges(distances).tolist() == [[[0, 1]]]
