"""Batches of persistence diagrams: padding, round trips, gradients, and what is refused."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topokd_lib.topology import PersistenceDiagrams

BARS = st.lists(st.tuples(st.floats(0, 5, width=32), st.floats(0, 5, width=32)), max_size=6)


@given(st.lists(BARS, min_size=1, max_size=5))
@settings(deadline=None, max_examples=50)
def test_lists_come_back_and_padding_is_zero(drawn):
    diagrams = [np.array([(b, b + p) for b, p in bars]).reshape(-1, 2) for bars in drawn]
    batch = PersistenceDiagrams.from_list(diagrams, dimension=1)
    assert len(batch) == len(diagrams)
    assert batch.counts.tolist() == [len(bars) for bars in diagrams]
    for found, expected in zip(batch.to_list(), diagrams, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(batch.flat(), np.concatenate(diagrams))
    assert not batch.pairs[~batch.mask].any()
    assert torch.equal(batch.persistence, batch.deaths - batch.births)


def test_gradients_flow_through_padding():
    first = torch.tensor([[0.0, 1.0], [0.5, 2.0]], requires_grad=True)
    second = torch.tensor([[0.0, 3.0]], requires_grad=True)
    PersistenceDiagrams.from_list([first, second], dimension=0).persistence.square().sum().backward()
    assert first.grad.tolist() == [[-2.0, 2.0], [-3.0, 3.0]]
    assert second.grad.tolist() == [[-6.0, 6.0]]


def test_precision_is_that_of_the_widest():
    arrays = [np.zeros((1, 2), dtype=np.float32), np.zeros((1, 2))]
    assert PersistenceDiagrams.from_list(arrays, dimension=0).pairs.dtype == torch.float64
    assert PersistenceDiagrams.from_list([[[0, 1]], []], dimension=0).pairs.dtype == torch.float32


def test_empty_diagrams_make_no_bars():
    batch = PersistenceDiagrams.from_list([[], []], dimension=1)
    assert batch.pairs.shape == (2, 0, 2)
    assert batch.flat().shape == (0, 2)
    assert batch[1].shape == (0, 2)


def test_essential_bars_are_allowed():
    assert PersistenceDiagrams.from_list([[[0.0, np.inf]]], dimension=0).deaths.tolist() == [[np.inf]]


def test_padding_may_stand_anywhere():
    mask = torch.tensor([[False, True]])
    batch = PersistenceDiagrams(torch.tensor([[[0.0, 0.0], [1.0, 2.0]]]), mask, dimension=1)
    assert batch[0].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("diagrams", "message"),
    [
        ([], "at least one diagram"),
        ([[[0.0, 1.0, 2.0]]], r"diagram 0 must have the shape \(bars, 2\), got \(1, 3\)"),
        ([[[0.0, 1.0]], [[0.0, 1.0], [2.0, 1.0]]], r"diagram 1, bar 1 is .*\(2.0, 1.0\)"),
        ([[[0.0, np.nan]]], "diagram 0, bar 0 .* both are numbers"),
    ],
)
def test_wrong_lists_are_refused(diagrams, message):
    with pytest.raises(ValueError, match=message):
        PersistenceDiagrams.from_list(diagrams, dimension=0)


@pytest.mark.parametrize(
    ("pairs", "mask", "dimension", "message"),
    [
        (torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), 0, r"got \(2, 3\) and \(2, 3\)"),
        (torch.zeros(2, 3, 2), torch.ones(2, 4, dtype=torch.bool), 0, r"got \(2, 3, 2\) and \(2, 4\)"),
        (torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), -1, "counted from 0, got -1"),
    ],
)
def test_shapes_that_do_not_belong_together(pairs, mask, dimension, message):
    diagrams = object.__new__(PersistenceDiagrams)
    vars(diagrams).update(pairs=pairs, mask=mask, dimension=dimension)
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(PersistenceDiagrams.__post_init__)(diagrams)
