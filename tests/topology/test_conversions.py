"""To and from gudhi and giotto-tda: round trips, and every policy where the formats disagree."""

import gudhi
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topokd_lib.topology import PersistenceDiagrams, rips_diagrams

INF, NAN = float("inf"), float("nan")
BARS = st.lists(
    st.tuples(st.integers(-4, 4), st.one_of(st.integers(0, 3), st.just(INF))).map(
        lambda bar: (float(bar[0]), float(bar[0] + bar[1]))
    ),
    max_size=5,
)
MIXED = [[0.0, 1.0], [0.0, INF], [2.0, 2.0], [0.0, 1.0], [3.0, 4.0]]


@given(st.lists(BARS, min_size=1, max_size=4), st.integers(0, 2))
def test_gudhi_and_back_loses_nothing(drawn, dimension):
    diagrams = PersistenceDiagrams.from_list([torch.tensor(bars).reshape(-1, 2) for bars in drawn], dimension)
    back = PersistenceDiagrams.from_gudhi(diagrams.to_gudhi(), dimension)
    assert back.dimension == dimension
    assert [bars.tolist() for bars in back.to_list()] == [bars.tolist() for bars in diagrams.to_list()]


@given(st.lists(st.tuples(BARS, BARS), min_size=1, max_size=4))
def test_giotto_and_back_loses_what_it_says(drawn):
    parts = [
        PersistenceDiagrams.from_list([torch.tensor(sample[k]).reshape(-1, 2) for sample in drawn], k)
        for k in (0, 1)
    ]
    array = parts[1].to_giotto(parts[0], infinite=99.0)
    assert (np.diff(array[..., 2], axis=1) >= 0).all()
    for part in parts:
        back = PersistenceDiagrams.from_giotto(array, part.dimension)
        for found, bars in zip(back.to_list(), part.to_list(), strict=True):
            expected = bars.clone()
            expected[expected == INF] = 99.0
            assert found.tolist() == expected[expected[:, 1] > expected[:, 0]].tolist()


def test_gudhi_s_own_output_in_both_forms():
    cloud = np.random.default_rng(0).random((20, 2))
    tree = gudhi.RipsComplex(points=cloud).create_simplex_tree(max_dimension=2)
    pairs = tree.persistence()
    ours = rips_diagrams(torch.from_numpy(cloud)[None], dimensions=(0, 1), essential="keep")
    for dimension, expected in enumerate(ours):
        array = tree.persistence_intervals_in_dimension(dimension)
        for form in (pairs, array):
            found = PersistenceDiagrams.from_gudhi([form], dimension)
            np.testing.assert_allclose(np.sort(found[0], axis=0), np.sort(expected[0], axis=0))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({}, MIXED),
        ({"infinite": "drop"}, [[0, 1], [2, 2], [0, 1], [3, 4]]),
        ({"infinite": 9.0}, [[0, 1], [0, 9], [2, 2], [0, 1], [3, 4]]),
        ({"zero_length": "drop"}, [[0, 1], [0, INF], [0, 1], [3, 4]]),
        ({"duplicates": "drop"}, [[0, 1], [0, INF], [2, 2], [3, 4]]),
    ],
)
def test_policies_are_the_same_everywhere(policy, expected):
    diagrams = PersistenceDiagrams.from_list([MIXED], dimension=1)
    giotto = np.array([[[*bar, 1.0] for bar in MIXED]])
    keep = {"zero_length": "keep", **policy}
    assert PersistenceDiagrams.from_gudhi([MIXED], 1, **policy)[0].tolist() == expected
    assert PersistenceDiagrams.from_giotto(giotto, 1, **keep)[0].tolist() == expected
    assert [[*bar] for _, bar in diagrams.to_gudhi(**policy)[0]] == expected
    array = diagrams.to_giotto(**{"infinite": "keep", **policy})
    assert array.tolist() == [[[*bar, 1.0] for bar in expected]]


