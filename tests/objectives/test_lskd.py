"""LSKD against the official code, by hand, what it ignores, and logits that say nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import LSKD, dkd_loss, kd_loss, standardised_logits
from topokd_lib.outputs import ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_pair


def lskd(student, teacher, **options):
    batch = toy_batch(len(student))
    return LSKD(toy_pair(), **options)(ModelOutput(student), ModelOutput(teacher), batch)


@pytest.mark.parametrize("case", ["a", "b_c100"])
def test_the_official_code_agrees(golden, case):
    values = golden(f"kd_modern/lskd__{case}")
    student, teacher = leaf(values["in__zs"]), leaf(values["in__zt"])
    loss = lskd(student, teacher)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "zs")
    assert teacher.grad is None
    np.testing.assert_allclose(
        lskd(student.float(), teacher.float()).item(), values["out__loss_f32"], rtol=2e-5
    )


def test_without_standardisation_it_is_kd(golden):
    values = golden("kd_modern/kd__a")
    student = leaf(values["in__zs"])
    loss = kd_loss(student, leaf(values["in__zt"]), 4.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "zs")


def test_either_loss_is_that_of_the_standardised_logits():
    """Up to the 1e-7 that the official code adds to the standard deviation."""
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64).unbind()
    hats = [(z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True) for z in (student, teacher)]
    torch.testing.assert_close(
        lskd(student, teacher, temperature=3.0), kd_loss(*hats, 3.0), rtol=1e-6, atol=0
    )
    expected = dkd_loss(*hats, toy_batch(8).labels, 2.0)
    torch.testing.assert_close(lskd(student, teacher, base="dkd"), expected, rtol=1e-6, atol=0)


def test_three_classes_by_hand():
    """(0, 0, 3): mean 1, variance (1 + 1 + 4) / 2 = 3."""
    found = standardised_logits(torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float64))
    expected = torch.tensor([[-1.0, -1.0, 2.0]], dtype=torch.float64) / 3**0.5
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@given(
    seed=st.integers(0, 10**6),
    factor=st.floats(0.1, 100),
    shift=st.floats(-100, 100),
    base=st.sampled_from(["kd", "dkd"]),
)
def test_range_and_mean_of_the_logits_are_ignored(seed, factor, shift, base):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator).unbind()
    expected = lskd(student, teacher, base=base)
    torch.testing.assert_close(
        lskd(factor * student + shift, teacher, base=base), expected, rtol=1e-4, atol=1e-9
    )
    assert lskd(factor * teacher + shift, teacher, base=base).item() == pytest.approx(0, abs=1e-9)


def test_the_gradient_neither_shifts_nor_scales_the_logits():
    """What the loss ignores, it does not push: the gradient is orthogonal to both directions."""
    student = torch.randn(8, 5, dtype=torch.float64, requires_grad=True)
    lskd(student, torch.randn(8, 5, dtype=torch.float64)).backward()
    assert student.grad.norm() > 1e-3
    assert student.grad.sum(dim=1).abs().max() < 1e-7
    assert (student.grad * student.detach()).sum(dim=1).abs().max() < 1e-7


@pytest.mark.parametrize("base", ["kd", "dkd"])
@pytest.mark.parametrize("value", [0.0, 0.1, 5.0])
def test_logits_that_say_nothing_are_finite_and_do_not_explode(value, base):
    student = torch.randn(4, 5)
    student[1] = value
    student.requires_grad_()
    teacher = torch.randn(4, 5)
    teacher[2] = value
    loss = lskd(student, teacher, base=base)
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad[1].abs().max() == 0
    assert 0 < student.grad.abs().max() < 20


def test_huge_logits_stay_finite():
    student = (1e6 * torch.randn(4, 5)).requires_grad_()
    loss = lskd(student, 1e6 * torch.randn(4, 5), base="dkd")
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


class TestErrors:
    def test_two_classes_have_nothing_to_say(self):
        message = "LSKD needs at least 3 classes, got 2: standardised logits of two are ±1/√2"
        with pytest.raises(ValueError, match=message):
            standardised_logits(torch.randn(3, 2))
        pair = Pair.measure(
            create_model("resnet8", num_classes=2),
            Teacher(create_model("resnet8", num_classes=2)),
            image_shape=(3, 16, 16),
            train_labels=torch.arange(2),
            batch_size=2,
        )
        with pytest.raises(ValueError, match=message):
            LSKD(pair)

    def test_a_temperature_that_is_not_positive(self):
        with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
            LSKD(toy_pair(), temperature=0.0)

    def test_no_teacher(self):
        pair = Pair.measure(
            create_model("resnet8", num_classes=5),
            None,
            image_shape=(3, 16, 16),
            train_labels=torch.arange(5),
            batch_size=4,
        )
        with pytest.raises(
            ValueError, match="LSKD compares the student with a teacher, and this run has none"
        ):
            LSKD(pair)
