"""Attention transfer against official values, by hand, and on maps without any response."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import (
    CROSS_STYLE,
    SAME_STYLE,
    assert_gradient,
    assert_modern_gradient,
    benchmark_pair,
    leaf,
)
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import AT, attention_loss, attention_map
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


@pytest.mark.parametrize("case", ["at_0", "at_1_sizes"])
def test_the_benchmark_agrees(golden, case):
    """Also where sizes differ, in one direction and in the other."""
    values = golden(f"kd/{case}")
    terms = values["loss_terms.repdistiller"]
    students = [leaf(values[f"s.f{i}"]) for i in range(len(terms))]
    teachers = [torch.tensor(values[f"t.f{i}"]).double() for i in range(len(terms))]
    losses = [attention_loss(s, t) for s, t in zip(students, teachers, strict=True)]
    torch.stack(losses).sum().backward()
    np.testing.assert_allclose([loss.item() for loss in losses], terms, rtol=1e-6)
    np.testing.assert_allclose(sum(losses).item(), values["loss.repdistiller"], rtol=1e-6)
    for i, student in enumerate(students):
        assert_gradient(student, values, f"s.f{i}")


def test_mdistiller_agrees(golden):
    values = golden("kd_modern/at_mdistiller__a")
    students, teachers = ([leaf(values[f"in__{side}{i}"]) for i in (0, 1)] for side in "st")
    loss = torch.stack([attention_loss(s, t) for s, t in zip(students, teachers, strict=True)]).sum()
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    for i, student in enumerate(students):
        assert_modern_gradient(student, values, f"s{i}")


def test_the_papers_norm_agrees_with_torchdistill(golden):
    values = golden("kd/at_0")
    maps = [[torch.tensor(values[f"{side}.f{i}"]).double() for i in (0, 1)] for side in "st"]
    total = sum(attention_loss(s, t, variant="paper").item() for s, t in zip(*maps, strict=True))
    assert total == pytest.approx(values["loss.torchdistill_paper"].item(), rel=1e-6)


def test_looking_at_different_places_by_hand():
    """Attention (1, 0) and (0, 1): mean of squares 1, distance √2."""
    student, teacher = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.0, -7.0]]]])
    assert attention_loss(student, teacher).item() == 1.0
    assert attention_loss(student, teacher, variant="paper").item() == pytest.approx(math.sqrt(2))


def test_the_power_sharpens_by_hand():
    """Responses 1 and 2: attention is proportional to 1 : 2 for p = 1, and 1 : 16 for p = 4."""
    feature = torch.tensor([[[[1.0, -2.0]]]])
    for power, ratio in ((1.0, 2.0), (4.0, 16.0)):
        first, second = attention_map(feature, power)[0].tolist()
        assert second / first == pytest.approx(ratio)


@given(scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_strength_and_order_of_channels_do_not_matter(scale, seed):
    """Attention is where, not how much and not by whom."""
    feature = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(attention_map(scale * feature[:, [3, 1, 4, 0, 2]]), attention_map(feature))


@pytest.mark.parametrize("variant", ["benchmark", "paper"])
def test_dead_and_equal_maps_have_a_finite_gradient(variant):
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 3, 4, 4)
    same = teacher.clone().requires_grad_()
    loss = attention_loss(dead, teacher, variant=variant) + attention_loss(same, teacher, variant=variant)
    loss.backward()
    assert torch.isfinite(dead.grad).all()
    assert torch.equal(same.grad, torch.zeros_like(same))


@pytest.mark.parametrize("variant", ["benchmark", "paper"])
def test_every_stage_counts_once(variant):
    pair, batch = toy_pair(teacher="resnet8x4"), toy_batch()
    objective = AT(pair, variant=variant, power=3.0)
    names = ("stage1", "stage2", "stage3")
    assert objective.student_features == objective.teacher_features == names
    student, teacher = toy_outputs(pair, batch, student_features=names, teacher_features=names)
    expected = sum(attention_loss(student[name], teacher[name], 3.0, variant) for name in names)
    torch.testing.assert_close(objective(student, teacher, batch), expected)


@pytest.mark.parametrize("names", [SAME_STYLE[0], *CROSS_STYLE], ids="-".join)
def test_stages_of_different_architectures_pair_up(names):
    objective = AT(benchmark_pair(*names))
    stages = 3 if "shufflenet" in names[1] or names in SAME_STYLE else 4
    assert objective.student_features == tuple(f"stage{k}" for k in range(1, stages + 1))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="a power of at least 1, got 0"):
        AT(toy_pair(), power=0.0)
    with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'stage4'"):
        AT(toy_pair(), student_features=("stage4",))
