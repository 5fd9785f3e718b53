"""SRD: official values, a logarithm that keeps its gradient, and one that stays finite."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import SRD, kd_loss, log_distance_loss, standardise_channels
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import toy_batch, toy_pair


def test_official_code_agrees(golden):
    """Its loss is twice ours and the divergence of the logits at temperature 1."""
    values = golden("kd_modern/srd__a")
    student, teacher = leaf(values["in__s"]), leaf(values["in__t"])
    student_logits, teacher_logits = leaf(values["in__zs"]), leaf(values["in__zt"])
    distance = log_distance_loss(student, teacher)
    divergence = kd_loss(student_logits, teacher_logits, temperature=1.0)
    loss = 2 * distance + divergence
    loss.backward()
    np.testing.assert_allclose(distance.item(), values["out__feat"], rtol=1e-6)
    np.testing.assert_allclose(divergence.item(), values["out__kl"], rtol=1e-6)
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "s")
    assert_modern_gradient(student_logits, values, "zs")
    assert teacher.grad is None


def test_official_code_agrees_in_float32(golden):
    values = golden("kd_modern/srd__a")
    distance = log_distance_loss(torch.tensor(values["in__s"]), torch.tensor(values["in__t"]))
    np.testing.assert_allclose(distance.item(), values["out__feat_f32"], rtol=2e-5)


def test_standardisation_is_batch_normalisation_without_scale_and_shift():
    feature = 3 * torch.randn(16, 5) + 7
    norm = nn.BatchNorm1d(5, eps=1e-4, affine=False)
    torch.testing.assert_close(standardise_channels(feature), norm(feature))


def test_one_number_by_hand():
    """Standardised (1, −1) and (−1, 1), up to 1e-4: twice a difference of 2. Exponent 3: log 16."""
    student = torch.tensor([[5.0], [1.0]])
    teacher = torch.tensor([[-30.0], [30.0]])
    assert log_distance_loss(student, teacher, 3.0).item() == pytest.approx(math.log(16), abs=1e-4)


@given(seed=st.integers(0, 10**6), exponent=st.sampled_from([1.0, 2.0, 4.0, 6.5]))
def test_it_is_the_logarithm_of_a_norm(seed, exponent):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator)
    difference = standardise_channels(student) - standardise_channels(teacher)
    expected = exponent * torch.linalg.vector_norm(difference, ord=exponent).log()
    torch.testing.assert_close(log_distance_loss(student, teacher, exponent), expected)


def test_the_gradient_does_not_fade_as_the_student_comes_closer():
    """A tenth of the difference: 4 log 10 less loss, and ten times the gradient; a mean of squares fades."""
    teacher, error = torch.randn(2, 64, 8, dtype=torch.float64)
    losses, gradients = [], []
    for size in (1e-3, 1e-4):
        student = (teacher + size * error).requires_grad_()
        losses.append(log_distance_loss(student, teacher))
        losses[-1].backward()
        gradients.append(student.grad.norm())
    assert (losses[0] - losses[1]).item() == pytest.approx(4 * math.log(10), rel=1e-2)
    assert (gradients[1] / gradients[0]).item() == pytest.approx(10, rel=1e-2)


@pytest.mark.parametrize("exponent", [1.0, 4.0])
@pytest.mark.parametrize("distance", [0.0, 1e-12])
def test_equal_features_are_finite_and_give_no_gradient(exponent, distance):
    """Official code returns −∞ and NaN."""
    teacher = torch.zeros(4, 3)
    student = (teacher + distance * torch.eye(4, 3)).requires_grad_()
    loss = log_distance_loss(student, teacher, exponent)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    if distance == 0:
        assert (student.grad == 0).all()


def test_a_constant_channel_counts_as_zero():
    feature = torch.cat([torch.randn(6, 2), torch.full((6, 1), 3.0)], dim=1)
    assert (standardise_channels(feature)[:, 2] == 0).all()


def test_scale_and_offset_of_every_channel_are_ignored():
    student, teacher = torch.randn(2, 16, 4, dtype=torch.float64)
    changed = 5 * teacher * torch.tensor([1.0, 2.0, 3.0, 4.0]).double() - 8
    torch.testing.assert_close(
        log_distance_loss(student, changed), log_distance_loss(student, teacher), rtol=1e-3, atol=0
    )


def test_a_bias_of_the_projector_would_not_matter():
    """Official code has one; the normalisation takes it out."""
    student, teacher, bias = torch.randn(16, 4).double(), torch.randn(16, 4).double(), torch.randn(4).double()
    torch.testing.assert_close(
        log_distance_loss(student + bias, teacher), log_distance_loss(student, teacher)
    )


def test_maps_are_averaged_over_their_pixels():
    objective = SRD(toy_pair(), student_feature="stage2", teacher_feature="stage3")
    student, teacher = torch.randn(8, 32, 8, 8), torch.randn(8, 64, 4, 4)
    logits = torch.zeros(8, 5)
    loss = objective(
        ModelOutput(logits, {"stage2": student}), ModelOutput(logits, {"stage3": teacher}), toy_batch()
    )
    expected = log_distance_loss(objective.projector(student.mean(dim=(2, 3))), teacher.mean(dim=(2, 3)))
    torch.testing.assert_close(loss, expected)


class TestErrors:
    def test_a_batch_of_one(self):
        message = "SRD compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            SRD(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=message):
            log_distance_loss(torch.ones(1, 3), torch.ones(1, 3))

    @pytest.mark.parametrize("exponent", [0.5, 0.0, -4.0, math.nan])
    def test_an_exponent_without_gradient_at_zero(self, exponent):
        with pytest.raises(ValueError, match=f"the exponent must be at least 1, .* got {exponent}"):
            SRD(toy_pair(), exponent=exponent)

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"teacher resnet14 has no feature 'poled'\. Did you mean"):
            SRD(toy_pair(), teacher_feature="poled")

    def test_no_teacher(self):
        with pytest.raises(
            ValueError, match="SRD compares the student with a teacher, and this run has none"
        ):
            SRD(replace(toy_pair(), teacher=None, teacher_shapes={}))
