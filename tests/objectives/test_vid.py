"""Variational information distillation: official values, and variances that really are trained."""

import math

import numpy as np
import pytest
import torch

from tests.objectives.reference import assert_gradient, benchmark_pair, leaf, parameters, state
from topokd_lib.objectives import VID, variational_loss
from topokd_lib.objectives.vid import VariationalRegressor
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


@pytest.mark.parametrize("case", ["vid_0", "vid_1_pool"])
def test_the_benchmark_agrees(golden, case):
    values = golden(f"kd/{case}")
    student, teacher = leaf(values["s.f"]), torch.tensor(values["t.f"]).double()
    regressor = VariationalRegressor(student.shape[1], teacher.shape[1])
    regressor.load_state_dict(state(values, "w."))
    regressor.double()
    loss = regressor(student, teacher)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["loss.repdistiller"], rtol=1e-6)
    assert_gradient(student, values, "s.f")
    assert_gradient(regressor.log_scale, values, "w.log_scale")
    assert_gradient(regressor.regressor[0].weight, values, "w.regressor.0.weight")


def test_one_number_by_hand():
    """Off by 3 at variance 2: (9/2 + log 2) / 2."""
    mean, teacher = torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0)
    expected = (4.5 + math.log(2)) / 2
    assert variational_loss(mean, torch.tensor([2.0]), teacher).item() == pytest.approx(expected)


def test_it_is_the_negative_logarithm_of_a_gaussian_density():
    mean, teacher = torch.randn(2, 3, 4, 4, 2, dtype=torch.float64).unbind(-1)
    variance = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    normal = torch.distributions.Normal(mean, variance.sqrt()[:, None, None])
    expected = -normal.log_prob(teacher).mean() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(variational_loss(mean, variance, teacher), expected)


def test_the_best_variance_is_the_mean_squared_error():
    mean, teacher = torch.randn(8, 3, 4, 4, 2, dtype=torch.float64).unbind(-1)
    variance = (mean - teacher).square().mean(dim=(0, 2, 3)).requires_grad_()
    variational_loss(mean, variance, teacher).backward()
    torch.testing.assert_close(variance.grad, torch.zeros(3).double(), atol=1e-12, rtol=0)


def test_variances_are_trained():
    """Each moves towards its channel's error; in one published collection they stay where they began."""
    pair, batch = toy_pair(), toy_batch()
    objective = VID(pair)
    outputs = toy_outputs(
        pair,
        batch,
        student_features=objective.student_features,
        teacher_features=objective.teacher_features,
    )
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        losses.append(objective(*outputs, batch))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    for regressor in objective.regressors:
        assert ((regressor.variance - 5).abs() > 0.01).all()
    assert sum("log_scale" in key for key in objective.state_dict()) == 3


@pytest.mark.parametrize("variance", [2e-5, 0.5, 5.0, 1000.0])
def test_the_initial_variance_is_the_one_asked_for(variance):
    regressor = VariationalRegressor(3, 4, variance)
    np.testing.assert_allclose(regressor.variance.detach(), variance, rtol=1e-4)


def test_huge_and_tiny_scales_stay_finite():
    regressor = VariationalRegressor(2, 2)
    with torch.no_grad():
        regressor.log_scale.copy_(torch.tensor([500.0, -500.0]))
    loss = regressor(torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(regressor.log_scale.grad).all()


@pytest.mark.parametrize(
    ("teacher", "student", "count"),
    [
        ("resnet56", "resnet20", 16240),
        ("resnet32x4", "resnet8x4", 258496),
        ("vgg13", "vgg8", 1820032),
        ("resnet50", "mobilenetv2_half", 11533056),
        ("resnet50", "vgg8", 12881664),
    ],
)
def test_it_trains_as_many_parameters_as_the_benchmark(teacher, student, count):
    assert parameters(VID(benchmark_pair(teacher, student))) == count


@pytest.mark.parametrize("variance", [0.0, 1e-5, -1.0, math.nan])
def test_a_variance_that_cannot_be_reached_is_refused(variance):
    with pytest.raises(ValueError, match=f"must be above 1e-05, .* got {variance}"):
        VID(toy_pair(), initial_variance=variance)
