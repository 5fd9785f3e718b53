"""CRD against three official steps, by hand, and with what it is given."""

import math
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.objectives.reference import assert_gradient, leaf, state
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import CRCD, CRD, contrast_loss, contrast_scores
from topokd_lib.outputs import Batch
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def official(method, values):
    """The objective in float64 with the official state before the first step."""
    samples, dim = values["w.contrast.memory_v1"].shape
    pair = replace(
        toy_pair(),
        student_shapes={"pooled": torch.Size([values["s.f.step0"].shape[1]])},
        teacher_shapes={"pooled": torch.Size([values["t.f.step0"].shape[1]])},
        train_labels=torch.arange(samples),
    )
    temperature = float(values["w.contrast.params"][1])
    objective = method(pair, dim=dim, temperature=temperature).double()
    for side, layer in (("s", objective.student_embedding), ("t", objective.teacher_embedding)):
        layer.load_state_dict(state(values, f"w.embed_{side}.linear."))
    objective.student_bank.rows.copy_(torch.tensor(values["w.contrast.memory_v1"]))
    objective.teacher_bank.rows.copy_(torch.tensor(values["w.contrast.memory_v2"]))
    return objective, samples


def assert_state(objective, values, number):
    found = [objective.student_normaliser.value.item(), objective.teacher_normaliser.value.item()]
    np.testing.assert_allclose(found, values[f"after.Z_v1_Z_v2.step{number}"], rtol=1e-5)


@pytest.mark.parametrize("case", ["crd_0", "crd_1"])
def test_three_steps_of_the_benchmark_agree(golden, case):
    """The normalisers are fixed by the first step, and each step sees the memories that the last one left."""
    values = golden(f"kd/{case}")
    objective, samples = official(CRD, values)
    for step in range(3):
        objective.zero_grad()
        student, teacher = leaf(values[f"s.f.step{step}"]), leaf(values[f"t.f.step{step}"])
        indices, contrast = (torch.tensor(values[f"aux.{k}.step{step}"]) for k in ("idx", "contrast_idx"))
        loss = objective.step(student, teacher, indices, torch.arange(samples), contrast)
        loss.backward()
        np.testing.assert_allclose(loss.item(), values[f"loss.repdistiller.step{step}"].item(), rtol=1e-6)
        assert_gradient(student, values, "s.f", f"grad.step{step}")
        for side, layer in (("s", objective.student_embedding), ("t", objective.teacher_embedding)):
            assert_gradient(layer.weight, values, f"w.embed_{side}.linear.weight", f"grad.step{step}")
        assert teacher.grad is None
        assert_state(objective, values, step)
    for bank, name in ((objective.student_bank, "memory_v1"), (objective.teacher_bank, "memory_v2")):
        np.testing.assert_allclose(bank.rows, values[f"after.{name}"], rtol=1e-5, atol=1e-6)


