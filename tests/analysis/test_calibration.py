"""Calibration by hand, against scikit-learn, and on networks that know exactly how often they are right."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from topokd_lib.analysis import measure_calibration


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_four_images_by_hand():
    """Two bins: three images sure to 0.6, 0.7 and 0.8 of which two are right, one sure to 0.4 and wrong."""
    logits = logits_of([0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4])
    labels = torch.tensor([0, 1, 0, 1])
    found = measure_calibration(logits, labels, bins=2)
    assert found.counts == (1, 3)
    assert found.bin_confidence == pytest.approx((0.4, 0.7))
    assert found.bin_accuracy == pytest.approx((0, 2 / 3))
    assert found.ece == pytest.approx(0.25 * 0.4 + 0.75 * (0.7 - 2 / 3))
    assert found.largest_gap == pytest.approx(0.4)
    assert (found.accuracy, found.confidence) == (0.5, pytest.approx(0.625))
    assert found.nll == pytest.approx(-(math.log(0.6) + math.log(0.7) + math.log(0.1) + math.log(0.3)) / 4)
    squares = (0.16 + 0.09 + 0.01, 0.04 + 0.09 + 0.01, 0.81 + 0.01 + 0.64, 0.09 + 0.49 + 0.16)
    assert found.brier == pytest.approx(sum(squares) / 4)


def test_scikit_learn_agrees_on_the_scores():
    logits, labels = torch.randn(200, 2), torch.arange(200) % 2
    found = measure_calibration(logits, labels)
    probabilities = logits.double().softmax(dim=1).numpy()
    assert found.nll == pytest.approx(log_loss(labels, probabilities))
    assert found.brier == pytest.approx(2 * brier_score_loss(labels, probabilities[:, 1]))  # two classes


def test_a_confidence_at_an_edge_belongs_to_the_bin_below():
    found = measure_calibration(logits_of([0.5, 0.25, 0.25]), torch.tensor([0]), bins=2)
    assert found.counts == (1, 0)
    assert math.isnan(found.bin_accuracy[1])
    assert found.ece == pytest.approx(0.5)


def test_a_network_that_is_right_as_often_as_it_says():
    """Labels are drawn from its own probabilities; doubling the logits makes it too sure."""
    logits = 2 * torch.randn(20_000, 4)
    labels = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
    honest, sure, unsure = (measure_calibration(logits, labels, temperature=t) for t in (1.0, 0.5, 2.0))
    assert honest.ece < 0.02
    assert sure.ece > 0.05
    assert sure.confidence > sure.accuracy
    assert unsure.confidence < unsure.accuracy
    assert honest.nll < min(sure.nll, unsure.nll)
    assert honest.brier < min(sure.brier, unsure.brier)
    assert {honest.accuracy} == {sure.accuracy, unsure.accuracy}


def test_equal_mass_bins_hold_equally_many():
    found = measure_calibration(torch.randn(90, 5), torch.arange(90) % 5, bins=9, binning="equal-mass")
    assert max(found.counts) - min(found.counts) <= 1
    assert sum(found.counts) == 90


@given(seed=st.integers(0, 10**6), bins=st.integers(1, 20))
def test_bounds(seed, bins):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(30, 3, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator)
    found = measure_calibration(logits, labels, bins=bins)
    assert sum(found.counts) == 30
    assert abs(found.confidence - found.accuracy) <= found.ece + 1e-12 <= found.largest_gap + 2e-12
    assert found.largest_gap <= 1
    assert 0 <= found.brier <= 2
    single = measure_calibration(logits, labels, bins=1)
    assert single.ece == pytest.approx(abs(found.confidence - found.accuracy))


class TestErrors:
    def test_no_images_and_no_numbers(self):
        with pytest.raises(ValueError, match="at least one image, got 0 images"):
            measure_calibration(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
        with pytest.raises(ValueError, match="got 2 images, of which 1 have a logit that is not finite"):
            measure_calibration(torch.tensor([[0.0, np.inf], [0.0, 1.0]]), torch.tensor([0, 1]))

    def test_labels_without_a_class(self):
        with pytest.raises(ValueError, match="as many labels in 0 … 2, got 2 in 0 … 3"):
            measure_calibration(torch.zeros(2, 3), torch.tensor([0, 3]))

    @pytest.mark.parametrize("option", [{"bins": 0}, {"temperature": 0.0}, {"binning": "quantiles"}])
    def test_options(self, option, unchecked):
        with pytest.raises(ValueError, match="must be positive, and bins of 'equal-width' or 'equal-mass'"):
            measure_calibration(torch.zeros(2, 3), torch.tensor([0, 1]), **option)
