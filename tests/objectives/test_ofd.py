"""Overhaul of feature distillation: margins, partial distance, a teacher that normalises by the batch."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import truncnorm

from tests.objectives.reference import (
    CROSS_STYLE,
    SAME_STYLE,
    assert_gradient,
    assert_modern_gradient,
    benchmark_pair,
    leaf,
    state,
)
from topokd_lib.errors import FeatureNotFound
from topokd_lib.models import Teacher
from topokd_lib.objectives import OFD, negative_margin, partial_distance
from topokd_lib.objectives.ofd import OverhaulConnector
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import toy_batch, toy_pair


def official_objective(values: dict[str, np.ndarray]) -> tuple[OFD, ModelOutput, ModelOutput]:
    """An objective with the official connectors and margins, and the official inputs."""
    count = sum(key.startswith("aux.margin") for key in values)
    objective = OFD(toy_pair())
    connectors = []
    for i in range(count):
        norm = [torch.tensor(values[f"aux.bn{i}.{name}"]).double() for name in ("weight", "bias")]
        connector = OverhaulConnector(values[f"s.f{i}"].shape[1], negative_margin(*norm))
        connector.connector.load_state_dict(state(values, f"w.connector{i}."))
        connectors.append(connector.double())
    objective.connectors = torch.nn.ModuleList(connectors)
    names = tuple(f"f{i}" for i in range(count))
    objective.student_features = objective.teacher_features = names
    logits = torch.zeros(len(values["s.f0"]), 5)
    student = ModelOutput(logits, {name: leaf(values[f"s.{name}"]) for name in names})
    teacher = ModelOutput(logits, {name: torch.tensor(values[f"t.{name}"]).double() for name in names})
    return objective, student, teacher


@pytest.mark.parametrize(
    ("case", "key"),
    [
        ("ofd_0", "loss.official_scaled"),
        ("ofd_1", "loss.official_scaled"),
        ("ofd_4_pool", "loss.mdistiller_x0.001"),
    ],
)
def test_the_official_code_agrees(golden, case, key):
    """Weights by depth and scaling included; mdistiller where the teacher's map is larger."""
    values = golden(f"kd/{case}")
    objective, student, teacher = official_objective(values)
    loss = objective(student, teacher, toy_batch())
    loss.backward()
    np.testing.assert_allclose(loss.item(), values[key], rtol=1e-6)
    for name, feature in student.features.items():
        assert_gradient(feature, values, f"s.{name}")


@pytest.mark.parametrize(("case", "divisor"), [("a_small", 1000), ("b_small4", 10000)])
def test_the_official_code_for_imagenet_agrees(golden, case, divisor):
    """Three and four stages; of the divisor 10000 a factor of ten is the weight in a recipe."""
    values = golden(f"kd_modern/ofd__{case}")
    objective, student, teacher = imagenet_objective(values)
    loss = objective(student, teacher, toy_batch(len(student.logits))) * 1000 / divisor
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    np.testing.assert_allclose(loss.item() * divisor, values["out__loss_mdistiller"], rtol=1e-6)
    for i, part in enumerate(objective.connectors):
        np.testing.assert_allclose(part.margin, values[f"out__margin{i}"], rtol=1e-6)
        assert_modern_gradient(student[f"f{i}"], values, f"s{i}")
        for ours, parameter in part.connector.named_parameters():
            assert_modern_gradient(parameter, values, f"w0/connectors.{i}.{ours}")


def imagenet_objective(values):
    """The same for the golden values of the modern methods."""
    count = sum(key.startswith("in__bn_w") for key in values)
    objective = OFD(toy_pair())
    connectors = []
    for i in range(count):
        norm = [torch.tensor(values[f"in__bn_{name}{i}"]).double() for name in "wb"]
        connector = OverhaulConnector(values[f"in__s{i}"].shape[1], negative_margin(*norm))
        official = state(values, f"w__ofd/connectors.{i}.")
        connector.connector.load_state_dict(official, strict=False)
        connectors.append(connector.double())
    objective.connectors = torch.nn.ModuleList(connectors)
    names = tuple(f"f{i}" for i in range(count))
    objective.student_features = objective.teacher_features = names
    logits = torch.zeros(len(values["in__s0"]), 5)
    student = ModelOutput(logits, {f"f{i}": leaf(values[f"in__s{i}"]) for i in range(count)})
    teacher = ModelOutput(logits, {f"f{i}": torch.tensor(values[f"in__t{i}"]).double() for i in range(count)})
    return objective, student, teacher


