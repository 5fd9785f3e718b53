"""Homology is taken modulo 2 by every engine: a projective plane has a loop there, and modulo 11 has none.

No subset of space has such a loop: images, volumes, and alpha complexes of points in space do not tell.
"""

from importlib.util import find_spec
from itertools import combinations

import gudhi
import numpy as np
import pytest
import torch

from topokd_lib.topology import FilteredComplex, alpha_diagrams, cross_barcode, reduce_boundary, rips_diagrams

GIOTTO = pytest.mark.skipif(find_spec("gph") is None, reason="giotto-ph is optional (extra: giotto)")
NUMBA = pytest.mark.skipif(find_spec("numba") is None, reason="numba is optional (extra: fast)")
ENGINES = ["gudhi", pytest.param("giotto-ph", marks=GIOTTO)]
BORN, FILLED = 0.7435, 1.2247
"""Edge lengths between which 21 points on the projective plane have one long loop modulo 2."""


def projective_plane():
    """Lines through the origin, the axes of an icosahedron and those halfway between two, as points.

    The line along the unit vector x is the matrix x xᵀ, in an orthonormal basis of those of trace 0.
    """
    golden = (1 + 5**0.5) / 2
    axes = np.array([np.roll([0, 1, sign * golden], turn) for turn in range(3) for sign in (1, -1)])
    halfway = [one + np.sign(one @ other) * other for one, other in combinations(axes, 2)]
    lines = np.array([*axes, *halfway])
    x, y, z = (lines / np.linalg.norm(lines, axis=1, keepdims=True)).T
    two, six = 2**0.5, 6**0.5
    coordinates = [two * x * y, two * x * z, two * y * z, (x**2 - y**2) / two, (2 * z**2 - x**2 - y**2) / six]
    return torch.from_numpy(np.stack(coordinates, axis=1))[None]


PLANE = projective_plane()


def long_loops(bars):
    return bars[bars[:, 1] - bars[:, 0] > 0.3].detach().numpy()


@pytest.mark.parametrize(("prime", "count"), [(2, 1), (3, 0), (11, 0)])
def test_the_loop_depends_on_the_arithmetic(prime, count):
    tree = gudhi.RipsComplex(points=PLANE[0].numpy()).create_simplex_tree(max_dimension=2)
    tree.compute_persistence(homology_coeff_field=prime)
    loops = torch.from_numpy(tree.persistence_intervals_in_dimension(1).reshape(-1, 2))
    assert len(long_loops(loops)) == count


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("engine", [*ENGINES, pytest.param("cohomology", marks=NUMBA)])
def test_rips_engines(engine, gradient):
    points = PLANE.clone().requires_grad_(gradient)
    (h1,) = rips_diagrams(points, dimensions=(1,), engine=engine)
    np.testing.assert_allclose(long_loops(h1[0]), [[BORN, FILLED]], atol=1e-4)


def test_by_hand():
    filtration = FilteredComplex.rips(PLANE[0].numpy(), dimension=2)
    (h1,) = reduce_boundary(filtration, clearing=True).diagrams((1,))
    np.testing.assert_allclose(long_loops(h1[0]), [[BORN, FILLED]], atol=1e-4)


def test_alpha_complexes():
    (h1,) = alpha_diagrams(PLANE, unit="diameter", dimensions=(1,))
    np.testing.assert_allclose(long_loops(h1[0]), [[BORN, 2**0.5]], atol=1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_cross_barcodes(engine):
    """In the first graph all are far apart: what is not from there is a loop of the second."""
    near = torch.cdist(PLANE, PLANE)[0]
    far = 10 * (1 - torch.eye(len(near), dtype=near.dtype))
    bars = cross_barcode(far, near, engine=engine)
    np.testing.assert_allclose(long_loops(bars[bars[:, 1] < 10]), [[BORN, FILLED]], atol=1e-4)
