"""SRRL: official values, and a classifier that reads without being trained."""

import math

import numpy as np
import pytest
import torch

from tests.objectives.reference import assert_modern_gradient, benchmark_pair, parameters
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import SRRL, representation_loss
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def official_objective(values, weight, dtype):
    """An objective with the official connector and classifier, and the official inputs."""
    objective = SRRL(toy_pair(), regression_weight=weight)
    width, channels = values["w__srrl/conn.Connectors.0.weight"].shape[:2]
    objective.connector.conv = torch.nn.Conv2d(channels, width, 1, bias=False)
    objective.connector.bn = torch.nn.BatchNorm2d(width)
    objective.classifier = torch.nn.Linear(width, len(values["w__srrl/fc.bias"])).requires_grad_(
        requires_grad=False
    )
    official = {"conv": "conn.Connectors.0", "bn": "conn.Connectors.1", "classifier": "fc"}
    modules = {
        "conv": objective.connector.conv, "bn": objective.connector.bn, "classifier": objective.classifier
    }  # fmt: skip
    for name, module in modules.items():
        prefix = f"w__srrl/{official[name]}."
        found = {k.removeprefix(prefix): torch.tensor(v) for k, v in values.items() if k.startswith(prefix)}
        module.load_state_dict(found, strict=False)  # the number of batches seen is not stored
    objective.to(dtype)
    seen, taught = (torch.tensor(values[f"in__{name}"], dtype=dtype) for name in "st")
    seen.requires_grad_()
    logits = torch.zeros(len(seen), 5, dtype=dtype)
    student = ModelOutput(logits, {objective.student_features[0]: seen})
    teacher = ModelOutput(logits, {"pooled": taught.mean(dim=(2, 3))})
    return objective, student, teacher


@pytest.mark.parametrize(("case", "weight"), [("a_small", 1.0), ("b_w2", 2.0)])
def test_the_official_code_agrees(golden, case, weight):
    values = golden(f"kd_modern/srrl__{case}")
    objective, student, teacher = official_objective(values, weight, torch.float64)
    loss = objective(student, teacher, toy_batch(len(student.logits)))
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student["stage3"], values, "s")
    assert_modern_gradient(objective.connector.conv.weight, values, "w0/conn.Connectors.0.weight")
    assert_modern_gradient(objective.connector.bn.weight, values, "w0/conn.Connectors.1.weight")
    assert_modern_gradient(objective.connector.bn.bias, values, "w0/conn.Connectors.1.bias")


@pytest.mark.parametrize(("case", "weight"), [("a_small", 1.0), ("b_w2", 2.0)])
def test_the_official_code_agrees_in_single_precision(golden, case, weight):
    values = golden(f"kd_modern/srrl__{case}")
    objective, student, teacher = official_objective(values, weight, torch.float32)
    loss = objective(student, teacher, toy_batch(len(student.logits)))
    np.testing.assert_allclose(loss.item(), values["out__loss_f32"], rtol=2e-5)


def test_one_number_by_hand():
    """Features differ by (1, 2); the classifier (1, 1) sees 3: (1 + 4) / 2 + 2 · 9."""
    student, teacher, classifier = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2), torch.ones(2, 1)
    found = representation_loss(student, teacher, student @ classifier, teacher @ classifier, 2.0)
    assert found.item() == 20.5


def test_the_bias_of_the_classifier_cancels():
    pair, batch = toy_pair(teacher="resnet8x4"), toy_batch()
    objective = SRRL(pair)
    outputs = toy_outputs(pair, batch, student_features=("stage3",), teacher_features=("pooled",))
    before = objective(*outputs, batch)
    with torch.no_grad():
        objective.classifier.bias.add_(7.0)
    torch.testing.assert_close(objective(*outputs, batch), before)


def test_the_classifier_is_the_teachers_and_stays_so():
    """A frozen copy: training moves the connector, and neither the copy nor the teacher."""
    pair, batch = toy_pair(teacher="resnet8x4"), toy_batch()
    objective = SRRL(pair)
    original = pair.teacher.model.last_layer
    assert objective.classifier is not original
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    outputs = toy_outputs(pair, batch, student_features=("stage3",), teacher_features=("pooled",))
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    objective(*outputs, batch).backward()
    optimizer.step()
    after = objective.state_dict()
    assert not torch.equal(after["connector.conv.weight"], before["connector.conv.weight"])
    for name in ("weight", "bias"):
        torch.testing.assert_close(after[f"classifier.{name}"], getattr(original, name))
        assert torch.equal(after[f"classifier.{name}"], before[f"classifier.{name}"])


def test_target_logits_are_those_of_the_teacher():
    pair, batch = toy_pair(), toy_batch()
    objective = SRRL(pair)
    _, taught = toy_outputs(pair, batch, student_features=("stage3",), teacher_features=("pooled",))
    torch.testing.assert_close(objective.classifier(taught["pooled"]), taught.logits)


@pytest.mark.parametrize(
    ("teacher", "student", "width"),
    [("resnet56", "resnet20", 64), ("resnet32x4", "shufflenetv1", 256), ("resnet50", "vgg8", 2048)],
)
def test_it_trains_a_convolution_and_a_normalisation(teacher, student, width):
    pair = benchmark_pair(teacher, student)
    deepest = pair.student_shapes["stage4" if student == "vgg8" else "stage3"][0]
    assert parameters(SRRL(pair).connector) == deepest * width + 2 * width


def test_pair_that_does_not_fit_is_refused():
    pair = toy_pair()
    with pytest.raises(ValueError, match=r"SRRL convolves .* 'pooled' has shape \(64,\); .* 'stage3'"):
        SRRL(pair, student_feature="pooled")
    with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'stage9'\. Did you mean"):
        SRRL(pair, student_feature="stage9")
    alone = type(pair)(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(ValueError, match="SRRL compares the student with a teacher, and this run has none"):
        SRRL(alone)


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_weight_below_zero_is_refused(weight):
    with pytest.raises(ValueError, match=f"regression_weight must not be negative, got {weight}"):
        SRRL(toy_pair(), regression_weight=weight)
