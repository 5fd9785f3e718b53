"""The column algorithm: against gudhi, with and without clearing, and its own invariants."""

import gudhi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topokd_lib.topology import FilteredComplex, closure, faces, reduce_boundary

quick = settings(max_examples=60)


FACETS = st.lists(st.sets(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=8)
HEIGHTS = st.lists(st.integers(0, 5), min_size=56, max_size=56)  # as many as six vertices have simplices


def filtration_of(facets, heights):
    """Random complexes with random values, many of them equal, made monotone from below."""
    values = {}
    for simplex, height in zip(closure(tuple(sorted(facet)) for facet in facets), heights, strict=False):
        values[simplex] = max(
            [height / 4, *(value for face, value in values.items() if set(face) < set(simplex))]
        )
    return FilteredComplex(values)


def gudhi_diagram(filtration, dimension):
    tree = gudhi.SimplexTree()
    for simplex, value in filtration.values.items():
        tree.insert(simplex, value)
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
    return in_order(tree.persistence_intervals_in_dimension(dimension).reshape(-1, 2))


def boundary(chain):
    """Modulo 2: what is a face of an odd number of simplices."""
    total = set()
    for simplex in chain:
        total ^= set(faces(simplex))
    return total


def in_order(bars):
    bars = np.asarray(bars)
    return bars[np.lexsort(bars.T)]


@given(FACETS, HEIGHTS, st.booleans())
@quick
def test_diagrams_are_those_of_gudhi(facets, heights, clearing):
    filtration = filtration_of(facets, heights)
    diagrams = reduce_boundary(filtration, clearing=clearing).diagrams((0, 1, 2, 3), essential="keep")
    for dimension, found in enumerate(diagrams):
        assert found.dimension == dimension
        np.testing.assert_array_equal(in_order(found[0]), gudhi_diagram(filtration, dimension))


@given(FACETS, HEIGHTS, st.booleans())
@quick
def test_a_column_is_the_boundary_of_its_chain(facets, heights, clearing):
    reduction = reduce_boundary(filtration_of(facets, heights), clearing=clearing)
    simplices = reduction.filtration.simplices
    for column, chain in zip(reduction.columns, reduction.chains, strict=True):
        assert boundary([simplices[part] for part in chain]) == {simplices[row] for row in column}


@given(FACETS, HEIGHTS, st.booleans())
@quick
def test_a_cycle_is_there_from_its_birth_and_filled_at_its_death(facets, heights, clearing):
    reduction = reduce_boundary(filtration_of(facets, heights), clearing=clearing)
    entry = {simplex: index for index, simplex in enumerate(reduction.filtration.simplices)}
    for (birth, death), cycle in zip(reduction.pairs, reduction.cycles, strict=True):
        assert boundary(cycle) == set()
        assert max(cycle, key=entry.get) == birth
        if death is not None:
            filling = reduction.chains[entry[death]]
            assert boundary([reduction.filtration.simplices[part] for part in filling]) == set(cycle)
            assert max(filling) == entry[death]


@given(FACETS, HEIGHTS)
@quick
def test_clearing_changes_the_work_and_nothing_else(facets, heights):
    filtration = filtration_of(facets, heights)
    plain, cleared = reduce_boundary(filtration), reduce_boundary(filtration, clearing=True)
    assert plain.columns == cleared.columns
    assert cleared.additions <= plain.additions


@given(FACETS, HEIGHTS)
@quick
def test_every_simplex_stands_in_one_pair(facets, heights):
    filtration = filtration_of(facets, heights)
    reduction = reduce_boundary(filtration)
    paired = [simplex for pair in reduction.pairs for simplex in pair if simplex is not None]
    assert sorted(paired) == sorted(filtration.values)
    assert all(len(death) == len(birth) + 1 for birth, death in reduction.pairs if death is not None)
    lowest = [max(column) for column in reduction.columns if column]
    assert len(set(lowest)) == len(lowest)


def test_rips_of_a_square():
    square = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    h1, h0 = reduce_boundary(FilteredComplex.rips(square, dimension=2), clearing=True).diagrams((1, 0))
    assert h0[0].tolist() == [[0.0, 1.0]] * 3
    np.testing.assert_allclose(h1[0], [[1.0, np.sqrt(2)]])


def test_essential_bars_are_dropped_unless_kept():
    reduction = reduce_boundary(FilteredComplex({(0,): 2.0}))
    assert reduction.diagrams()[0].counts.tolist() == [0]
    assert reduction.diagrams(essential="keep")[0][0].tolist() == [[2.0, np.inf]]


def test_an_empty_complex_has_no_pairs():
    assert reduce_boundary(FilteredComplex({})).pairs == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": ()}, r"different numbers from 0 on, got \(\)"),
        ({"dimensions": (-1,)}, r"got \(-1,\)"),
        ({"essential": "some"}, "'drop' or 'keep', got 'some'"),
    ],
)
def test_wrong_options_are_refused(unchecked, options, message):
    with pytest.raises(ValueError, match=message):
        reduce_boundary(FilteredComplex({(0,): 0.0})).diagrams(**options)
