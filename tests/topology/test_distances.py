"""Distances of diagrams: by hand, against all matchings, POT, gudhi and Hera, and as metrics."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gudhi import hera
from gudhi.representations.metrics import SlicedWassersteinDistance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from topokd_lib.topology import (
    PersistenceDiagrams,
    bottleneck_distance,
    distances,
    h0_deaths,
    optimal_matching,
    rips_diagrams,
    sliced_wasserstein_distance,
    sorted_deaths_distance,
    wasserstein_distance,
)

SEEDS = st.integers(0, 10**6)
ORDERS = [1.0, 2.0, 3.5]


def draw(seed, bars=5, batch=3):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(batch, bars, 2, generator=generator, dtype=torch.float64).cumsum(dim=2)
    mask = torch.rand(batch, bars, generator=generator) < 0.8
    return PersistenceDiagrams(torch.where(mask[..., None], pairs, 0), mask, dimension=1)


def batch(*diagrams, dimension=1):
    return PersistenceDiagrams.from_list([np.array(bars, dtype=float) for bars in diagrams], dimension)


def costs(one, other, norm=np.inf):
    """Steps between all bars; the last rows and columns stand for the diagonal."""
    n, m = len(one), len(other)
    table = np.zeros((n + m, n + m))
    table[:n, :m] = np.linalg.norm(one[:, None] - other[None], ord=norm, axis=2)
    factor = 2 ** (1 / norm - 1)
    table[:n, m:] = (one[:, 1] - one[:, 0])[:, None] * factor
    table[n:, :m] = (other[:, 1] - other[:, 0])[None] * factor
    return table


def wasserstein_by_assignment(one, other, order, norm=np.inf):
    table = costs(one, other, norm) ** order
    return table[linear_sum_assignment(table)].sum() ** (1 / order)


def bottleneck_by_assignment(one, other):
    """The smallest step that a perfect matching does not exceed."""
    table = costs(one, other)
    for longest in np.unique(table):
        if not (table > longest)[linear_sum_assignment(table > longest)].any():
            return longest
    return 0.0


# By hand

METRICS = {
    "bottleneck": bottleneck_distance,
    "wasserstein 1": wasserstein_distance,
    "wasserstein 2": lambda one, other: wasserstein_distance(one, other, order=2.0),
    "euclidean": lambda one, other: wasserstein_distance(one, other, ground="euclidean"),
    "sliced": sliced_wasserstein_distance,
}


def test_distance_to_nothing():
    bars, nothing = batch([[0, 2], [1, 5]]), batch([])
    expected = {
        "bottleneck": 2,
        "wasserstein 1": 1 + 2,
        "wasserstein 2": math.sqrt(1 + 4),
        "euclidean": (2 + 4) / math.sqrt(2),
    }
    for name, distance in expected.items():
        assert METRICS[name](bars, nothing).item() == pytest.approx(distance)
        assert METRICS[name](nothing, bars).item() == pytest.approx(distance)
    found = sliced_wasserstein_distance(bars, nothing, directions=2000).item()
    assert found == pytest.approx((2 + 4) / math.sqrt(2) * 2 / math.pi, rel=1e-5)


def test_one_bar_is_moved_or_given_up():
    # Moving costs 1, giving both up 0.5 each for the bottleneck, 1.5 and 1 in the sum.
    near, far = batch([[0, 3]], [[0, 1]]), batch([[0, 4]], [[3, 5]])
    assert bottleneck_distance(near, far).tolist() == [1, 1]
    assert wasserstein_distance(near, far).tolist() == [1, 1.5]


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_nothing(metric):
    assert METRICS[metric](batch([], []), batch([], [])).tolist() == [0, 0]


def test_bars_that_never_end_are_matched_to_each_other():
    one = batch([[0, 1], [0, np.inf]], [[0, np.inf]], dimension=0)
    other = batch([[0, 1.5], [0.25, np.inf]], [[0, 1]], dimension=0)
    for exact in (True, False):
        assert bottleneck_distance(one, other, exact=exact).tolist() == pytest.approx([0.5, np.inf], rel=0.01)


# Against other computations


@given(SEEDS, st.booleans())
@settings(max_examples=40)
def test_bottleneck_against_all_matchings(seed, coarse):
    one, other = draw(seed), draw(seed + 1)
    if coarse:  # many equal steps
        one, other = (replace(d, pairs=(8 * d.pairs).round()) for d in (one, other))
    expected = [bottleneck_by_assignment(*bars) for bars in zip(*map(arrays, (one, other)), strict=True)]
    np.testing.assert_allclose(bottleneck_distance(one, other), expected, atol=1e-12)
    found = bottleneck_distance(one, other, exact=False, relative_error=0.05)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-12)


@pytest.mark.parametrize(("ground", "norm"), [("max", np.inf), ("euclidean", 2.0)])
@pytest.mark.parametrize("order", ORDERS)
@given(seed=SEEDS)
@settings(max_examples=10)
def test_wasserstein_against_all_matchings(ground, norm, order, seed):
    one, other = draw(seed), draw(seed + 1)
    expected = [
        wasserstein_by_assignment(*bars, order, norm) for bars in zip(*map(arrays, (one, other)), strict=True)
    ]
    found = wasserstein_distance(one, other, order=order, ground=ground)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_wasserstein_against_hera(order):
    one, other = draw(1, bars=40), draw(2, bars=40)
    expected = [
        hera.wasserstein_distance(*bars, order=order, internal_p=np.inf, delta=1e-4)
        for bars in zip(*map(arrays, (one, other)), strict=True)
    ]
    np.testing.assert_allclose(wasserstein_distance(one, other, order=order), expected, rtol=2e-4)


def test_sliced_against_gudhi():
    one, other = draw(1, bars=20), draw(2, bars=30)
    expected = [
        SlicedWassersteinDistance(num_directions=2001)(*bars)
        for bars in zip(*map(arrays, (one, other)), strict=True)
    ]
    found = sliced_wasserstein_distance(one, other, directions=2000)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def arrays(diagrams):
    return [bars.numpy() for bars in diagrams.to_list()]


# Properties


@pytest.mark.parametrize("metric", METRICS)
@given(seed=SEEDS)
@settings(max_examples=10)
def test_metrics(metric, seed):
    measure = METRICS[metric]
    one, other, third = (draw(seed + i) for i in range(3))
    found = measure(one, other)
    assert (found > 0).all()
    np.testing.assert_allclose(measure(other, one), found, atol=1e-12)
    assert (found <= measure(one, third) + measure(third, other) + 1e-12).all()
    np.testing.assert_allclose(measure(one, one), 0, atol=1e-12)
    scaled = (replace(diagrams, pairs=3 * diagrams.pairs) for diagrams in (one, other))
    np.testing.assert_allclose(measure(*scaled), 3 * found, rtol=1e-9)


@pytest.mark.parametrize("metric", METRICS)
@given(seed=SEEDS, order=st.permutations(range(5)))
@settings(max_examples=10)
def test_order_padding_and_bars_of_length_0_do_not_matter(metric, seed, order):
    one, other = draw(seed), draw(seed + 1)
    mixed = replace(one, pairs=one.pairs[:, order], mask=one.mask[:, order])
    expected = METRICS[metric](one, other)
    np.testing.assert_allclose(METRICS[metric](mixed, other), expected, atol=1e-12)
    more = [torch.cat([bars, torch.full((2, 2), 0.7, dtype=bars.dtype)]) for bars in one.to_list()]
    found = METRICS[metric](PersistenceDiagrams.from_list(more, dimension=1), other)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(SEEDS)
@settings(max_examples=25)
def test_bounds_between_the_distances(seed):
    one, other = draw(seed), draw(seed + 1)
    bottleneck = bottleneck_distance(one, other)
    first, second = (wasserstein_distance(one, other, order=order) for order in (1.0, 2.0))
    assert (bottleneck <= second + 1e-12).all()
    assert (second <= first + 1e-12).all()
    assert (sliced_wasserstein_distance(one, other) <= 2 * math.sqrt(2) * first + 1e-12).all()


@given(SEEDS, st.floats(1e-3, 1.0))
@settings(max_examples=15)
def test_rips_diagrams_are_stable(seed, step):
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(2, 12, 2, generator=generator, dtype=torch.float64)
    moves = torch.randn(2, 12, 2, generator=generator, dtype=torch.float64)
    moved = points + step * moves / moves.norm(dim=2, keepdim=True)
    for one, other in zip(*(rips_diagrams(x, dimensions=(0, 1)) for x in (points, moved)), strict=True):
        assert (bottleneck_distance(one, other) <= 2 * step + 1e-9).all()


def test_sliced_in_chunks_and_the_same_every_time(monkeypatch):
    one, other = draw(1), draw(2)
    together = sliced_wasserstein_distance(one, other)
    assert torch.equal(sliced_wasserstein_distance(one, other), together)
    monkeypatch.setattr(distances, "_CHUNK", 1)
    np.testing.assert_allclose(sliced_wasserstein_distance(one, other), together, rtol=1e-12)


DIFFERENTIABLE = [name for name in METRICS if name != "bottleneck"]


@pytest.mark.parametrize("metric", DIFFERENTIABLE)
def test_gradient_with_respect_to_both(metric):
    one, other = draw(1), draw(2)
    assert not one.mask.all()

    def distance(first, second):
        return METRICS[metric](replace(one, pairs=first), replace(other, pairs=second))

    pairs = [diagrams.pairs.clone().requires_grad_() for diagrams in (one, other)]
    assert torch.autograd.gradcheck(distance, pairs)


@pytest.mark.parametrize("metric", DIFFERENTIABLE)
def test_gradient_is_0_at_distance_0(metric):
    one = draw(1)
    pairs = one.pairs.clone().requires_grad_()
    METRICS[metric](replace(one, pairs=pairs), one).sum().backward()
    np.testing.assert_allclose(pairs.grad, 0, atol=1e-12)


# Sorted deaths


@pytest.mark.parametrize("order", ORDERS)
@given(seed=SEEDS)
@settings(max_examples=15)
def test_sorted_deaths_bound_the_wasserstein_distance(order, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (torch.rand(3, 8, generator=generator, dtype=torch.float64) * 5 for _ in range(2))
    exact = wasserstein_distance(born_at_0(first), born_at_0(second), order=order)
    assert (sorted_deaths_distance(first, second, order=order) >= exact - 1e-12).all()


@pytest.mark.parametrize(("order", "ratio"), [(1.0, 3.0), (2.0, (4 + math.sqrt(7)) / 3)])
@given(seed=SEEDS)
@settings(max_examples=25)
def test_sorted_deaths_are_exact_while_they_are_close(order, ratio, seed):
    assert (ratio - 1) ** order == pytest.approx((ratio**order + 1) / 2**order)
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        1 + (ratio - 1) * torch.rand(3, 8, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    exact = wasserstein_distance(born_at_0(first), born_at_0(second), order=order)
    np.testing.assert_allclose(sorted_deaths_distance(first, second, order=order), exact, rtol=1e-9)
    # One step beyond the ratio it is no longer.
    one, far = torch.tensor([[1.0]]), torch.tensor([[1.01 * ratio]])
    exact = wasserstein_distance(born_at_0(one), born_at_0(far), order=order)
    assert sorted_deaths_distance(one, far, order=order) > exact + 1e-4


def test_sorted_deaths_of_clouds_in_many_dimensions_are_exact():
    student, teacher = torch.randn(2, 4, 24, 64, dtype=torch.float64)
    diagrams = [rips_diagrams(cloud)[0] for cloud in (student, 1.2 * teacher)]
    for order in (1.0, 2.0):
        found = sorted_deaths_distance(h0_deaths(student), h0_deaths(1.2 * teacher), order=order)
        np.testing.assert_allclose(found, wasserstein_distance(*diagrams, order=order), rtol=1e-9)


def born_at_0(deaths):
    pairs = torch.stack([torch.zeros_like(deaths), deaths], dim=2)
    return PersistenceDiagrams(pairs, torch.ones_like(deaths, dtype=torch.bool), dimension=0)


@given(SEEDS, st.permutations(range(6)))
@settings(max_examples=10)
def test_sorted_deaths_come_in_any_order(seed, order):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.rand(2, 3, 6, generator=generator)
    found = sorted_deaths_distance(first, second)
    assert torch.equal(sorted_deaths_distance(first[:, order], second), found)
    assert torch.equal(sorted_deaths_distance(second, first), found)


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_of_sorted_deaths(order):
    points = torch.randn(2, 6, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: sorted_deaths_distance(h0_deaths(x), target, order=order), points
    )
    deaths = target.clone().requires_grad_()
    sorted_deaths_distance(deaths, target, order=order).sum().backward()
    assert not deaths.grad.any()


# What is refused


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (batch([], []), batch([]), "got 2 of dimension 1 and 1 of dimension 1"),
        (batch([]), batch([], dimension=0), "got 1 of dimension 1 and 1 of dimension 0"),
        (
            PersistenceDiagrams(torch.zeros(0, 1, 2), torch.ones(0, 1, dtype=torch.bool), 1),
            PersistenceDiagrams(torch.zeros(0, 1, 2), torch.ones(0, 1, dtype=torch.bool), 1),
            "at least one .* got 0 of dimension 1",
        ),
        (
            batch([[0, 1]]),
            PersistenceDiagrams.from_list([[[0, 1]]], 1),
            "torch.float64 on cpu and torch.float32",
        ),
        (
            batch([[0, 1]]),
            replace(batch([[0, 1]]), pairs=torch.tensor([[[0, np.nan]]], dtype=torch.float64)),
            r"diagram 0, bar 0 is .*\(0\.0, nan\).*both are numbers",
        ),
    ],
)
def test_diagrams_that_cannot_be_compared(metric, one, other, message):
    with pytest.raises(ValueError, match=message):
        METRICS[metric](one, other)


@pytest.mark.parametrize("metric", DIFFERENTIABLE)
def test_bars_that_never_end(metric):
    endless = batch([[0, 1]], [[0, np.inf]])
    with pytest.raises(ValueError, match=r"Wasserstein distance need bars that end: diagram 1 .*'drop'"):
        METRICS[metric](batch([], []), endless)


@pytest.mark.parametrize("order", [0.5, np.inf, np.nan])
def test_orders_out_of_range(order):
    message = f"finite and at least 1, got {order}; of order infinity is the bottleneck"
    with pytest.raises(ValueError, match=message):
        wasserstein_distance(batch([]), batch([]), order=order)
    with pytest.raises(ValueError, match=message):
        sorted_deaths_distance(torch.ones(1, 2), torch.ones(1, 2), order=order)


def test_other_options_out_of_range(unchecked):
    with pytest.raises(ValueError, match="'max' or 'euclidean', got 'manhattan'"):
        wasserstein_distance(batch([]), batch([]), ground="manhattan")
    with pytest.raises(ValueError, match="at least one direction, got directions=0"):
        sliced_wasserstein_distance(batch([]), batch([]), directions=0)
    with pytest.raises(ValueError, match=r"relative error is positive and finite, got 0\.0; exact=True"):
        bottleneck_distance(batch([]), batch([]), relative_error=0.0)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (torch.ones(2, 4), r"got \(2, 3\) and \(2, 4\); take the same number of points"),
        (torch.ones(3), r"got \(2, 3\) and \(3,\)"),
        (torch.tensor([[1.0, 1, 1], [1, -2, 1]]), r"second\[1, 1\] is -2\.0"),
        (torch.tensor([[1.0, 1, 1], [1, 1, np.inf]]), r"second\[1, 2\] is inf; leave essential bars out"),
    ],
)
def test_deaths_that_cannot_be_compared(second, message, unchecked):
    with pytest.raises(ValueError, match=message):
        sorted_deaths_distance(torch.ones(2, 3), second)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ground", ["max", "euclidean"])
def test_wasserstein_equals_optimal_transport(order, ground):
    """gudhi finds the matching with POT, another solver of the same problem."""
    pytest.importorskip("ot", reason="POT is not installed (extra: bench)")
    from gudhi.wasserstein import wasserstein_distance as reference

    one, other = draw(1), draw(2)
    expected = [
        reference(a.numpy(), b.numpy(), order=order, internal_p=np.inf if ground == "max" else 2)
        for a, b in zip(one.to_list(), other.to_list(), strict=True)
    ]
    np.testing.assert_allclose(
        wasserstein_distance(one, other, order=order, ground=ground), expected, rtol=1e-9
    )


@pytest.mark.parametrize("order", ORDERS)
def test_the_matching_uses_every_bar_once_and_costs_the_distance(order):
    one, other = draw(1), draw(2)
    distances_ = wasserstein_distance(one, other, order=order)
    matchings = optimal_matching(one, other, order=order)
    for a, b, steps, distance in zip(one.to_list(), other.to_list(), matchings, distances_, strict=True):
        for column, bars in enumerate((a, b)):
            used = steps[steps[:, column] >= 0, column]
            assert sorted(used.tolist()) == list(range(len(bars)))
        cost = 0.0
        for i, j in steps.tolist():
            left = a[i] if i >= 0 else b[j].mean().expand(2)
            right = b[j] if j >= 0 else a[i].mean().expand(2)
            cost += float((left - right).abs().max()) ** order
        assert cost ** (1 / order) == pytest.approx(float(distance))


def test_the_matching_is_in_the_order_of_the_first_and_refuses_what_has_none(unchecked):
    one, other = draw(1), draw(2)
    for steps in optimal_matching(one, other):
        first = steps[:, 0][steps[:, 0] >= 0]
        assert torch.equal(first, first.sort().values)
    with pytest.raises(ValueError, match="the ground norm is 'max' or 'euclidean', got 'manhattan'"):
        optimal_matching(one, other, ground="manhattan")
    with pytest.raises(ValueError, match="finite and at least 1, got 0"):
        optimal_matching(one, other, order=0.0)