@pytest.mark.parametrize("case", ["ofd_0", "ofd_1"])
def test_official_margins_agree(golden, case):
    """With a channel that is hardly ever negative, and one with a negative weight."""
    values = golden(f"kd/{case}")
    for i in range(sum(key.startswith("aux.margin") for key in values)):
        found = negative_margin(*(torch.tensor(values[f"aux.bn{i}.{name}"]) for name in ("weight", "bias")))
        np.testing.assert_allclose(found, values[f"aux.margin{i}"], rtol=1e-5)


@given(scale=st.floats(0.05, 5), mean=st.floats(-3, 3))
def test_a_margin_is_the_mean_of_the_negative_part(scale, mean):
    """Against SciPy's truncated normal distribution, where that part is not too rare."""
    if mean / scale > 3:
        expected = -3 * scale
    else:
        expected = truncnorm(-np.inf, -mean / scale, loc=mean, scale=scale).mean()
    found = negative_margin(*(torch.tensor([v], dtype=torch.float64) for v in (-scale, mean)))
    if not 3 <= mean / scale <= 3.1:  # where the probability crosses 0.001
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_channel_that_is_always_positive_has_three_deviations():
    assert negative_margin(torch.tensor([0.5]), torch.tensor([2.0])).item() == -1.5


def test_a_constant_channel_has_a_finite_margin():
    """Where official code divides by zero."""
    margins = negative_margin(torch.zeros(3), torch.tensor([-2.0, 0.0, 2.0]))
    assert margins.tolist() == [-2.0, 0.0, 0.0]


def test_four_positions_by_hand():
    """Target −1: only above counts. Target 1: both sides count."""
    target = torch.tensor([-1.0, -1.0, 1.0, 1.0]).view(1, 1, 2, 2)
    regressed = torch.tensor([1.0, -5.0, 4.0, 0.0]).view(1, 1, 2, 2).requires_grad_()
    distance = partial_distance(regressed, target)
    distance.backward()
    assert distance.item() == 4 + 0 + 9 + 1
    assert regressed.grad.flatten().tolist() == [4.0, 0.0, 6.0, -2.0]


def test_margins_are_buffers_of_the_teachers_normalisations():
    pair = toy_pair(teacher="resnet8x4")
    with torch.no_grad():
        norm = pair.teacher.model.norm_before("stage2.preact")
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    objective = OFD(pair)
    assert [name for name, _ in objective.named_buffers() if "margin" in name] == [
        f"connectors.{i}.margin" for i in range(3)
    ]
    torch.testing.assert_close(objective.connectors[1].margin, negative_margin(norm.weight, norm.bias))
    assert not any("margin" in name for name, _ in objective.named_parameters())


def test_a_teacher_with_batch_statistics_is_the_official_one():
    """Its features are those of the network in training mode, and its running statistics stay."""
    pair, batch = toy_pair(), toy_batch()
    objective = OFD(pair).train()
    model = pair.teacher.model
    training = deepcopy(model).train()
    with torch.no_grad():
        student = pair.student.extract(batch.images, objective.student_features)
        official = training.extract(batch.images, objective.teacher_features)
    before = {key: value.clone() for key, value in model.state_dict().items() if "running" in key}
    taught = Teacher(deepcopy(model), batch_statistics=True)(batch, objective.teacher_features)
    assert torch.equal(objective(student, taught, batch), objective(student, official, batch))
    usual = pair.teacher(batch, objective.teacher_features)
    assert not torch.allclose(objective(student, taught, batch), objective(student, usual, batch))
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)


@pytest.mark.parametrize("names", [*SAME_STYLE, *CROSS_STYLE], ids="-".join)
def test_every_pair_of_the_benchmark_can_be_built(names):
    """One published collection fails on five of them."""
    pair = benchmark_pair(*names)
    objective = OFD(pair)
    for name, connector in zip(objective.teacher_features, objective.connectors, strict=True):
        assert connector.margin.shape == pair.teacher_shapes[name][:1]


def test_a_teacher_without_such_normalisations_is_refused():
    with pytest.raises(ValueError, match="shufflenetv2: no single batch normalisation yields all channels"):
        OFD(benchmark_pair("shufflenetv2", "shufflenetv1"))


def test_features_that_are_no_preactivations_are_refused():
    with pytest.raises(ValueError, match="'stage2' is not a batch normalisation's output"):
        OFD(toy_pair(), teacher_features=("stage2",))
    with pytest.raises(FeatureNotFound, match=r"has no feature 'stage2\.preac'"):
        OFD(toy_pair(), student_features=("stage2.preac",))
