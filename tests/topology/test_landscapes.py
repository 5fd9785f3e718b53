"""Landscapes and silhouettes: by hand, against gudhi and giotto-tda, and their stability."""

from dataclasses import replace

import gudhi.representations
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topokd_lib.topology import (
    PersistenceDiagrams,
    bottleneck_distance,
    landscapes,
    persistence_landscape,
    persistence_silhouette,
)

FUNCTIONS = [persistence_landscape, persistence_silhouette]
TWO = PersistenceDiagrams.from_list(
    [np.array([[0.1, 0.9], [0.3, 2.0], [0.5, 0.6]]), np.array([[0.2, 1.2]])], dimension=1
)
GRID = torch.linspace(0, 2, 41, dtype=torch.float64)
SEEDS = st.integers(0, 10**6)


def draw(seed, bars=6, batch=3):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(batch, bars, 2, generator=generator, dtype=torch.float64).cumsum(dim=2)
    mask = torch.rand(batch, bars, generator=generator) < 0.8
    return PersistenceDiagrams(torch.where(mask[..., None], pairs, 0), mask, dimension=1)


# By hand


def test_one_bar_is_a_tent():
    diagrams = PersistenceDiagrams.from_list([[[1.0, 3.0]]], dimension=1)
    tent = [0, 0, 0.5, 1, 0.5, 0, 0]
    positions = torch.tensor([0, 1, 1.5, 2, 2.5, 3, 9])
    assert persistence_landscape(diagrams, positions, levels=3).tolist() == [[tent, [0] * 7, [0] * 7]]
    assert persistence_silhouette(diagrams, positions).tolist() == [tent]


def test_levels_are_sorted_tent_values():
    # At 1.0 only the second bar of TWO[0] lives, min(0.7, 1.0) high; at 0.55 all three do.
    found = persistence_landscape(TWO, torch.tensor([1.0, 0.55], dtype=torch.float64), levels=4)[0]
    np.testing.assert_allclose(found.T, [[0.7, 0, 0, 0], [0.35, 0.25, 0.05, 0]], atol=1e-12)


def test_powers_weigh_the_bars():
    # Tents 2 and 1 of the lengths 4 and 2 at 2.
    diagrams = PersistenceDiagrams.from_list([[[0.0, 4.0], [1.0, 3.0]]], dimension=1)
    for power, expected in ((0.0, 3 / 2), (1.0, 10 / 6), (2.0, 36 / 20), (1000.0, 2)):
        found = persistence_silhouette(diagrams, torch.tensor([2.0]), power=power)
        assert found.item() == pytest.approx(expected)


def test_essential_bars_rise_forever():
    diagrams = PersistenceDiagrams.from_list([[[1.0, np.inf], [0.0, 2.0]]], dimension=0)
    found = persistence_landscape(diagrams, torch.tensor([1.0, 100.0]), levels=2)
    assert found.tolist() == [[[1, 99], [0, 0]]]


def test_nothing_is_zero():
    diagrams = PersistenceDiagrams.from_list([[], []], dimension=1)
    assert persistence_landscape(diagrams, GRID.float(), levels=2).shape == (2, 2, 41)
    assert not persistence_landscape(diagrams, GRID.float()).any()
    assert torch.equal(persistence_silhouette(diagrams, GRID.float()), torch.zeros(2, 41))
    flat = PersistenceDiagrams.from_list([[[1.0, 1.0]]], dimension=1)
    assert not persistence_silhouette(flat, GRID.float()).any()


# Against other libraries


@given(SEEDS)
@settings(max_examples=15)
def test_gudhi_has_the_same_times_root_two(seed):
    diagrams = draw(seed)
    bars = [one.numpy() for one in diagrams.to_list()]
    options = {"resolution": 41, "sample_range": [0.0, 2.0], "keep_endpoints": True}
    theirs = gudhi.representations.Landscape(num_landscapes=4, **options).fit_transform(bars)
    ours = persistence_landscape(diagrams, GRID, levels=4, convention="gudhi")
    np.testing.assert_allclose(ours.flatten(1), theirs, atol=1e-12)
    np.testing.assert_allclose(
        persistence_landscape(diagrams, GRID, levels=4).flatten(1) * 2**0.5, theirs, atol=1e-12
    )
    some = [index for index, one in enumerate(bars) if len(one)]  # gudhi divides by the weight 0 of none
    theirs = gudhi.representations.Silhouette(weight=lambda bar: (bar[1] - bar[0]) ** 2, **options)
    ours = persistence_silhouette(diagrams, GRID, power=2.0, convention="gudhi")[some]
    np.testing.assert_allclose(ours, theirs.fit_transform([bars[i] for i in some]), atol=1e-12)


