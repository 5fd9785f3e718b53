"""DKD against the official code, where that overflows, by hand, and as what it decouples."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import (
    DKD,
    CrossEntropy,
    WeightedSum,
    dkd_loss,
    kd_loss,
    non_target_loss,
    target_loss,
)
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair

ORDINARY = ["a_b4c10", "b_b8c100"]


@pytest.mark.parametrize("case", ORDINARY)
def test_the_official_code_agrees(golden, case):
    values = golden(f"kd_modern/dkd__{case}")
    student, teacher, labels = leaf(values["in__zs"]), leaf(values["in__zt"]), torch.tensor(values["in__y"])
    for part, reference in ((target_loss, "tckd"), (non_target_loss, "nckd")):
        found = part(student, teacher, labels, 4.0)
        np.testing.assert_allclose(found.item(), values[f"out__{reference}"], rtol=1e-6)
    loss = dkd_loss(student, teacher, labels, 4.0, 1.0, 8.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "zs")
    assert teacher.grad is None
    in_float32 = dkd_loss(student.float(), teacher.float(), labels)
    np.testing.assert_allclose(in_float32.item(), values["out__loss_f32"], rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_finite_where_the_official_code_overflows(golden, dtype):
    """Gaps of 120 and 150 between logits, on opposite sides: the official value in float32 is infinite."""
    values = golden("kd_modern/dkd__stress_a")
    assert np.isinf(values["out__loss_f32"])
    student = torch.tensor(values["in__zs"], dtype=dtype, requires_grad=True)
    arguments = student, torch.tensor(values["in__zt"], dtype=dtype), torch.tensor(values["in__y"])
    tolerance = 1e-6 if dtype == torch.float64 else 2e-5
    for part, reference in ((target_loss, "tckd"), (non_target_loss, "nckd")):
        found = part(*arguments, 1.0).item()
        np.testing.assert_allclose(found, values[f"out__{reference}_stable"], rtol=tolerance)
    loss = dkd_loss(*arguments, 1.0, 1.0, 2.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss_stable"], rtol=tolerance)
    if dtype == torch.float64:
        assert_modern_gradient(student, values, "zs")
    np.testing.assert_allclose(student.grad.double().norm(), values["gnorm__zs"], rtol=1e-4)


def test_the_reference_of_kd_is_kd(golden):
    values = golden("kd_modern/dkd__a_b4c10")
    found = kd_loss(leaf(values["in__zs"]), leaf(values["in__zt"]), 4.0)
    np.testing.assert_allclose(found.item(), values["out__kd_same_T"], rtol=1e-6)


@given(seed=st.integers(0, 10**6), temperature=st.floats(0.5, 20), scale=st.floats(0.1, 50))
def test_kd_is_the_same_sum_with_a_weight_that_falls_with_certainty(seed, temperature, scale):
    """KD = TCKD + (1 − p) NCKD for each image, p being the teacher's probability of the label."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (scale * torch.randn(2, 1, 6, dtype=torch.float64, generator=generator)).unbind()
    labels = torch.randint(6, (1,), generator=generator)
    unsure = 1 - (teacher / temperature).softmax(dim=1)[0, labels[0]].item()
    found = dkd_loss(student, teacher, labels, temperature, 1.0, unsure)
    torch.testing.assert_close(found, kd_loss(student, teacher, temperature), rtol=1e-9, atol=1e-9)


def test_three_classes_by_hand():
    """Label 1/2 against 3/4; the others 1/4 and 3/4 of the rest against 2/3 and 1/3."""
    student = torch.tensor([[4.0, 1.0, 3.0]], dtype=torch.float64).log()
    teacher = torch.tensor([[9.0, 2.0, 1.0]], dtype=torch.float64).log()
    target = 0.75 * np.log(3 / 2) + 0.25 * np.log(1 / 2)
    other = 2 / 3 * np.log(8 / 3) + 1 / 3 * np.log(4 / 9)
    found = dkd_loss(student, teacher, torch.tensor([0]), 1.0, 5.0, 7.0)
    assert found.item() == pytest.approx(5 * target + 7 * other, rel=1e-12)


