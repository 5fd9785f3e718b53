"""Complexes by hand: known spaces, gudhi, Euler's formula, and what is refused."""

from itertools import combinations

import gudhi
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topokd_lib.topology import (
    FilteredComplex,
    betti_numbers,
    boundary_matrix,
    closure,
    euler_characteristic,
    faces,
    rank_mod_2,
    triangulated_grid,
)

SIMPLICES = st.lists(
    st.sets(st.integers(0, 5), min_size=1, max_size=4).map(lambda vertices: tuple(sorted(vertices))),
    min_size=1,
    max_size=10,
)

# The 7-vertex torus of Möbius and the 6-vertex projective plane.
TORUS = [tuple(sorted((i + shift) % 7 for i in t)) for shift in range(7) for t in ((0, 1, 3), (0, 2, 3))]
PROJECTIVE_PLANE = [
    (0, 1, 2), (0, 1, 3), (0, 2, 4), (0, 3, 5), (0, 4, 5),
    (1, 2, 5), (1, 3, 4), (1, 4, 5), (2, 3, 4), (2, 3, 5),
]  # fmt: skip


@pytest.mark.parametrize(
    ("facets", "expected"),
    [
        ([], ()),
        ([(0,)], (1,)),
        ([(0, 1), (2,)], (2, 0)),
        ([(0, 1), (1, 2), (0, 2), (2, 3), (3, 4), (2, 4)], (1, 2)),
        (list(combinations(range(4), 3)), (1, 0, 1)),
        (TORUS, (1, 2, 1)),
        (PROJECTIVE_PLANE, (1, 1, 1)),  # over GF(2); over the rationals it is (1, 0, 0)
    ],
)
def test_betti_numbers_of_known_spaces(facets, expected):
    assert betti_numbers(closure(facets)) == expected


@given(SIMPLICES)
def test_betti_numbers_are_those_of_gudhi(drawn):
    tree = gudhi.SimplexTree()
    for simplex in drawn:
        tree.insert(simplex)
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
    found = betti_numbers(closure(drawn))
    theirs = tree.betti_numbers()
    assert list(found) == theirs + [0] * (len(found) - len(theirs))


@given(SIMPLICES)
def test_euler_s_formula(drawn):
    simplices = closure(drawn)
    alternating = sum((-1) ** k * betti for k, betti in enumerate(betti_numbers(simplices)))
    assert alternating == euler_characteristic(simplices)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (3, 1), (2, 2), (3, 5)])
def test_a_grid_is_one_full_piece_on_all_pixels(height, width):
    grid = triangulated_grid(height, width)
    assert [simplex for simplex in grid if len(simplex) == 1] == [(v,) for v in range(height * width)]
    assert sum(len(simplex) == 3 for simplex in grid) == 2 * (height - 1) * (width - 1)
    assert betti_numbers(grid)[0] == euler_characteristic(grid) == 1


def test_the_grid_is_the_flag_complex_of_six_neighbours():
    def near(a, b):
        down, right = b // 4 - a // 4, b % 4 - a % 4
        return (down, right) in {(0, 1), (1, 0), (1, 1)}

    expected = [
        simplex
        for size in (1, 2, 3, 4)
        for simplex in combinations(range(12), size)
        if all(near(a, b) for a, b in combinations(simplex, 2))
    ]
    assert triangulated_grid(3, 4) == expected


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0)])
def test_a_grid_without_pixels_is_refused(height, width):
    with pytest.raises(ValueError, match=f"at least one pixel, got {height} × {width}"):
        triangulated_grid(height, width)


def test_counting_needs_a_complex():
    with pytest.raises(ValueError, match=r"its face \(0,\) is not; closure\(\) adds what is missing"):
        euler_characteristic([(0, 1)])


@given(SIMPLICES)
def test_a_boundary_has_no_boundary(drawn):
    simplices = closure(drawn)
    for dimension in range(1, 4):
        outer = boundary_matrix(simplices, dimension - 1).astype(int)
        assert not ((outer @ boundary_matrix(simplices, dimension).astype(int)) % 2).any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_rank_by_counting_the_combinations_of_columns(seed, rows, columns, inner):
    rng = np.random.default_rng(seed)
    matrix = (rng.integers(0, 2, (rows, inner)) @ rng.integers(0, 2, (inner, columns))) % 2 == 1
    spanned = {tuple((matrix @ np.array(pick)) % 2) for pick in np.ndindex(*[2] * columns)}
    before = matrix.copy()
    assert 2 ** rank_mod_2(matrix) == len(spanned)
    np.testing.assert_array_equal(matrix, before)


def test_closure_is_closed_and_smallest():
    assert closure(closure([(0, 1, 2)])) == closure([(0, 1, 2)])
    assert len(closure([(0, 1, 2)])) == 7
    assert faces((4,)) == []


def test_faces_come_before_what_they_bound():
    filtration = FilteredComplex.lower_star([(0, 1, 2)], {0: 1.0, 1: 1.0, 2: 0.0})
    assert filtration.simplices == ((2,), (0,), (1,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    assert filtration.at(0.5) == [(2,)]


def test_rips_takes_the_longest_edge():
    filtration = FilteredComplex.rips([[0.0], [1.0], [3.0]], dimension=2)
    assert filtration.values[(0, 1, 2)] == 3.0
    assert filtration.values[(1, 2)] == 2.0
    assert len(filtration.values) == 7


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: faces(()), r"strictly ascending order, got \(\)"),
        (lambda: faces((1, 0)), r"ascending order, got \(1, 0\)"),
        (lambda: closure([(0, 0)]), r"ascending order, got \(0, 0\)"),
        (lambda: boundary_matrix([(0, 1)], 1), r"\(0, 1\) is there, but its face \(0,\) is not"),
        (lambda: boundary_matrix([(0,), (0,)], 0), "got one twice"),
        (lambda: boundary_matrix([(0,)], -1), "counted from 0, got -1"),
        (lambda: betti_numbers([(0,), (0, 1)]), r"its face \(1,\) is not"),
        (lambda: rank_mod_2(np.ones(3, dtype=bool)), r"two axes, got shape \(3,\)"),
        (lambda: FilteredComplex({(0, 1): 1.0}), r"its face \(0,\) is not"),
        (lambda: FilteredComplex({(0,): float("nan")}), r"\(0,\) enters at nan"),
        (lambda: FilteredComplex({(0,): 2.0, (1,): 0.0, (0, 1): 1.0}), r"before its face \(0,\) at 2.0"),
        (lambda: FilteredComplex.lower_star([(0, 3)], {0: 1.0}), r"vertex 3 has no value; .* \[0\]"),
        (lambda: FilteredComplex.rips([0.0, 1.0], dimension=1), r"got shape \(2,\)"),
        (lambda: FilteredComplex.rips([[np.inf]], dimension=1), "not finite"),
        (lambda: FilteredComplex.rips([[0.0]], dimension=-1), "counted from 0, got -1"),
    ],
)
def test_what_is_no_complex_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
