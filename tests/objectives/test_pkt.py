"""PKT against official values, by hand, and where the official gradient is not a number."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import PKT, neighbour_loss, neighbour_probabilities
from topokd_lib.testing import toy_pair

REFERENCES = ("repdistiller", "mdistiller", "torchdistill")


def test_the_benchmark_agrees(golden):
    values = golden("kd/pkt_0")
    student, teacher = leaf(values["s.f"]), leaf(values["t.f"])
    loss = neighbour_loss(student, teacher)
    loss.backward()
    for reference in REFERENCES:
        np.testing.assert_allclose(loss.item(), values[f"loss.{reference}"], rtol=1e-5)
    assert_gradient_to_rounding(student.grad, values, "grad")
    assert teacher.grad is None


def assert_gradient_to_rounding(gradient, values, label):
    """The reference is float32, and its loss a sum of terms of both signs that nearly cancel."""
    norm = values[f"{label}.s.f.norm"]
    np.testing.assert_allclose(gradient.norm(), norm, rtol=1e-5)
    head = values[f"{label}.s.f.head"]
    np.testing.assert_allclose(gradient.flatten()[: len(head)], head, rtol=1e-4, atol=1e-5 * norm)


def test_zero_rows_get_no_gradient_where_the_references_get_nan(golden):
    values = golden("kd/pkt_1_zero_rows")
    student = leaf(values["s.f"])
    loss = neighbour_loss(student, leaf(values["t.f"]))
    loss.backward()
    for reference in REFERENCES:
        np.testing.assert_allclose(loss.item(), values[f"loss.{reference}"], rtol=1e-5)
    broken = torch.tensor(values["aux.grad_nan_rows"])
    assert broken.any()
    assert student.grad[broken].abs().max() == 0
    assert_gradient_to_rounding(student.grad, values, "grad_nan_to_num")


def test_a_feature_of_zeros_is_as_near_to_all_others_and_gets_no_gradient():
    student = torch.rand(4, 3)
    student[1] = 0
    student.requires_grad_()
    similar = neighbour_probabilities(student)[1].detach()
    torch.testing.assert_close(similar, torch.full((4,), 0.25))
    neighbour_loss(student, torch.randn(4, 5)).backward()
    assert student.grad[1].tolist() == [0.0, 0.0, 0.0]
    assert student.grad[0].abs().sum() > 0


def test_opposite_against_equal_by_hand():
    """Probabilities 1, 0 for the teacher, 1/2, 1/2 for the student: two of four terms are ln 2."""
    teacher, student = torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1)
    assert neighbour_loss(student, teacher).item() == pytest.approx(math.log(2) / 2, rel=1e-5)


@given(seed=st.integers(0, 10**6), images=st.integers(2, 6))
def test_probabilities_and_divergence(seed, images):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(images, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    probabilities = neighbour_probabilities(student)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(images).double())
    assert probabilities.min() >= 0
    assert neighbour_loss(student, teacher).item() >= -1e-6
    lengths = 1 + torch.rand(images, 1, dtype=torch.float64, generator=generator)
    assert neighbour_loss(lengths * student, student).item() == pytest.approx(0, abs=1e-7)


class TestErrors:
    def test_a_batch_of_one(self):
        message = "PKT compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            PKT(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=message):
            neighbour_loss(torch.ones(1, 3), torch.ones(1, 3))

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'pool'\. Did you mean"):
            PKT(toy_pair(), student_feature="pool")
