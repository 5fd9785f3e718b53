"""CRCD against the part of its public code that runs, and against its definition."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.objectives.reference import assert_gradient, leaf
from tests.objectives.test_crd import assert_state, official
from topokd_lib.objectives import CRCD, gradient_loss, relation_scores


def test_two_steps_of_the_public_code_agree(golden):
    values = golden("kd/crcd_0")
    objective, _ = official(CRCD, values)
    for step in range(2):
        objective.zero_grad()
        student, teacher = leaf(values[f"s.f.step{step}"]), leaf(values[f"t.f.step{step}"])
        indices, contrast = (torch.tensor(values[f"aux.{k}.step{step}"]) for k in ("idx", "contrast_idx"))
        loss = objective.step(student, teacher, indices, contrast)
        loss.backward()
        np.testing.assert_allclose(loss.item(), values[f"loss.lechatelia.step{step}"], rtol=1e-6)
        weight = objective.student_embedding.weight
        for tensor, name in ((student, "s.f"), (weight, "w.embed_s.linear.weight")):
            assert_gradient(tensor, values, name, f"grad.step{step}")
        assert teacher.grad is None
        assert_state(objective, values, step)
    for bank, name in ((objective.student_bank, "memory_v1"), (objective.teacher_bank, "memory_v2")):
        np.testing.assert_allclose(bank.rows, values[f"after.{name}"], rtol=1e-5, atol=1e-6)


def test_the_gradients_of_both_networks_agree_with_the_public_code(golden):
    values = golden("kd/crcd_grad_0")
    weights = {k: leaf(values[f"w.{k}"]) for k in ("student_fc.weight", "teacher_fc.weight")}
    student, teacher = leaf(values["s.f"]), leaf(values["t.f"])
    logits = [
        F.linear(f, weights[f"{name}_fc.weight"], leaf(values[f"w.{name}_fc.bias"]))
        for f, name in ((student, "student"), (teacher, "teacher"))
    ]
    loss = gradient_loss(*logits, *weights.values(), torch.tensor(values["aux.label"]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["loss.lechatelia"], rtol=1e-6)
    assert_gradient(student, values, "s.f")
    assert_gradient(weights["student_fc.weight"], values, "w.student_fc.weight")
    assert teacher.grad is None
    assert weights["teacher_fc.weight"].grad is None


def written_out(embeddings, anchors, candidates, temperature):
    """The definition, with a vector for every image, anchor and candidate."""
    relations = F.normalize(embeddings[:, None] - anchors + 1e-6, dim=-1)
    directions = F.normalize(candidates[:, None] - anchors[None, :, None] + 1e-6, dim=-1)
    return ((directions * relations[:, :, None]).sum(-1) / temperature).exp()


def test_scores_are_those_of_the_definition_in_float32():
    """Also where a candidate is the anchor, so that nothing but the shift of 1e-6 is left to divide."""
    bank = F.normalize(torch.randn(30, 16), dim=1)
    embeddings = F.normalize(torch.randn(6, 16), dim=1)
    indices, contrast = torch.arange(6), torch.randint(30, (6, 9))
    contrast[:, 0] = indices
    itself = contrast[:, None] == indices[None, :, None]
    assert itself.sum() >= 6
    found = relation_scores(embeddings, bank[indices], bank[contrast], itself, 0.05)
    expected = written_out(embeddings.double(), bank[indices].double(), bank[contrast].double(), 0.05)
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=0)


def test_a_right_angle_by_hand():
    """Seen from (0, 0), the image lies to the right; candidates to the right, above and to the left."""
    candidates = torch.tensor([[[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    itself = torch.zeros(1, 1, 3, dtype=torch.bool)
    scores = relation_scores(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), candidates, itself, 0.5)
    torch.testing.assert_close(scores[0, 0].log(), torch.tensor([2.0, 0.0, -2.0]), rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_gradients_of_other_widths_cannot_be_compared():
    logits, labels = torch.zeros(2, 5), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"student's last layer is \(5, 64\), the teacher's \(5, 256\)"):
        gradient_loss(logits, logits, torch.zeros(5, 64), torch.zeros(5, 256), labels)
