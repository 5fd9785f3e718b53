"""Minimum spanning trees: against Kruskal's algorithm, with and without numba, with ties and duplicates."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from topokd_lib.topology import (
    edge_lengths,
    h0_deaths,
    minimum_spanning_tree,
    mst_edges,
    prim,
    rips_diagrams,
    spanning_tree,
)

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
        for module in (prim, spanning_tree):
            monkeypatch.setattr(module, "compiled", lambda: None)
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


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (torch.tensor([[[0, 3]]]), "here from 0 to 2, got 0 to 3"),
        (torch.tensor([[[-1, 0]]]), "here from 0 to 2, got -1 to 0"),
        (torch.tensor([[0, 1]]), r"of shape \(1, edges, 2\).*got torch.int64 of shape \(1, 2\)"),
        (torch.zeros(2, 1, 2, dtype=torch.int64), r"one list for each cloud.*\(2, 1, 2\)"),
        (torch.zeros(1, 1, 2), "pairs of int64.*got torch.float32"),
    ],
)
def test_edges_between_points_that_are_not_there(edges, message):
    """Compiled loops would read whatever lies in memory."""
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(edge_lengths)(torch.zeros(1, 3, 2), edges)


@pytest.mark.parametrize(
    "function", [edge_lengths, h0_deaths, minimum_spanning_tree, rips_diagrams, mst_edges]
)
def test_what_is_not_a_tensor(function, unchecked):
    arguments = (np.zeros((1, 3, 2)),) + ((None,) if function is edge_lengths else ())
    with pytest.raises(ValueError, match=r"are a tensor, got ndarray; convert with torch.as_tensor"):
        inspect.unwrap(function)(*arguments)


def test_the_diagonal_is_not_read():
    distances = torch.tensor([[[np.nan, 1.0], [1.0, np.inf]]])
    assert mst_edges(distances).tolist() == [[[0, 1]]]


# Point clouds


def clouds_of_all_kinds():
    """What features look like, and what breaks short cuts: duplicates, clusters, extreme scales."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(1, 24, 7, generator=generator, dtype=torch.float64)
    pairs = plain.repeat_interleave(2, dim=1)
    clusters = torch.cat([1e-4 * plain, 1e-4 * plain + 5], dim=1)
    return {
        "plain": plain,
        "rectified": plain.relu(),
        "duplicates": pairs,
        "all equal": torch.ones_like(plain),
        "clusters": clusters,
        "far": plain + 100,
        "tiny": 1e-30 * plain,
        "huge": 1e30 * plain,
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", clouds_of_all_kinds())
def test_deaths_are_single_linkage_with_and_without_numba(engine, kind, dtype):
    points = clouds_of_all_kinds()[kind].to(dtype)
    exact = points.double() / (points.double().abs().max() or 1)
    expected = linkage(pdist(exact[0]), "single")[:, 2] * float(points.double().abs().max() or 1)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-11
    for wanted in (False, True):
        found = h0_deaths(points.clone().requires_grad_(wanted)).detach()
        assert found.dtype == dtype
        np.testing.assert_allclose(found[0], expected, rtol=tolerance)
        assert (found.diff(dim=1) >= 0).all()


def test_gradients_with_and_without_numba(engine):
    points = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    edges = minimum_spanning_tree(points)
    assert torch.autograd.gradcheck(edge_lengths, (points, edges))
    assert torch.autograd.gradgradcheck(edge_lengths, (points, edges))
    assert torch.autograd.gradcheck(h0_deaths, points)
    assert torch.autograd.gradgradcheck(h0_deaths, points)


def test_both_ways_to_measure_pull_the_same(engine):
    points = torch.randn(3, 9, 4)
    points[:, 3] = points[:, 5]  # an edge of length 0 has the gradient 0
    edges, weights = minimum_spanning_tree(points), torch.rand(3, 8)
    gradients = []
    for measure in (edge_lengths, spanning_tree._edge_lengths):
        leaf = points.clone().requires_grad_()
        (weights * measure(leaf, edges)).sum().backward()
        gradients.append(leaf.grad)
    np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


def test_points_that_are_not_contiguous():
    points = torch.randn(5, 12, 2).permute(2, 1, 0)
    assert torch.equal(h0_deaths(points), h0_deaths(points.contiguous()))
    leaf = points.clone().requires_grad_()
    h0_deaths(leaf).sum().backward()
    assert leaf.grad.isfinite().all()


def test_a_cloud_is_the_same_alone_and_in_a_batch():
    points = torch.randn(70, 20, 6)
    points[3] = points[3, :1]
    points[5, 1] = points[5, 0]
    together = h0_deaths(points)
    assert torch.equal(together, torch.cat([h0_deaths(cloud[None]) for cloud in points]))


GROWTH = """
import resource, sys, torch
from topokd_lib.topology import PersistenceImage, rips_diagrams
assert "numba" not in sys.modules, "it is imported when it is needed"
image = PersistenceImage((0.0, 0.0), (0.0, 20.0), bandwidth=0.5)
cloud = torch.randn(1, 64, 64)
def highest(count):  # a batch that takes no room itself
    image(rips_diagrams(cloud.expand(count, -1, -1))[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
few = highest(1000)
print(highest(11000) - few)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the highest use of memory is in KiB on Linux only")
def test_memory_grows_by_no_more_than_the_results():
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    # Of each cloud: an image of 400 numbers, deaths and pairs of 63 bars, edges of the few clouds at work.
    results = 10_000 * 4 * (400 + 63 + 2 * 63 + 63) / 2**20
    assert float(done.stdout) < 1.5 * results, "distances alone would be 160 MiB"


def test_without_numba_nothing_is_compiled():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from topokd_lib.topology import h0_deaths, prim\n"
        "print(prim.compiled(), h0_deaths(torch.tensor([[[0.0], [2.0]]])).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=1) == ["None", "[[2.0]]\n"]


def test_diagrams_do_not_depend_on_numba(monkeypatch):
    points = torch.randn(4, 16, 5)
    compiled = rips_diagrams(points)[0].pairs
    for module in (prim, spanning_tree):
        monkeypatch.setattr(module, "compiled", lambda: None)
    np.testing.assert_allclose(rips_diagrams(points)[0].pairs, compiled, rtol=1e-6)
