"""KD and cross-entropy against the benchmark's code, closed forms and bad input."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from topokd_lib.objectives import KD, CrossEntropy, WeightedSum, kd_loss
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


@pytest.mark.parametrize("case", ["kd_0", "kd_1_largelogits"])
def test_the_benchmark_agrees(golden, case):
    values = golden(f"kd/{case}")
    temperature = float(json.loads(str(values["meta"]))["T"])
    student = torch.tensor(values["s.logits"], dtype=torch.float64, requires_grad=True)
    loss = kd_loss(student, torch.tensor(values["t.logits"], dtype=torch.float64), temperature)
    loss.backward()
    exact = values["s.logits"].dtype == np.float64
    np.testing.assert_allclose(loss.item(), values["loss.repdistiller"], rtol=1e-12 if exact else 1e-6)
    np.testing.assert_allclose(student.grad.norm(), values["grad.s.logits.norm"], rtol=1e-5)
    np.testing.assert_allclose(
        student.grad.flatten()[:16], values["grad.s.logits.head"], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("case", ["kd0", "kd1", "kd2", "kd3"])
def test_the_official_code_of_topkd_agrees(golden, case):
    values = {
        k.removeprefix(f"{case}/"): v for k, v in golden("topkd/losses_A").items() if k.startswith(case)
    }
    student = torch.tensor(values["logits_s"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(values["logits_t"], dtype=torch.float64)
    loss = kd_loss(student, teacher, float(values["T"]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["kd_loss"], rtol=1e-5)
    gradient = values["grad_logits_s"].astype(np.float64)
    np.testing.assert_allclose(student.grad, gradient, rtol=1e-3, atol=1e-6 * np.abs(gradient).max())
    np.testing.assert_allclose(student.grad.norm(), np.linalg.norm(gradient), rtol=1e-5)
    cross_entropy = F.cross_entropy(student, torch.tensor(values["labels"]).long())
    np.testing.assert_allclose(cross_entropy.item(), values["ce_loss"], rtol=1e-5)


def test_two_classes_by_hand():
    """Student (0, 0), teacher (ln 3, 0): probabilities 1/2, 1/2 against 3/4, 1/4."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert kd_loss(student, teacher, 1.0).item() == pytest.approx(expected, rel=1e-6)


@given(
    logits=st.lists(st.lists(st.floats(-50, 50), min_size=3, max_size=3), min_size=1, max_size=4),
    temperature=st.floats(0.5, 20),
)
def test_it_is_never_negative_and_zero_for_equal_distributions(logits, temperature):
    teacher = torch.tensor(logits, dtype=torch.float64)
    assert kd_loss(teacher + 7.0, teacher, temperature).item() == pytest.approx(0, abs=1e-9)
    assert kd_loss(teacher.flip(1), teacher, temperature).item() >= -1e-12


def test_huge_logits_stay_finite():
    teacher = torch.tensor([[1e4, 0.0, -1e4]])
    student = (-teacher).requires_grad_()
    loss = kd_loss(student, teacher, 4.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_gradient_does_not_shrink_with_the_temperature():
    """What the factor τ² is for: for small logits the gradient does not depend on τ."""
    generator = torch.Generator().manual_seed(0)
    student = 0.01 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    teacher = 0.01 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    norms = []
    for temperature in (4.0, 16.0):
        leaf = student.clone().requires_grad_()
        kd_loss(leaf, teacher, temperature).backward()
        norms.append(leaf.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.01)


@pytest.mark.usefixtures("unchecked")
def test_logits_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"student's are \(1, 10\), the teacher's \(8, 10\)"):
        kd_loss(torch.zeros(1, 10), torch.zeros(8, 10))


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
        KD(toy_pair(), temperature=0.0)


def test_other_classes_are_refused_before_training():
    from topokd_lib.models import Teacher, create_model

    pair = Pair.measure(
        create_model("resnet8", num_classes=5),
        Teacher(create_model("resnet8", num_classes=7)),
        image_shape=(3, 16, 16),
        train_labels=torch.arange(5),
        batch_size=4,
    )
    with pytest.raises(ValueError, match="student resnet8 has 5 classes, teacher resnet8 has 7"):
        KD(pair)


def test_no_teacher_is_said_so():
    from topokd_lib.models import create_model

    pair = Pair.measure(
        create_model("resnet8", num_classes=5),
        None,
        image_shape=(3, 16, 16),
        train_labels=torch.arange(5),
        batch_size=4,
    )
    CrossEntropy(pair)
    with pytest.raises(ValueError, match="KD compares the student with a teacher, and this run has none"):
        KD(pair)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_is_a_probability(smoothing):
    with pytest.raises(ValueError, match=f"below 1, got {smoothing}"):
        CrossEntropy(toy_pair(), label_smoothing=smoothing)


class TestWeightedSum:
    def build(self, **warmup):
        pair = toy_pair()
        total = WeightedSum({"ce": CrossEntropy(pair), "kd": KD(pair)}, {"ce": 0.1, "kd": 0.9}, warmup)
        batch = toy_batch()
        return total, (*toy_outputs(pair, batch, student_features=(), teacher_features=()), batch)

    def test_it_adds_weighted_terms_and_keeps_their_values(self):
        total, arguments = self.build()
        loss = total(*arguments)
        expected = 0.1 * total.values["ce"] + 0.9 * total.values["kd"]
        torch.testing.assert_close(loss.detach(), expected)
        assert not total.values["kd"].requires_grad

    def test_warm_up_grows_linearly_and_then_stays(self):
        total, _ = self.build(kd=4)
        weights = []
        for epoch in range(6):
            total.begin_epoch(epoch, 6)
            weights.append(total.weight("kd"))
        assert weights == pytest.approx([0.225, 0.45, 0.675, 0.9, 0.9, 0.9])
        assert total.weight("ce") == 0.1

    def test_weights_must_match_terms(self):
        pair = toy_pair()
        with pytest.raises(ValueError, match=r"terms are \['ce'\], weights are given for \['kd'\]"):
            WeightedSum({"ce": CrossEntropy(pair)}, {"kd": 1.0})
        with pytest.raises(ValueError, match="weight of term 'ce' must not be negative, got -1"):
            WeightedSum({"ce": CrossEntropy(pair)}, {"ce": -1.0})
        with pytest.raises(ValueError, match="at least one term"):
            WeightedSum({}, {})
