"""Neuron selectivity transfer against its definition, written out, and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import NST, selectivity_loss
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def by_definition(student: np.ndarray, teacher: np.ndarray) -> float:
    """Squared maximum mean discrepancy, kernel by kernel and channel by channel."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        s, t = (
            x.reshape(len(x), -1) / np.linalg.norm(x.reshape(len(x), -1), axis=1)[:, None] for x in (s, t)
        )
        for first, second, sign in ((s, s, 1), (t, t, 1), (s, t, -2)):
            total += sign * np.mean([[float(x @ y) ** 2 for y in second] for x in first])
    return total / len(student)


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("channels", [(3, 4), (9, 2), (12, 15)])
def test_it_is_its_definition(size, channels):
    """With fewer positions than channels and with more, so that both forms of the sums are used."""
    generator = np.random.default_rng(0)
    student, teacher = (generator.normal(size=(2, count, size, size)) for count in channels)
    found = selectivity_loss(torch.tensor(student), torch.tensor(teacher)).item()
    assert found == pytest.approx(by_definition(student, teacher), rel=1e-10)


def test_two_channels_by_hand():
    """Channels at either position against one between them: 1/2 + 1 − 2·1/2."""
    student = torch.tensor([[[[3.0, 0.0]], [[0.0, 0.1]]]])
    teacher = torch.tensor([[[[5.0, 5.0]]]])
    assert selectivity_loss(student, teacher).item() == pytest.approx(0.5)


@given(seed=st.integers(0, 99), scale=st.floats(0.1, 10), channels=st.integers(1, 6))
def test_it_is_a_distance_of_sets_of_directions(seed, scale, channels):
    """Never negative, and zero for the same channels in another order, strength and sign."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(2, channels, 2, 3, generator=generator, dtype=torch.float64)
    teacher = torch.randn(2, 4, 2, 3, generator=generator, dtype=torch.float64)
    assert selectivity_loss(student, teacher).item() >= -1e-12
    assert selectivity_loss(student, -scale * student.flip(1)).item() == pytest.approx(0, abs=1e-12)


def test_it_is_the_distance_of_which_positions_fire_together():
    """The other form of the formula: mean outer products over the channels."""
    features = (torch.randn(2, 5, 3, 3).double(), torch.randn(2, 7, 3, 3).double())
    normalised = (F.normalize(feature.flatten(2), dim=2) for feature in features)
    first, second = (torch.einsum("bcp,bcq->bpq", x, x) / x.shape[1] for x in normalised)
    expected = (first - second).square().sum(dim=(1, 2)).mean()
    torch.testing.assert_close(selectivity_loss(*features), expected)


def test_the_gradient_is_that_of_the_formula():
    teacher = torch.randn(2, 3, 3, 2).double()
    for channels in (2, 9):
        student = torch.randn(2, channels, 3, 2).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda s: selectivity_loss(s, teacher), student)


def test_the_larger_map_is_averaged():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 8, 8)
    expected = selectivity_loss(student, F.avg_pool2d(teacher, 2))
    torch.testing.assert_close(selectivity_loss(student, teacher), expected)


def test_dead_channels_have_a_finite_gradient():
    student = torch.randn(2, 3, 4, 4)
    student[:, 1] = 0
    student.requires_grad_()
    loss = selectivity_loss(student, torch.zeros(2, 4, 4, 4)) + selectivity_loss(
        student, torch.randn(2, 4, 4, 4)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_every_stage_counts_once():
    pair, batch = toy_pair(teacher="resnet8x4"), toy_batch()
    objective = NST(pair)
    names = ("stage1", "stage2", "stage3")
    student, teacher = toy_outputs(pair, batch, student_features=names, teacher_features=names)
    expected = sum(selectivity_loss(student[name], teacher[name]) for name in names)
    torch.testing.assert_close(objective(student, teacher, batch), expected)


def test_a_missing_stage_is_named():
    with pytest.raises(FeatureNotFound, match=r"teacher resnet14 has no feature 'stage5'"):
        NST(toy_pair(), student_features=("stage1",), teacher_features=("stage5",))
