"""CC in both forms against official values, by hand, and what each of them depends on."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.objectives.reference import assert_gradient, leaf, state
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import CC, consecutive_loss, correlation_loss, gaussian_correlation
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair

CASES = ["cc_0", "cc_1"]


def embeddings(values):
    """The official embeddings, and what they make of the official features."""
    layers = [{k: v.double() for k, v in state(values, f"w.embed_{side}.linear.").items()} for side in "st"]
    layers = [{k: v.requires_grad_() for k, v in layer.items()} for layer in layers]
    features = [leaf(values[f"{side}.f"]) for side in "st"]
    embedded = [F.linear(f, **layer) for f, layer in zip(features, layers, strict=True)]
    return features, layers, embedded


@pytest.mark.parametrize("case", CASES)
def test_the_benchmark_agrees(golden, case):
    values = golden(f"kd/{case}")
    features, layers, embedded = embeddings(values)
    loss = consecutive_loss(*embedded)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["loss.repdistiller"], rtol=1e-6)
    assert_gradient(features[0], values, "s.f")
    for side, layer in zip("st", layers, strict=True):
        assert_gradient(layer["weight"], values, f"w.embed_{side}.linear.weight")


@pytest.mark.parametrize("case", CASES)
def test_the_taylor_kernel_agrees_with_torchdistill(golden, case):
    """torchdistill takes the norm and not its square, so that roots are compared."""
    values = golden(f"kd/{case}")
    _, _, (student, teacher) = embeddings(values)
    difference = gaussian_correlation(student) - gaussian_correlation(teacher)
    images = len(student)
    found = difference.norm().item() / images**2
    np.testing.assert_allclose(found, values["loss.torchdistill_gaussian_g0.4_p2"], rtol=1e-6)
    found = correlation_loss(student, teacher).sqrt().item() / images
    np.testing.assert_allclose(found, values["loss.torchdistill_gaussian_on_normalised"], rtol=1e-6)


def test_the_objective_is_the_formula_on_its_embeddings():
    pair = toy_pair()
    batch = toy_batch()
    student, teacher = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
    for variant, formula in (("benchmark", consecutive_loss), ("taylor", correlation_loss)):
        objective = CC(pair, dim=4, variant=variant)
        expected = formula(
            objective.student_embedding(student["pooled"]), objective.teacher_embedding(teacher["pooled"])
        )
        torch.testing.assert_close(objective(student, teacher, batch), expected)


def test_the_series_approaches_the_gaussian():
    points = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    exact = (-0.4 * torch.cdist(points, points).square()).exp()
    errors = [(gaussian_correlation(points, order=order) - exact).abs().max().item() for order in (1, 2, 8)]
    assert errors[0] > errors[1] > 100 * errors[2]
    assert errors[2] < 1e-6


def test_equal_against_orthogonal_by_hand():
    """k = e^(-0.8) (1 + 0.8 c + 0.32 c²), for c = 1 and c = 0; two of four entries differ."""
    equal, orthogonal = torch.ones(2, 2), torch.eye(2)
    expected = 2 * (math.exp(-0.8) * 1.12) ** 2 / 4
    assert correlation_loss(equal, orthogonal).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("loss", "depends"), [(consecutive_loss, True), (correlation_loss, False)])
def test_only_the_benchmarks_form_depends_on_the_order(loss, depends):
    student, teacher = torch.randn(6, 3), torch.randn(6, 3)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    same = torch.allclose(loss(student, teacher), loss(student[order], teacher[order]), rtol=1e-5)
    assert same != depends


def test_embeddings_that_collapse_cost_nothing():
    """The trivial minimum of the benchmark's form, which its small weight keeps away."""
    objective = CC(toy_pair(teacher="resnet8x4"))
    for layer in (objective.student_embedding, objective.teacher_embedding):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.ones_(layer.bias)
    assert objective.student_embedding.weight.shape == (128, 64)
    assert objective.teacher_embedding.weight.shape == (128, 256)
    pair = toy_pair(teacher="resnet8x4")
    outputs = toy_outputs(pair, toy_batch(), student_features=["pooled"], teacher_features=["pooled"])
    assert objective(*outputs, toy_batch()).item() == 0


@pytest.mark.parametrize("variant", ["benchmark", "taylor"])
def test_both_embeddings_are_trained(variant):
    pair = toy_pair()
    objective = CC(pair, variant=variant, student_feature="stage2")
    outputs = toy_outputs(pair, toy_batch(), student_features=["stage2"], teacher_features=["pooled"])
    objective(*outputs, toy_batch()).backward()
    for parameter in objective.parameters():
        assert parameter.grad.abs().sum() > 0


class TestErrors:
    def test_a_batch_of_one(self):
        message = "CC compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            CC(toy_pair(batch_size=1))
        for loss in (consecutive_loss, correlation_loss):
            with pytest.raises(ValueError, match=message):
                loss(torch.ones(1, 3), torch.ones(1, 3))

    def test_an_embedding_without_dimensions(self):
        with pytest.raises(ValueError, match="at least one dimension, got dim=0"):
            CC(toy_pair(), dim=0)

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'pool'\. Did you mean"):
            CC(toy_pair(), student_feature="pool")