def test_bars_that_are_not_numbers():
    bars = np.array([[0.0, NAN], [0.0, 1.0]])
    assert PersistenceDiagrams.from_gudhi([bars], 0, nan="drop")[0].tolist() == [[0.0, 1.0]]
    giotto = np.array([[[0.0, NAN, 0.0], [0.0, 1.0, 0.0]]])
    assert PersistenceDiagrams.from_giotto(giotto, 0, nan="drop")[0].tolist() == [[0.0, 1.0]]
    with pytest.raises(ValueError, match=r"diagram 0 .* \(0.0, nan\): an end is not a number; nan='drop'"):
        PersistenceDiagrams.from_gudhi([bars], 0)


def test_gradients_flow_through_policies():
    bars = torch.tensor(MIXED, requires_grad=True)
    found = PersistenceDiagrams.from_gudhi([bars], 0, infinite=9.0, zero_length="drop", duplicates="drop")
    found.pairs.sum().backward()
    assert bars.grad.tolist() == [[1, 1], [1, 0], [0, 0], [0, 0], [1, 1]]


def test_padding_is_that_of_giotto():
    homology = pytest.importorskip(
        "gtda.homology", reason="giotto-tda is optional and has no wheels for Python 3.13"
    )
    clouds = np.random.default_rng(1).random((4, 15, 2))
    theirs = homology.VietorisRipsPersistence(homology_dimensions=(0, 1)).fit_transform(clouds)
    parts = [PersistenceDiagrams.from_giotto(theirs, dimension) for dimension in (0, 1)]
    assert (parts[1].counts != parts[1].counts.max()).any()  # there is padding
    np.testing.assert_array_equal(parts[0].to_giotto(parts[1]), theirs)


def test_an_empty_dimension_has_one_row():
    diagrams = PersistenceDiagrams.from_list([[], []], dimension=1)
    assert diagrams.to_giotto().tolist() == [[[0.0, 0.0, 1.0]]] * 2
    assert diagrams.to_gudhi() == [[], []]


ONE = PersistenceDiagrams.from_list([[[0.0, 1.0]]], dimension=0)
ENDLESS = PersistenceDiagrams.from_list([[[0.0, 1.0]], [[2.0, INF]]], dimension=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ENDLESS.to_giotto(), r"diagram 1 .* \(2.0, inf\): an end is infinite; infinite='drop'"),
        (lambda: ENDLESS.to_gudhi(infinite="error"), "diagram 1 .* an end is infinite"),
        (lambda: ENDLESS.to_gudhi(infinite=1.0), r"\(2.0, inf\): it is born after infinite=1.0"),
        (lambda: ONE.from_gudhi([[[-INF, 1.0]]], 0, infinite=5.0), "only a death is moved"),
        (lambda: ONE.to_gudhi(infinite=INF), "or a finite number, got inf"),
        (lambda: ONE.to_gudhi(infinite="cut"), "or a finite number, got 'cut'"),
        (lambda: ONE.to_giotto(zero_length="error"), "zero_length is 'keep' or 'drop', got 'error'"),
        (lambda: ONE.from_gudhi([], 0, duplicates="merge"), "duplicates is 'keep' or 'drop', got 'merge'"),
        (lambda: ONE.from_giotto([[[0, 1, 0]]], 0, nan="keep"), "nan is 'error' or 'drop', got 'keep'"),
        (lambda: ONE.to_giotto(ONE), "1 samples in dimension 0, 1 samples in dimension 0"),
        (lambda: ONE.to_giotto(PersistenceDiagrams.from_list([[], []], 1)), "2 samples in dimension 1"),
        (lambda: ONE.from_giotto([[[0.0, 1.0]]], 0), r"shape \(samples, bars, 3\), .* got \(1, 1, 2\)"),
        (lambda: ONE.from_gudhi([[[0.0, 1.0, 2.0]]], 0), r"diagram 0 must have the shape \(bars, 2\)"),
        (lambda: ONE.from_gudhi([[(0, (2.0, 1.0))]], 0), "dies no earlier than it is born"),
        (lambda: ONE.from_gudhi([], 0), "at least one diagram"),
    ],
)
def test_what_does_not_convert_is_refused(unchecked, call, message):
    with pytest.raises(ValueError, match=message):
        call()
