"""Vietoris–Rips persistence: against hand results, single linkage, gudhi and the official code."""

import inspect
import tracemalloc
from dataclasses import replace
from importlib.util import find_spec

import gudhi
import numpy as np
import pytest
import torch
from gudhi.hera import bottleneck_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology import (
    check_points,
    edge_lengths,
    h0_deaths,
    minimum_spanning_tree,
    rips,
    rips_diagrams,
    spanning_tree,
)

NUMBA = pytest.mark.skipif(find_spec("numba") is None, reason="numba is optional (extra: fast)")
GIOTTO = pytest.mark.skipif(find_spec("gph") is None, reason="giotto-ph is optional (extra: giotto)")
SQUARE = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])

# Every way through the engines that know loops: some work differently when a gradient is wanted.
ROUTES = [
    pytest.param("cohomology", False, marks=NUMBA),
    pytest.param("cohomology", True, marks=NUMBA),
    ("gudhi", False),
    ("gudhi", True),
    pytest.param("giotto-ph", False, marks=GIOTTO),
    pytest.param("giotto-ph", True, marks=GIOTTO),
]
quick = settings(deadline=None, max_examples=40)


def shapes(max_points=12):
    return st.tuples(st.integers(1, 3), st.integers(1, max_points), st.integers(1, 4))


def grid_clouds(max_points=12):
    """Coordinates on a coarse grid: full of ties and duplicates, and every distance is well scaled."""
    elements = st.integers(-40, 40).map(lambda number: number / 8)
    return hnp.arrays(np.float64, shapes(max_points), elements=elements).map(torch.from_numpy)


def any_clouds():
    return hnp.arrays(np.float64, shapes(), elements=st.floats(-1e3, 1e3, allow_subnormal=False)).map(
        torch.from_numpy
    )


def single_linkage(cloud):
    return linkage(pdist(cloud.numpy()), "single")[:, 2] if len(cloud) > 1 else np.empty(0)


def gudhi_diagram(cloud, dimension):
    """The official route: all simplices up to the largest distance, values without generators."""
    tree = gudhi.RipsComplex(points=cloud.numpy()).create_simplex_tree(max_dimension=dimension + 1)
    tree.compute_persistence()
    bars = tree.persistence_intervals_in_dimension(dimension).reshape(-1, 2)
    return bars[np.isfinite(bars[:, 1])]


def in_order(bars):
    bars = np.asarray(bars)
    return bars[np.lexsort(bars.T)]