def test_a_smaller_pool_changes_nothing(golden):
    """Drawn pools are a part of the training set in another order."""
    values = golden("kd/crd_0")
    student, teacher = leaf(values["s.f.step0"]), leaf(values["t.f.step0"])
    indices, contrast = (torch.tensor(values[f"aux.{k}.step0"]) for k in ("idx", "contrast_idx"))
    pool, places = contrast.flip(1).unique(return_inverse=True)
    losses = [
        official(CRD, values)[0].step(student, teacher, indices, *arguments).item()
        for arguments in ((torch.arange(40), contrast), (pool, places.flip(1)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_one_negative_by_hand():
    """Scores e and 1, normalised by e + 1; N = 2, so c = 1/2."""
    scores = contrast_scores(torch.tensor([[1.0, 0.0]]), torch.eye(2), torch.tensor([[0, 1]]), 1.0)
    positive, negative = (scores / (math.e + 1))[0].tolist()
    assert positive == pytest.approx(math.e / (math.e + 1), rel=1e-6)
    expected = -math.log(positive / (positive + 0.5)) - math.log(0.5 / (negative + 0.5))
    assert contrast_loss(scores / (math.e + 1), 2).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_lower_when_student_and_teacher_agree():
    bank = F.normalize(torch.randn(50, 16), dim=1)
    contrast = (torch.arange(50)[:, None] + torch.arange(50)) % 50  # itself, then all others
    losses = []
    for embeddings in (bank, bank.roll(1, 0)):
        scores = contrast_scores(embeddings, bank, contrast, 0.07)
        losses.append(contrast_loss(scores / (50 * scores.mean()), 50).item())
    assert losses[0] < 0.5 * losses[1]


def run(objective, pair, batch):
    outputs = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
    return objective(*outputs, batch)


@pytest.mark.parametrize("method", [CRD, CRCD])
def test_the_order_of_a_batch_does_not_matter_by_itself(method):
    """Contract checks leave this out, because the second of two calls remembers the first."""
    pair, batch = toy_pair(), toy_batch()
    first, second = method(pair), method(pair)
    second.load_state_dict(first.state_dict())
    order = torch.randperm(8)
    student, teacher = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
    expected = first(student, teacher, batch)
    for output in (student, teacher):
        output.features["pooled"] = output["pooled"][order]
    found = second(student, teacher, Batch(batch.images[order], batch.labels[order], batch.indices[order]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(second.student_bank.rows, first.student_bank.rows)


@pytest.mark.parametrize("method", [CRD, CRCD])
def test_only_the_memories_of_the_batch_move(method):
    pair, batch = toy_pair(), toy_batch()
    objective = method(pair)
    before = objective.student_bank.rows.clone(), objective.teacher_bank.rows.clone()
    run(objective, pair, batch).backward()
    seen = torch.isin(torch.arange(40), batch.indices)
    for bank, old in zip((objective.student_bank, objective.teacher_bank), before, strict=True):
        moved = (bank.rows != old).any(dim=1)
        assert torch.equal(moved, seen)
        torch.testing.assert_close(bank.rows[seen].norm(dim=1), torch.ones(8))


@pytest.mark.parametrize("method", [CRD, CRCD])
def test_a_feature_of_zeros_and_a_bias_of_zero_are_finite(method):
    pair, batch = toy_pair(), toy_batch()
    objective = method(pair)
    torch.nn.init.zeros_(objective.student_embedding.bias)
    student, teacher = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
    with torch.no_grad():
        student["pooled"][0] = 0
    loss = objective(student, teacher, batch)
    loss.backward()
    assert torch.isfinite(loss)
    for gradient in (student["pooled"].grad, *(p.grad for p in objective.parameters())):
        assert torch.isfinite(gradient).all()
    assert torch.isfinite(objective.student_bank.rows).all()


def test_defaults_adapt_to_a_small_training_set():
    assert CRD(toy_pair()).sampler.negatives == 32
    large = replace(toy_pair(), train_labels=torch.arange(25000) % 5)
    assert CRD(large, dim=2).sampler.negatives == 16384


def test_a_product_is_faster_than_copies_of_rows():
    """What the benchmark does, on the benchmark's size divided by four; measured as the best of three."""
    embeddings = F.normalize(torch.randn(16, 128), dim=1)
    pool = F.normalize(torch.randn(4200, 128), dim=1)
    contrast = torch.randint(4200, (16, 4097))
    copied = lambda: (torch.bmm(pool[contrast], embeddings[:, :, None])[..., 0] / 0.07).exp()  # noqa: E731
    product = lambda: contrast_scores(embeddings, pool, contrast, 0.07)  # noqa: E731
    torch.testing.assert_close(product(), copied(), rtol=1e-4, atol=0)
    times = []
    for compute in (product, copied):
        seconds = []
        for _ in range(3):
            start = perf_counter()
            compute()
            seconds.append(perf_counter() - start)
        times.append(min(seconds))
    assert times[0] < times[1]


@pytest.mark.parametrize("method", [CRD, CRCD])
class TestErrors:
    def test_a_temperature_of_zero(self, method):
        with pytest.raises(ValueError, match=r"must be positive, got 0\.0"):
            method(toy_pair(), temperature=0.0)

    def test_a_momentum_of_one(self, method):
        with pytest.raises(ValueError, match=r"at least 0 and below 1, got 1\.0"):
            method(toy_pair(), momentum=1.0)

    def test_an_unknown_feature(self, method):
        with pytest.raises(FeatureNotFound, match=r"teacher resnet14 has no feature 'pool'\. Did you mean"):
            method(toy_pair(), teacher_feature="pool")

    def test_one_class_only(self, method):
        pair = replace(toy_pair(), train_labels=torch.zeros(40, dtype=torch.long))
        with pytest.raises(
            ValueError, match=f"{method.__name__} contrasts an image with images of other cla"
        ):
            method(pair)

    def test_indices_that_are_not_those_of_the_training_set(self, method):
        pair, batch = toy_pair(), toy_batch()
        objective = method(pair)
        before = {key: value.clone() for key, value in objective.state_dict().items()}
        batch.indices = batch.indices + 40
        with pytest.raises(
            ValueError, match=rf"{method.__name__} remembers every.*there are 40 training imag"
        ):
            run(objective, pair, batch)
        for key, value in objective.state_dict().items():
            assert torch.equal(value, before[key]), f"{key} changed although the batch was refused"
