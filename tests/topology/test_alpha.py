"""Alpha persistence: units by hand, dimension 0 against Rips, loops against gudhi's own values."""

import gudhi
import numpy as np
import pytest
import torch
from gudhi.hera import bottleneck_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology import alpha_diagrams, rips_diagrams

TRIANGLE = torch.tensor([[[0.0, 0.0], [6.0, 0.0], [3.0, 4.0]]], dtype=torch.float64)
quick = settings(max_examples=30)


def clouds(max_points=10):
    shapes = st.tuples(st.integers(1, 2), st.integers(1, max_points), st.integers(1, 3))
    return hnp.arrays(np.float64, shapes, elements=st.integers(-20, 20).map(lambda n: n / 4)).map(
        torch.from_numpy
    )


@pytest.mark.parametrize(
    ("unit", "deaths", "loop"),
    [
        ("radius", [2.5, 2.5], [3.0, 3.125]),
        ("diameter", [5.0, 5.0], [6.0, 6.25]),
        ("squared radius", [6.25, 6.25], [9.0, 9.765625]),
    ],
)
def test_a_triangle_in_every_unit(unit, deaths, loop):
    """Sides 5, 5, 6, area 12: its circle has the radius 5 · 5 · 6 / (4 · 12) = 3.125."""
    h0, h1 = alpha_diagrams(TRIANGLE, unit=unit)
    torch.testing.assert_close(h0.deaths, torch.tensor([deaths], dtype=torch.float64))
    torch.testing.assert_close(h1[0], torch.tensor([loop], dtype=torch.float64))


def test_the_unit_is_asked_for(unchecked):
    with pytest.raises(TypeError, match="unit"):
        alpha_diagrams(TRIANGLE)


@given(clouds())
@quick
def test_components_are_those_of_rips_in_diameters(points):
    (found,) = alpha_diagrams(points, unit="diameter", dimensions=(0,), essential="keep")
    (expected,) = rips_diagrams(points, essential="keep")
    for ours, theirs in zip(found.to_list(), expected.to_list(), strict=True):
        np.testing.assert_allclose(np.sort(ours[:, 1]), np.sort(theirs[:, 1]), rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(2, 3))
@quick
def test_loops_are_those_of_gudhi_s_own_radii(seed, dim):
    points = np.random.default_rng(seed).random((3, 25, dim))
    _, found = alpha_diagrams(torch.from_numpy(points), unit="radius")
    for ours, cloud in zip(found.to_list(), points, strict=True):
        tree = gudhi.AlphaComplex(points=cloud).create_simplex_tree(output_squared_values=False)
        tree.compute_persistence()
        theirs = tree.persistence_intervals_in_dimension(1).reshape(-1, 2)
        assert bottleneck_distance(ours.numpy(), theirs, 0.0) < 1e-7


def test_duplicates_add_nothing_and_one_point_is_enough():
    once, _ = alpha_diagrams(TRIANGLE, unit="radius", essential="keep")
    twice, _ = alpha_diagrams(torch.cat([TRIANGLE, TRIANGLE], dim=1), unit="radius", essential="keep")
    assert once[0].tolist() == twice[0].tolist()
    (point,) = alpha_diagrams(torch.zeros(1, 1, 2), unit="radius", dimensions=(0,), essential="keep")
    assert point[0].tolist() == [[0.0, float("inf")]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_diagrams_are_constants_of_the_precision_of_the_points(dtype):
    h0, h1 = alpha_diagrams(TRIANGLE.to(dtype).requires_grad_(), unit="radius")
    assert h0.pairs.dtype == h1.pairs.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not h1.pairs.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unit": "metres"}, "one of 'radius', 'diameter', 'squared radius', got 'metres'"),
        ({"unit": "radius", "dimensions": (0, 0)}, r"different numbers from 0 on, got \(0, 0\)"),
        ({"unit": "radius", "essential": "all"}, "'drop' or 'keep', got 'all'"),
    ],
)
def test_wrong_options_are_refused(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        alpha_diagrams(TRIANGLE, **options)


def test_wrong_points_are_refused():
    with pytest.raises(InvalidPoints, match="cloud 0, point 1 has nan on axis 0"):
        alpha_diagrams(torch.tensor([[[0.0], [float("nan")]]]), unit="radius")