def test_a_label_at_either_end_is_left_out():
    """The others are numbered around the label, wherever it is."""
    teacher = torch.arange(4.0).repeat(4, 1)
    student = torch.zeros(4, 4)
    for label in range(4):
        labels = torch.tensor([label])
        rest = [c for c in range(4) if c != label]
        expected = kd_loss(student[:1, rest], teacher[:1, rest], 2.0)
        torch.testing.assert_close(non_target_loss(student[:1], teacher[:1], labels, 2.0), expected)


def test_two_classes_have_no_second_part():
    student, teacher, labels = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0, 1, 1])
    assert non_target_loss(student, teacher, labels).item() == 0
    torch.testing.assert_close(target_loss(student, teacher, labels), kd_loss(student, teacher))


@pytest.mark.parametrize("size", [1e3, 1e4])
def test_huge_logits_stay_finite_both_ways(size):
    teacher = torch.tensor([[size, 0.0, -size], [-size, 0.0, size]])
    student = (-teacher).requires_grad_()
    loss = dkd_loss(student, teacher, torch.tensor([0, 0]), 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_the_warm_up_belongs_to_the_term():
    """Twenty epochs, as officially, and not a second time inside the loss."""
    pair, batch = toy_pair(), toy_batch()
    total = WeightedSum(
        {"ce": CrossEntropy(pair), "dkd": DKD(pair, non_target_weight=2.0)},
        {"ce": 1.0, "dkd": 1.0},
        {"dkd": 20},
    )
    outputs = toy_outputs(pair, batch, student_features=(), teacher_features=())
    for epoch, factor in ((0, 0.05), (9, 0.5), (19, 1.0), (100, 1.0)):
        total.begin_epoch(epoch, 240)
        loss = total(*outputs, batch)
        expected = dkd_loss(outputs[0].logits, outputs[1].logits, batch.labels, 4.0, 1.0, 2.0)
        torch.testing.assert_close(total.values["dkd"], expected.detach())
        torch.testing.assert_close(loss - total.values["ce"], factor * expected)


class TestErrors:
    @pytest.mark.usefixtures("unchecked")
    def test_logits_of_other_shapes(self):
        with pytest.raises(ValueError, match=r"student's are \(1, 10\), the teacher's \(8, 10\)"):
            dkd_loss(torch.zeros(1, 10), torch.zeros(8, 10), torch.zeros(8, dtype=torch.long))

    def test_one_class(self):
        message = "DKD tells the label from other classes and needs at least 2 classes, got 1"
        nothing, labels = torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)
        for function in (dkd_loss, target_loss, non_target_loss):
            with pytest.raises(ValueError, match=message):
                function(nothing, nothing, labels)
        pair = Pair.measure(
            create_model("resnet8", num_classes=1),
            Teacher(create_model("resnet8", num_classes=1)),
            image_shape=(3, 16, 16),
            train_labels=labels,
            batch_size=2,
        )
        with pytest.raises(ValueError, match=message):
            DKD(pair)

    def test_a_temperature_that_is_not_positive(self):
        with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
            DKD(toy_pair(), temperature=0.0)

    def test_a_negative_weight(self):
        with pytest.raises(ValueError, match=r"negative, got target_weight=-1\.0 and non_target_weight=8\.0"):
            DKD(toy_pair(), target_weight=-1.0)

    def test_other_classes(self):
        pair = Pair.measure(
            create_model("resnet8", num_classes=5),
            Teacher(create_model("resnet8", num_classes=7)),
            image_shape=(3, 16, 16),
            train_labels=torch.arange(5),
            batch_size=4,
        )
        with pytest.raises(ValueError, match="DKD compares logits class by class: student resnet8 has 5"):
            DKD(pair)