def test_giotto_has_the_same():
    gtda = pytest.importorskip("gtda.diagrams", reason="giotto-tda is optional")
    diagrams = replace(draw(3), mask=torch.ones(3, 6, dtype=torch.bool))
    triples = np.concatenate([diagrams.pairs.numpy(), np.ones((3, 6, 1))], axis=2)
    landscape = gtda.PersistenceLandscape(n_layers=3, n_bins=30).fit(triples)
    positions = torch.from_numpy(landscape.samplings_[1])
    ours = persistence_landscape(diagrams, positions, levels=3)
    np.testing.assert_allclose(ours, landscape.transform(triples), atol=1e-12)
    silhouette = gtda.Silhouette(power=2.0, n_bins=30).fit_transform(triples)[:, 0]
    np.testing.assert_allclose(persistence_silhouette(diagrams, positions, power=2.0), silhouette, atol=1e-12)


# Properties


@given(SEEDS)
@settings(max_examples=25)
def test_landscapes_are_stable(seed):
    one, other = draw(seed), draw(seed + 1)
    change = (persistence_landscape(one, GRID, levels=6) - persistence_landscape(other, GRID, levels=6)).abs()
    assert (change.amax(dim=(1, 2)) <= bottleneck_distance(one, other) + 1e-12).all()


@given(SEEDS)
@settings(max_examples=25)
def test_levels_descend_and_the_silhouette_lies_below(seed):
    diagrams = draw(seed)
    levels = persistence_landscape(diagrams, GRID, levels=4)
    assert (levels.diff(dim=1) <= 0).all()
    assert (levels >= 0).all()
    for power in (0.0, 1.0, 5.0):
        assert (persistence_silhouette(diagrams, GRID, power=power) <= levels[:, 0] + 1e-12).all()


@pytest.mark.parametrize("function", FUNCTIONS)
@given(seed=SEEDS, order=st.permutations(range(6)))
@settings(max_examples=10)
def test_order_and_padding_do_not_matter(function, seed, order):
    diagrams = draw(seed)
    mixed = replace(diagrams, pairs=diagrams.pairs[:, order], mask=diagrams.mask[:, order])
    np.testing.assert_allclose(function(mixed, GRID), function(diagrams, GRID), atol=1e-12)
    packed = PersistenceDiagrams.from_list(diagrams.to_list(), dimension=1)
    np.testing.assert_allclose(function(packed, GRID), function(diagrams, GRID), atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_scale_and_chunks(function, monkeypatch):
    together = function(TWO, GRID)
    np.testing.assert_allclose(
        function(replace(TWO, pairs=3 * TWO.pairs), 3 * GRID), 3 * together, atol=1e-12
    )
    monkeypatch.setattr(landscapes, "_CHUNK", 1)
    np.testing.assert_allclose(function(TWO, GRID), together, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradient_with_respect_to_the_bars(function):
    positions = torch.tensor([0.33, 0.57, 0.81, 1.41], dtype=torch.float64)

    def values(pairs):
        return function(replace(TWO, pairs=pairs), positions)

    assert torch.autograd.gradcheck(values, TWO.pairs.clone().requires_grad_())


# What is refused


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.zeros(0), r"a row of one or more .* got torch.float32 of shape \(0,\)"),
        (torch.zeros(2, 2), r"got torch.float32 of shape \(2, 2\)"),
        (torch.arange(3), "real filtration values.*got torch.int64"),
        (torch.tensor([0.0, np.nan]), "positions are finite filtration values, got nan"),
    ],
)
def test_positions_that_are_none(function, positions, message, unchecked):
    with pytest.raises(ValueError, match=message):
        function(TWO, positions)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unknown_convention(function, unchecked):
    with pytest.raises(ValueError, match=r"'bubenik' or 'gudhi' \(times √2\), got 'persim'"):
        function(TWO, GRID, convention="persim")


def test_levels_and_powers_out_of_range():
    with pytest.raises(ValueError, match="at least one level, got levels=0"):
        persistence_landscape(TWO, GRID, levels=0)
    with pytest.raises(ValueError, match=r"finite and at least 0, got -1\.0"):
        persistence_silhouette(TWO, GRID, power=-1.0)


def test_bars_without_a_foot():
    endless = PersistenceDiagrams.from_list([[[0.0, 1.0]], [[-np.inf, 1.0]]], dimension=0)
    with pytest.raises(
        ValueError, match=r"diagram 1 has the bar .*\(-inf, 1\.0\); a tent stands on a finite"
    ):
        persistence_landscape(endless, GRID)
    endless = PersistenceDiagrams.from_list([[[0.0, 1.0]], [[0.0, np.inf]]], dimension=0)
    with pytest.raises(ValueError, match=r"silhouette need bars that end: diagram 1 .*essential='drop'"):
        persistence_silhouette(endless, GRID)
