"""Betti curves and entropy: by hand, against gudhi, giotto-tda and scipy, and their invariances."""

import math
from dataclasses import replace

import gudhi.representations
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topokd_lib.topology import PersistenceDiagrams, betti_curve, curves, persistence_entropy, rips_diagrams

GRID = torch.linspace(0, 2, 41, dtype=torch.float64)
SEEDS = st.integers(0, 10**6)


def draw(seed, bars=6, batch=3):
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.rand(batch, bars, 2, generator=generator, dtype=torch.float64).cumsum(dim=2)
    mask = torch.rand(batch, bars, generator=generator) < 0.8
    return PersistenceDiagrams(torch.where(mask[..., None], pairs, 0), mask, dimension=1)


# Betti curves


def test_a_bar_counts_from_its_birth_until_before_its_death():
    diagrams = PersistenceDiagrams.from_list([[[1.0, 2.0], [1.5, np.inf]], []], dimension=1)
    found = betti_curve(diagrams, torch.tensor([0.0, 1.0, 1.5, 2.0, 1e9]))
    assert found.tolist() == [[0, 1, 2, 1, 1], [0, 0, 0, 0, 0]]


def test_components_of_a_cloud():
    # Points at 0, 1, 3: three components, two from distance 1 on, one from distance 2 on.
    (diagrams,) = rips_diagrams(torch.tensor([[[0.0], [1.0], [3.0]]]), essential="keep")
    assert betti_curve(diagrams, torch.tensor([0.0, 0.5, 1.0, 1.9, 2.0, 9.0])).tolist() == [
        [3, 3, 2, 2, 1, 1]
    ]


@given(SEEDS)
@settings(max_examples=15)
def test_gudhi_counts_the_same(seed):
    diagrams = draw(seed)
    theirs = gudhi.representations.BettiCurve(predefined_grid=GRID.numpy())
    expected = theirs.fit_transform([one.numpy() for one in diagrams.to_list()])
    np.testing.assert_array_equal(betti_curve(diagrams, GRID), expected)


def test_giotto_counts_the_same():
    gtda = pytest.importorskip("gtda.diagrams", reason="giotto-tda is optional")
    diagrams = replace(draw(3), mask=torch.ones(3, 6, dtype=torch.bool))
    triples = np.concatenate([diagrams.pairs.numpy(), np.ones((3, 6, 1))], axis=2)
    theirs = gtda.BettiCurve(n_bins=30).fit(triples)
    ours = betti_curve(diagrams, torch.from_numpy(theirs.samplings_[1]))
    np.testing.assert_array_equal(ours, theirs.transform(triples)[:, 0])


@given(SEEDS, st.permutations(range(6)))
@settings(max_examples=10)
def test_order_of_the_bars_does_not_matter(seed, order):
    diagrams = draw(seed)
    mixed = replace(diagrams, pairs=diagrams.pairs[:, order], mask=diagrams.mask[:, order])
    assert torch.equal(betti_curve(mixed, GRID), betti_curve(diagrams, GRID))
    np.testing.assert_allclose(persistence_entropy(mixed), persistence_entropy(diagrams), rtol=1e-12)


@given(SEEDS)
@settings(max_examples=15)
def test_area_below_the_curve_is_the_total_persistence(seed):
    diagrams = draw(seed)
    fine = (torch.arange(40_000, dtype=torch.float64) + 0.5) / 20_000
    area = betti_curve(diagrams, fine).sum(dim=1) / 20_000
    np.testing.assert_allclose(area, diagrams.persistence.sum(dim=1), atol=1e-3)


def test_chunks_do_not_matter(monkeypatch):
    together = betti_curve(draw(1), GRID)
    monkeypatch.setattr(curves, "_CHUNK", 1)
    assert torch.equal(betti_curve(draw(1), GRID), together)