def circle(points, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(points, dtype=torch.float64) * 2 * torch.pi / points
    cloud = torch.stack([angle.cos(), angle.sin()], dim=1)
    return cloud + noise * torch.randn(points, 2, generator=generator, dtype=torch.float64)


# Against other computations


@given(any_clouds())
@quick
def test_deaths_are_the_heights_of_single_linkage(points):
    for deaths, cloud in zip(h0_deaths(points), points, strict=True):
        scale = float(cloud.abs().max()) or 1.0  # squares of scipy's smallest distances would vanish
        np.testing.assert_allclose(deaths / scale, single_linkage(cloud / scale), rtol=1e-9, atol=1e-12)


def above(points, engine, gradient, **options):
    """Diagrams of all dimensions that the engine knows, by the route with or without gradient."""
    points = points.clone().requires_grad_(gradient)
    dimensions = (0, 1) if engine == "cohomology" else (0, 1, 2)
    return [
        replace(d, pairs=d.pairs.detach())
        for d in rips_diagrams(points, dimensions=dimensions, engine=engine, **options)
    ]


@pytest.mark.parametrize(("engine", "gradient"), ROUTES)
def test_engines_agree_with_each_other_and_with_the_full_complex(engine, gradient):
    @given(grid_clouds(max_points=9))
    @quick
    def check(points):
        (tree,) = rips_diagrams(points, engine="mst")
        full = above(points, engine, gradient)
        for index, cloud in enumerate(points):
            np.testing.assert_allclose(in_order(tree[index]), in_order(full[0][index]), atol=1e-12)
            for dimension, diagrams in enumerate(full):
                found, expected = diagrams[index], gudhi_diagram(cloud, dimension)
                np.testing.assert_allclose(in_order(found), in_order(expected), atol=1e-12)

    check()


@pytest.mark.parametrize(("engine", "gradient"), ROUTES)
def test_engines_agree_when_long_edges_are_cut(engine, gradient):
    @given(grid_clouds(max_points=9), st.floats(0.01, 8))
    @quick
    def check(points, longest):
        options = {"max_edge_length": longest, "essential": "keep"}
        (tree,) = rips_diagrams(points, engine="mst", **options)
        full = above(points, engine, gradient, **options)
        assert tree.dimension == full[0].dimension == 0
        for one, other in zip(tree.to_list(), full[0].to_list(), strict=True):
            np.testing.assert_allclose(in_order(one), in_order(other), atol=1e-12)
        (expected,) = rips_diagrams(
            points.clone().requires_grad_(), dimensions=(1,), engine="gudhi", **options
        )
        for one, other in zip(full[1].to_list(), expected.to_list(), strict=True):
            np.testing.assert_allclose(in_order(one), in_order(other.detach()), atol=1e-12)

    check()


@pytest.mark.parametrize(("engine", "gradient"), ROUTES)
def test_engines_agree_on_embeddings_in_float32(engine, gradient):
    points = torch.randn(3, 40, 24).relu() + 100
    found = above(points, engine, gradient)
    for index, cloud in enumerate(points.double()):
        for dimension in (0, 1):
            expected = gudhi_diagram(cloud, dimension)
            np.testing.assert_allclose(in_order(found[dimension][index]), in_order(expected), rtol=1e-6)


@pytest.mark.parametrize(("engine", "gradient"), [("mst", False), *ROUTES])
@pytest.mark.parametrize("group", ["normal_64x64", "normal_64x128", "structured_64x64", "structured_64x128"])
def test_official_diagrams(group, engine, gradient, golden):
    values = golden("topkd/pd_pi_A")
    points = torch.from_numpy(values[f"{group}/X"]).double().requires_grad_(gradient)
    dimensions = (0,) if engine == "mst" else (0, 1)
    for dimension, diagrams in enumerate(rips_diagrams(points, dimensions=dimensions, engine=engine)):
        offsets = values[f"{group}/h{dimension}_offsets"]
        for index, found in enumerate(diagrams.to_list()):
            expected = values[f"{group}/h{dimension}_points"][offsets[index] : offsets[index + 1]]
            expected = expected[np.isfinite(expected[:, 1])]
            np.testing.assert_allclose(found[:, 1].detach(), expected[:, 1], rtol=1e-12)
            # Bars that die together come in another order from gudhi.
            np.testing.assert_allclose(in_order(found.detach()), in_order(expected), rtol=1e-12)


@pytest.mark.parametrize(("edge", "bars"), [(0, 60), (1, 15), (2, 1), (3, 0), (4, 0)])
def test_official_diagrams_of_unusual_clouds(edge, bars, golden):
    values = golden("topkd/pd_pi_A")
    points = torch.from_numpy(values[f"edge{edge}/X"]).double()[None]
    h0, h1 = rips_diagrams(points, dimensions=(0, 1))
    assert h0.counts.tolist() == [bars]
    expected = values[f"edge{edge}/h0_points"]
    np.testing.assert_allclose(h0[0], expected[np.isfinite(expected[:, 1])], rtol=1e-12)
    np.testing.assert_allclose(in_order(h1[0]), in_order(values[f"edge{edge}/h1_points"]), rtol=1e-12)


# By hand


def test_a_circle_has_one_loop_and_two_circles_have_two():
    one = circle(20, 0.0, seed=0)
    points = torch.stack([torch.cat([one, one + 10]), torch.cat([one, one])])
    _, loops = rips_diagrams(points, dimensions=(0, 1))
    # Rounding makes loops of length 1e-16 on a regular polygon; a short one opens where two circles meet.
    assert (loops.persistence > 0.5).sum(dim=1).tolist() == [2, 1]
    side = 2 * np.sin(np.pi / 20)
    longest = loops[1][loops[1].diff(dim=1).argmax()]
    # A circle closes with the first chord that spans a third of the turn, here 7 of 20 steps.
    np.testing.assert_allclose(longest, [side, 2 * np.sin(np.pi * 7 / 20)])


def test_a_sphere_has_a_void():
    octahedron = torch.cat([torch.eye(3), -torch.eye(3)])[None]
    (voids,) = rips_diagrams(octahedron, dimensions=(2,))
    np.testing.assert_allclose(voids[0], [[2**0.5, 2]], rtol=1e-6)


def test_values_are_diameters_not_radii():
    assert h0_deaths(torch.tensor([[[0.0], [2.0]]])).item() == 2.0


def test_a_loop_that_is_never_filled_is_essential():
    options = {"dimensions": (0, 1), "max_edge_length": 1.2}
    h0, h1 = rips_diagrams(SQUARE, essential="keep", **options)
    assert h0[0].tolist() == [[0, 1], [0, 1], [0, 1], [0, np.inf]]
    assert h1[0].tolist() == [[1, np.inf]]
    h0, h1 = rips_diagrams(SQUARE, essential="drop", **options)
    assert (h0.counts.item(), h1.counts.item()) == (3, 0)
    assert h0.pairs.isfinite().all()


@pytest.mark.parametrize("engine", ["mst", "gudhi"])
def test_one_point_has_one_endless_bar_and_no_other(engine):
    point = torch.zeros(2, 1, 3)
    assert rips_diagrams(point, engine=engine)[0].pairs.shape == (2, 0, 2)
    (kept,) = rips_diagrams(point, engine=engine, essential="keep")
    assert kept.pairs.tolist() == [[[0, np.inf]], [[0, np.inf]]]


@pytest.mark.parametrize("engine", ["mst", "gudhi"])
def test_duplicates_add_no_bar(engine):
    points = torch.tensor([[[0.0], [0.0], [3.0]], [[0.0], [1.0], [3.0]]])
    (diagrams,) = rips_diagrams(points, engine=engine)
    assert diagrams.counts.tolist() == [1, 2]
    assert diagrams[0].tolist() == [[0, 3]]
    assert h0_deaths(points).tolist() == [[0, 3], [1, 2]]


@pytest.mark.parametrize("engine", ["auto", "gudhi", pytest.param("giotto-ph", marks=GIOTTO)])
def test_engines_of_all_dimensions_give_the_dimensions_asked_for(engine):
    for dimensions in ((1,), (2, 0), (1, 0)):
        found = rips_diagrams(SQUARE, dimensions=dimensions, engine=engine)
        assert tuple(diagrams.dimension for diagrams in found) == dimensions


@NUMBA
def test_auto_takes_cohomology_for_loops_of_few_points(monkeypatch):
    called = []
    for name in ("_cohomology", "_gudhi"):
        real = getattr(rips, name)
        monkeypatch.setattr(rips, name, lambda *a, real=real, name=name: called.append(name) or real(*a))
    rips_diagrams(SQUARE, dimensions=(1, 0))
    rips_diagrams(SQUARE, dimensions=(1, 2))
    monkeypatch.setattr(rips, "_FEW", 3)
    rips_diagrams(SQUARE, dimensions=(1,))
    assert called == ["_cohomology", "_gudhi", "_gudhi"]


@NUMBA
def test_loops_of_a_cloud_that_needs_many_additions():
    """Points on a circle: the one long loop is filled by a triangle on which many short ones have a claim."""
    points = circle(150, 0.1, 0)[None]
    found, expected = (
        rips_diagrams(points, dimensions=(1,), engine=engine)[0][0] for engine in ("cohomology", "gudhi")
    )
    np.testing.assert_allclose(in_order(found), in_order(expected), atol=1e-12)


def test_cohomology_says_what_it_needs_and_knows(monkeypatch):
    with pytest.raises(ValueError, match=r"dimensions 0 and 1 only, asked for \(1, 2\); use engine='gudhi'"):
        rips_diagrams(SQUARE, dimensions=(1, 2), engine="cohomology")
    monkeypatch.setattr(rips, "compiled", lambda: None)
    with pytest.raises(ImportError, match=r"numba.*topokd-lib\[fast\].*engine='gudhi' computes the same"):
        rips_diagrams(SQUARE, dimensions=(1,), engine="cohomology")


@pytest.mark.parametrize("installed", [False, True])
def test_auto_takes_giotto_for_gradients_without_numba_where_it_is(installed, monkeypatch):
    called = []
    monkeypatch.setattr(rips, "compiled", lambda: None)

    def engine(name):
        real = getattr(rips, name)
        return lambda points, dimensions, *rest: (
            called.append((name, tuple(dimensions))) or real(points, dimensions, *rest)
        )

    for name in ("_spanning_tree", "_gudhi"):
        monkeypatch.setattr(rips, name, engine(name))
    monkeypatch.setattr(
        rips, "_giotto_ph", lambda *rest: called.append(("_giotto_ph", rest[1])) or rips._gudhi(*rest)
    )
    monkeypatch.setattr(rips, "find_spec", lambda name: installed or None)
    points = SQUARE.clone().requires_grad_()
    rips_diagrams(points)
    rips_diagrams(points.detach(), dimensions=(1, 0))
    assert called == [("_spanning_tree", (0,)), ("_spanning_tree", (0,)), ("_gudhi", (1,))]
    called.clear()
    with torch.no_grad():
        rips_diagrams(points, dimensions=(1,))
    assert called == [("_gudhi", (1,))]
    called.clear()
    rips_diagrams(points, dimensions=(1,))
    assert called[0][0] == ("_giotto_ph" if installed else "_gudhi")


def test_an_engine_that_is_not_installed_names_the_extra(monkeypatch):
    monkeypatch.setattr(rips, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"giotto-ph.*topokd-lib\[giotto\].*engine='gudhi' computes the same"
    ):
        rips_diagrams(SQUARE, dimensions=(1,), engine="giotto-ph")


def test_dimensions_come_in_the_order_asked_for():
    loops, components = rips_diagrams(SQUARE, dimensions=(1, 0))
    assert (loops.dimension, components.dimension) == (1, 0)
    assert (loops.counts.item(), components.counts.item()) == (1, 3)


# What persistence does not depend on, and how it scales


@given(grid_clouds(), st.randoms(use_true_random=False))
@quick
def test_order_of_the_points_does_not_matter(points, random):
    order = list(range(points.shape[1]))
    random.shuffle(order)
    np.testing.assert_allclose(h0_deaths(points[:, order]), h0_deaths(points), atol=1e-12)


@given(grid_clouds(max_points=8), st.integers(0, 1000))
@quick
def test_isometries_do_not_matter_and_scale_scales(points, seed):
    generator = torch.Generator().manual_seed(seed)
    dim = points.shape[2]
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    shift = 10 * torch.randn(dim, generator=generator, dtype=torch.float64)
    deaths = h0_deaths(points)
    np.testing.assert_allclose(h0_deaths(points @ rotation + shift), deaths, atol=1e-6)
    np.testing.assert_allclose(h0_deaths(7 * points), 7 * deaths, atol=1e-9)
    (loops,), (scaled,) = (rips_diagrams(p, dimensions=(1,)) for p in (points, 4 * points))
    for one, other in zip(loops.to_list(), scaled.to_list(), strict=True):
        np.testing.assert_allclose(in_order(4 * one), in_order(other), atol=1e-9)


@given(grid_clouds(max_points=8), st.floats(0, 1), st.integers(0, 1000))
@quick
def test_stable_under_small_moves(points, size, seed):
    """Bottleneck distance at most twice the largest displacement, as values are edge lengths."""
    generator = torch.Generator().manual_seed(seed)
    moves = size * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    before = rips_diagrams(points, dimensions=(0, 1))
    after = rips_diagrams(points + moves, dimensions=(0, 1))
    for one, other in zip(before, after, strict=True):
        for index in range(len(points)):
            # Hera's: gudhi.bottleneck_distance is at times too large in gudhi 3.13 (its pull request 1367).
            distance = bottleneck_distance(one[index].numpy(), other[index].numpy(), delta=1e-6)
            assert distance <= 2 * moves[index].norm(dim=1).max().item() * (1 + 1e-6) + 1e-9


# Precision and size


def test_float32_far_from_the_origin():
    points = torch.randn(4, 30, 8)
    near, far = h0_deaths(points), h0_deaths(points + 100)
    np.testing.assert_allclose(far, near, rtol=1e-4)
    exact = h0_deaths((points + 100).double())
    np.testing.assert_allclose(far, exact, rtol=1e-6)


def test_two_tight_clusters_far_apart():
    """Squared distances by a matrix product alone would lose all digits inside the clusters."""
    cluster = torch.randn(1, 10, 3, dtype=torch.float64)
    points = torch.cat([1e-7 * cluster, 1e-7 * cluster + 1000], dim=1)
    np.testing.assert_allclose(h0_deaths(points)[0], single_linkage(points[0]), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_in_float32(scale):
    points = torch.randn(2, 12, 3)
    np.testing.assert_allclose(h0_deaths(scale * points) / scale, h0_deaths(points), rtol=1e-5)


def test_half_precision_is_measured_in_float32():
    points = torch.randn(1, 12, 3).half()
    deaths = h0_deaths(points)
    assert deaths.dtype == torch.float32
    np.testing.assert_allclose(deaths, h0_deaths(points.float()))


def test_the_tree_is_a_tree_with_the_shortest_edge_first():
    points = torch.randn(3, 40, 5)
    edges = minimum_spanning_tree(points)
    assert edges.shape == (3, 39, 2)
    lengths = edge_lengths(points, edges)
    assert (lengths.diff(dim=1) > -1e-6).all()
    for tree in edges:
        component = torch.arange(40)
        for a, b in tree:
            assert component[a] != component[b]
            component[component == component[b]] = component[a].clone()
        assert (component == component[0]).all()


def test_memory_does_not_grow_with_the_batch():
    points = torch.randn(200, 128, 4)
    tracemalloc.start()
    edges = minimum_spanning_tree(points)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 200 * 128**2 * 8
    assert peak < whole + edges.numel() * 8, "the distances of all clouds were held at the same time"


def test_chunks_do_not_matter(monkeypatch):
    points = torch.randn(7, 10, 3)
    expected = minimum_spanning_tree(points)
    monkeypatch.setattr(spanning_tree, "_CHUNK", 250)
    assert torch.equal(minimum_spanning_tree(points), expected)


# Gradients


def test_gradient_of_the_deaths_in_dimension_0():
    points = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(h0_deaths, points)
    assert torch.autograd.gradgradcheck(h0_deaths, points)


@pytest.mark.parametrize(
    "engine",
    [
        "gudhi",
        pytest.param("cohomology", marks=NUMBA),
        pytest.param("giotto-ph", marks=GIOTTO),
        "auto",
    ],
)
def test_gradient_of_births_and_deaths_in_dimension_1(engine):
    points = torch.stack([circle(9, 0.05, seed) for seed in (1, 2)]).requires_grad_()

    def pairs(points):
        (loops,) = rips_diagrams(points, dimensions=(1,), engine=engine)
        assert loops.counts.tolist() == [1, 1]
        return loops.pairs

    assert torch.autograd.gradcheck(pairs, points)


def test_an_edge_pulls_its_two_ends_by_unit_vectors():
    points = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]], requires_grad=True)
    h0_deaths(points).sum().backward()
    np.testing.assert_allclose(points.grad[0], [[-0.6, -0.8], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("engine", ["mst", "gudhi"])
def test_duplicates_have_finite_gradients(engine):
    points = torch.tensor([[[0.0], [0.0], [3.0]]], requires_grad=True)
    (h0_deaths(points).sum() + rips_diagrams(points, engine=engine)[0].deaths.sum()).backward()
    assert points.grad.isfinite().all()
    assert points.grad[0, 2].item() == 2.0
    same = torch.ones(1, 5, 2, requires_grad=True)
    h0_deaths(same).sum().backward()
    assert not same.grad.any()


def test_essential_bars_carry_no_gradient():
    points = SQUARE.clone().requires_grad_()
    (kept,) = rips_diagrams(points, essential="keep")
    kept.deaths[kept.deaths.isfinite()].sum().backward()
    assert points.grad.isfinite().all()


# What is refused


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (torch.zeros(4, 2), r"\(4, 2\); add a batch axis with points\[None\]"),
        (torch.zeros(4, 2, 3, 3), "got shape .*flatten the features"),
        (torch.zeros(4, 2, 3, dtype=torch.int64), "torch.int64; convert with points.float"),
        (torch.zeros(0, 2, 3), "nothing in point clouds of shape"),
        (torch.zeros(2, 0, 3), "nothing in point clouds of shape"),
        (torch.zeros(2, 3, 0), "nothing in point clouds of shape"),
    ],
)
def test_points_of_the_wrong_shape(points, message):
    with pytest.raises(InvalidPoints, match=message):
        check_points(points)
    for function in (rips_diagrams, minimum_spanning_tree):
        with pytest.raises(InvalidPoints, match=message):
            inspect.unwrap(function)(points)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_coordinates_that_are_not_finite(value):
    points = torch.zeros(3, 4, 2)
    points[1, 2, 1] = points[2, 0, 0] = value
    message = rf"cloud 1, point 2 has {value} on axis 1 \(2 such values"
    for function in (check_points, h0_deaths, minimum_spanning_tree, rips_diagrams):
        with pytest.raises(InvalidPoints, match=message):
            function(points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": ()}, "one or more different numbers"),
        ({"dimensions": (-1,)}, "one or more different numbers from 0 on"),
        ({"dimensions": (0, 0)}, "one or more different numbers"),
        ({"dimensions": (1,), "engine": "mst"}, "knows dimension 0 only, asked for .*engine='gudhi'"),
        ({"dimensions": (0, 1), "engine": "mst"}, "knows dimension 0 only"),
        (
            {"engine": "gudi"},
            "no engine 'gudi'. Did you mean 'gudhi'. Known: auto, mst, cohomology, gudhi, giotto-ph",
        ),
        ({"essential": "ignore"}, "'drop' or 'keep', got 'ignore'"),
        ({"max_edge_length": -1.0}, "at least 0 or None, got -1.0"),
        ({"max_edge_length": np.nan}, "at least 0 or None, got nan"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(rips_diagrams)(SQUARE, **options)
