"""Sublevel persistence of signals: against gudhi and the column algorithm, with gradients."""

import gudhi
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topokd_lib.topology import FilteredComplex, reduce_boundary, signal_diagrams

quick = settings(max_examples=150)
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 20))


def signals():
    tied = hnp.arrays(np.float64, SHAPES, elements=st.integers(-4, 4).map(float))
    free = hnp.arrays(np.float64, SHAPES, elements=st.floats(-1e6, 1e6))
    return st.one_of(tied, free).map(torch.from_numpy)


def gudhi_diagram(signal):
    grid = gudhi.CubicalComplex(vertices=signal.numpy())
    grid.compute_persistence()
    return in_order(grid.persistence_intervals_in_dimension(0).reshape(-1, 2))


def in_order(bars):
    bars = np.asarray(bars)
    return bars[np.lexsort(bars.T)]


@given(signals(), st.booleans())
@example(batch=torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64), superlevel=False)
@quick
def test_diagrams_are_those_of_gudhi(batch, superlevel):
    found = signal_diagrams(batch, superlevel=superlevel, essential="keep")
    assert found.dimension == 0
    for ours, signal in zip(found.to_list(), -batch if superlevel else batch, strict=True):
        np.testing.assert_array_equal(in_order(ours), gudhi_diagram(signal))


@given(hnp.arrays(np.float64, st.integers(2, 12), elements=st.integers(-4, 4).map(float)))
@settings(max_examples=40)
def test_diagrams_are_those_of_the_column_algorithm(signal):
    path = [(i, i + 1) for i in range(len(signal) - 1)]
    filtration = FilteredComplex.lower_star(path, dict(enumerate(signal.tolist())))
    (expected,) = reduce_boundary(filtration).diagrams()
    found = signal_diagrams(torch.from_numpy(signal)[None])
    np.testing.assert_array_equal(in_order(found[0]), in_order(expected[0]))


@pytest.mark.parametrize("shape", ["widening", "narrowing", "rising", "falling", "random"])
def test_long_signals(shape):
    step = torch.arange(1024, dtype=torch.float64)
    zigzag = (-1.0) ** step
    signal = {
        "widening": zigzag * step,
        "narrowing": zigzag * (1024 - step),
        "rising": step + 3 * zigzag,
        "falling": 3 * zigzag - step,
        "random": torch.rand(1024, dtype=torch.float64),
    }[shape]
    found = signal_diagrams(signal[None], essential="keep")
    np.testing.assert_array_equal(in_order(found[0]), gudhi_diagram(signal))


@given(signals())
@settings(max_examples=40)
def test_signals_of_a_batch_do_not_touch(batch):
    together = signal_diagrams(batch, essential="keep")
    for index, signal in enumerate(batch):
        assert torch.equal(together[index], signal_diagrams(signal[None], essential="keep")[0])


@pytest.mark.parametrize("scan", ["row", "col"])
def test_diagrams_are_those_of_the_official_code(golden, scan):
    """TGD's scans of images by rows and by columns; it leaves out bars of at most 1e-3."""
    values = golden("tgd/pi_golden")
    channels = torch.from_numpy(values["images"]).permute(0, 3, 1, 2).flatten(0, 1).float() / 255
    found = signal_diagrams((channels if scan == "row" else channels.mT).flatten(1), essential="keep")
    theirs = np.split(values[f"dgm_{scan}"], values[f"dgm_{scan}_offsets"][1:-1])
    assert len(theirs) == len(found) == 36
    for ours, expected in zip(found.to_list(), theirs, strict=True):
        np.testing.assert_allclose(in_order(ours), in_order(expected), atol=1e-7)


def test_gradients():
    values = torch.stack([torch.randperm(30), torch.randperm(30)]).double().requires_grad_()
    assert signal_diagrams(values).counts.min() > 2
    assert torch.autograd.gradcheck(lambda x: signal_diagrams(x).pairs.square(), (values,))
    assert torch.autograd.gradcheck(lambda x: signal_diagrams(x, superlevel=True).persistence, (values,))


def test_gradient_by_hand():
    """Minima 0, 1, 2 and maxima 5, 4: the minimum 2 dies at 4, the minimum 1 at 5."""
    signal = torch.tensor([[0.0, 5.0, 1.0, 4.0, 2.0]], requires_grad=True)
    diagrams = signal_diagrams(signal)
    assert diagrams[0].tolist() == [[1.0, 5.0], [2.0, 4.0]]
    diagrams.persistence.sum().backward()
    assert signal.grad.tolist() == [[0.0, 1.0, -1.0, 1.0, -1.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_is_that_of_the_signals(dtype):
    found = signal_diagrams(torch.tensor([[0.0, 2.0, 1.0]], dtype=dtype))
    assert found.pairs.dtype == dtype
    assert found[0].tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("signals", "options", "message"),
    [
        (torch.zeros(3), {}, r"got shape \(3,\); add a batch axis"),
        (torch.zeros(1, 3, 3), {}, r"got shape \(1, 3, 3\); flatten"),
        (torch.zeros(2, 0), {}, "no axis may be 0"),
        (torch.zeros(1, 3, dtype=torch.int64), {}, r"got torch.int64; convert with signals.float\(\)"),
        (torch.tensor([[0.0, float("inf")]]), {}, r"inf at \(signal, sample\) = \(0, 1\)"),
        (torch.zeros(1, 2), {"essential": "all"}, "'drop' or 'keep', got 'all'"),
    ],
)
def test_wrong_input_is_refused(unchecked, signals, options, message):
    with pytest.raises(ValueError, match=message):
        signal_diagrams(signals, **options)