def test_curves_without_positions(unchecked):
    diagrams = draw(0)
    with pytest.raises(ValueError, match="a row of one or more real filtration values"):
        betti_curve(diagrams, torch.zeros(0))
    with pytest.raises(ValueError, match="positions are finite filtration values, got inf"):
        betti_curve(diagrams, torch.tensor([np.inf]))


# Entropy


def test_entropy_of_equal_bars_is_the_logarithm_of_their_number():
    diagrams = PersistenceDiagrams.from_list(
        [[[float(i), i + 2.0] for i in range(n)] for n in range(5)], dimension=1
    )
    expected = [0, 0, math.log(2), math.log(3), math.log(4)]
    np.testing.assert_allclose(persistence_entropy(diagrams), expected, rtol=1e-6)
    np.testing.assert_allclose(persistence_entropy(diagrams, normalised=True), [0, 0, 1, 1, 1], rtol=1e-6)


def test_bars_of_length_0_add_nothing():
    pairs = torch.tensor([[[0.0, 1.0], [0.5, 0.5], [2.0, 5.0]]], requires_grad=True)
    diagrams = PersistenceDiagrams(pairs, torch.ones(1, 3, dtype=torch.bool), dimension=1)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    entropy = persistence_entropy(diagrams)
    assert entropy.item() == pytest.approx(expected)
    assert persistence_entropy(diagrams, normalised=True).item() == pytest.approx(expected / math.log(2))
    entropy.sum().backward()
    assert pairs.grad.isfinite().all()
    assert pairs.grad[0, 1].tolist() == [0, 0]


@given(SEEDS)
@settings(max_examples=15)
def test_gudhi_and_scipy_have_the_same_entropy(seed):
    diagrams = replace(draw(seed), mask=torch.ones(3, 6, dtype=torch.bool))
    diagrams = replace(diagrams, pairs=diagrams.pairs + torch.tensor([0.0, 0.1], dtype=torch.float64))
    found = persistence_entropy(diagrams)
    np.testing.assert_allclose(found, scipy.stats.entropy(diagrams.persistence, axis=1), rtol=1e-12)
    theirs = gudhi.representations.Entropy(mode="scalar").fit_transform(
        [one.numpy() for one in diagrams.to_list()]
    )
    np.testing.assert_allclose(found, theirs[:, 0], rtol=1e-12)


def test_giotto_counts_in_bits():
    gtda = pytest.importorskip("gtda.diagrams", reason="giotto-tda is optional")
    pairs = draw(3).pairs + torch.tensor([0.0, 0.1], dtype=torch.float64)
    diagrams = PersistenceDiagrams(pairs, torch.ones(3, 6, dtype=torch.bool), dimension=1)
    theirs = gtda.PersistenceEntropy().fit_transform(
        np.concatenate([pairs.numpy(), np.ones((3, 6, 1))], axis=2)
    )
    np.testing.assert_allclose(persistence_entropy(diagrams) / math.log(2), theirs[:, 0], rtol=1e-12)


@given(SEEDS, st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_entropy_is_bounded_and_blind_to_scale(seed, scale):
    diagrams = draw(seed)
    found = persistence_entropy(diagrams)
    assert (found >= 0).all()
    assert (persistence_entropy(diagrams, normalised=True) <= 1 + 1e-12).all()
    scaled = replace(diagrams, pairs=scale * diagrams.pairs)
    np.testing.assert_allclose(persistence_entropy(scaled), found, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalised", [False, True])
def test_gradient_of_the_entropy(normalised):
    diagrams = draw(5)
    assert not diagrams.mask.all()

    def entropy(pairs):
        return persistence_entropy(replace(diagrams, pairs=pairs), normalised=normalised)

    assert torch.autograd.gradcheck(entropy, diagrams.pairs.clone().requires_grad_())


def test_entropy_of_a_bar_that_never_ends():
    endless = PersistenceDiagrams.from_list([[[0.0, 1.0]], [[0.0, np.inf]]], dimension=0)
    with pytest.raises(ValueError, match=r"entropy need bars that end: diagram 1 has .*\(0\.0, inf\)"):
        persistence_entropy(endless)
