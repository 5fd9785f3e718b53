"""DIST against the official code and SciPy, by hand, what it ignores, and where nothing varies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.objectives import DIST, dist_loss, pearson_correlation
from topokd_lib.testing import toy_pair


@pytest.mark.parametrize(("case", "temperature"), [("a", 1.0), ("b_tau4", 4.0)])
def test_the_official_code_agrees(golden, case, temperature):
    values = golden(f"kd_modern/dist__{case}")
    student, teacher = leaf(values["in__zs"]), leaf(values["in__zt"])
    loss = dist_loss(student, teacher, temperature)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "zs")
    assert teacher.grad is None
    for weights, part in (((1.0, 0.0), "inter"), ((0.0, 1.0), "intra")):
        found = dist_loss(student, teacher, temperature, *weights).item() / temperature**2
        np.testing.assert_allclose(found, values[f"out__{part}"], rtol=1e-6)
    np.testing.assert_allclose(dist_loss(student, teacher, 1.0).item(), values["out__loss_tau1"], rtol=1e-6)
    in_float32 = dist_loss(student.float(), teacher.float(), temperature)
    np.testing.assert_allclose(in_float32.item(), values["out__loss_f32"], rtol=2e-5)


def test_correlations_are_those_of_scipy():
    first, second = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 7, dtype=torch.float64)
    expected = [pearsonr(x, y).statistic for x, y in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(pearson_correlation(first, second), expected, rtol=1e-6)


def test_two_images_of_two_classes_by_hand():
    """Two numbers correlate by 1 or −1: image 1 agrees, image 2 does not, and in both classes the order
    is off. Student probabilities of class 0: 3/4 and 2/3; the teacher's 3/5 and 4/5 for image 1, 1/5
    for image 2 turns the first image into agreement and the second into the opposite.
    """
    student = torch.tensor([[3.0, 1.0], [2.0, 1.0]], dtype=torch.float64).log()
    teacher = torch.tensor([[3.0, 2.0], [1.0, 4.0]], dtype=torch.float64).log()
    inter, intra = (0 + 2) / 2, 0  # between classes 1 and −1; within classes both fall from image 1 to 2
    found = dist_loss(student, teacher, 1.0, 3.0, 5.0)
    assert found.item() == pytest.approx(3 * inter + 5 * intra, abs=1e-5)


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_correlation_ignores_shift_and_positive_scale(seed, factor, shift):
    rows = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        pearson_correlation(factor * rows + shift, rows),
        torch.ones(3, dtype=torch.float64),
        rtol=0,
        atol=1e-6,
    )
    torch.testing.assert_close(
        pearson_correlation(shift - factor * rows, rows),
        -torch.ones(3, dtype=torch.float64),
        rtol=0,
        atol=1e-6,
    )


@given(seed=st.integers(0, 10**6))
def test_a_perfect_student_costs_nothing_and_none_costs_more_than_four(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 6, 5, dtype=torch.float64, generator=generator).unbind()
    assert dist_loss(teacher + 3.0, teacher, 1.0).item() == pytest.approx(0, abs=1e-5)
    assert -1e-12 <= dist_loss(student, teacher, 1.0).item() <= 4


def test_a_weaker_student_that_ranks_alike_is_nearly_right():
    """The point of the paper: KD asks for the same probabilities, DIST for the same relations."""
    from topokd_lib.objectives import kd_loss

    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(16, 10, dtype=torch.float64, generator=generator)
    weaker, other = teacher / 4, torch.randn(16, 10, dtype=torch.float64, generator=generator)
    as_correlation = dist_loss(weaker, teacher, 4.0) / dist_loss(other, teacher, 4.0)
    as_divergence = kd_loss(weaker, teacher, 4.0) / kd_loss(other, teacher, 4.0)
    assert as_correlation < 0.02 < 0.2 < as_divergence


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
def test_a_student_that_says_nothing_is_finite_and_its_gradient_does_not_explode(value):
    """As a network does whose last layer begins with zeros."""
    student = torch.full((4, 10), value, requires_grad=True)
    loss = dist_loss(student, torch.randn(4, 10))
    loss.backward()
    assert loss.item() == pytest.approx(32)
    assert student.grad.abs().max() == 0


def test_one_silent_image_among_others():
    student = torch.randn(4, 10)
    student[1] = 0.1
    student.requires_grad_()
    dist_loss(student, torch.randn(4, 10)).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 10


@pytest.mark.parametrize("size", [1e3, 1e6])
def test_certainty_stays_finite(size):
    """Probabilities of exactly 0 and 1; images of the same class make most classes constant."""
    teacher = size * torch.eye(5)[[0, 0, 1]]
    student = (-teacher).requires_grad_()
    loss = dist_loss(student, teacher, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


class TestErrors:
    def test_a_batch_of_one(self):
        message = "DIST compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            DIST(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=message):
            dist_loss(torch.zeros(1, 3), torch.zeros(1, 3))

    @pytest.mark.usefixtures("unchecked")
    def test_logits_of_other_shapes(self):
        with pytest.raises(ValueError, match=r"student's are \(1, 10\), the teacher's \(8, 10\)"):
            dist_loss(torch.zeros(1, 10), torch.zeros(8, 10))

    def test_a_temperature_that_is_not_positive(self):
        with pytest.raises(ValueError, match=r"must be positive, got -4\.0"):
            DIST(toy_pair(), temperature=-4.0)

    def test_a_negative_weight(self):
        with pytest.raises(ValueError, match=r"negative, got inter_weight=1\.0 and intra_weight=-1\.0"):
            DIST(toy_pair(), intra_weight=-1.0)
