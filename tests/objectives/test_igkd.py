"""IG-KD is a sum of three objectives of the library; the official loss and its gradients, and its parts."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.objectives.reference import leaf
from topokd_lib.objectives import AT, KD, CrossEntropy, WeightedSum, attention_loss, attention_map, kd_loss
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.testing import toy_pair


@pytest.mark.parametrize("case", ["loss_default", "loss_old"])
def test_the_official_loss_and_gradients(golden, case):
    values = golden("igkd/igkd_cases")
    value = {k.removeprefix(f"{case}/"): v for k, v in values.items() if k.startswith(f"{case}/")}
    alpha, temperature, gamma = value["cfg_alpha_T_gamma"].tolist()
    logits, feature = leaf(value["student_logits"]), leaf(value["student_feat"])
    taught, map_of_teacher = leaf(value["teacher_logits"]), leaf(value["teacher_feat"])
    labels = torch.tensor(value["labels"])
    soft = kd_loss(logits, taught, temperature)
    attention = attention_loss(feature, map_of_teacher)
    hard = F.cross_entropy(logits, labels)
    for found, name in ((soft, "kd"), (attention, "at"), (hard, "ce")):
        np.testing.assert_allclose(found.item(), value[name], rtol=1e-5)
    total = alpha * soft + (1 - alpha) * hard + gamma * attention
    np.testing.assert_allclose(total.item(), value["total"], rtol=1e-5)
    total.backward()
    for found, name in ((logits, "grad_logits"), (feature, "grad_feat")):
        scale = np.abs(value[name]).max()
        np.testing.assert_allclose(found.grad, value[name], rtol=1e-4, atol=1e-5 * scale)
    for feature_map, name in ((feature, "student"), (map_of_teacher, "teacher")):
        expected = value[f"{name}_attention_map"]
        np.testing.assert_allclose(attention_map(feature_map).detach(), expected, atol=1e-6)


def test_the_terms_of_the_recipe_add_up_to_it(golden):
    values = golden("igkd/igkd_cases")
    value = {k.removeprefix("loss_default/"): v for k, v in values.items() if k.startswith("loss_default/")}
    pair = toy_pair()
    terms = {
        "ce": CrossEntropy(pair),
        "kd": KD(pair, temperature=2.5),
        "at": AT(pair, student_features=("stage3",)),
    }
    objective = WeightedSum(terms, {"ce": 0.99, "kd": 0.01, "at": 0.8})
    student, teacher = (
        ModelOutput(torch.tensor(value[f"{name}_logits"]), {"stage3": torch.tensor(value[f"{name}_feat"])})
        for name in ("student", "teacher")
    )
    labels = torch.tensor(value["labels"])
    found = objective(student, teacher, Batch(torch.zeros(16, 3, 8, 8), labels, torch.arange(16)))
    np.testing.assert_allclose(found.item(), value["total"], rtol=1e-5)


def test_attention_cannot_weigh_much():
    """Maps of length 1 over 64 positions: at most 2 / 64, so a weight of 0.8 adds 0.025 at most."""
    student, teacher = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    student[..., 0, 0] = teacher[..., 7, 7] = 3.0
    assert attention_loss(student, teacher).item() == pytest.approx(2 / 64)


def test_answers_for_other_images_only_make_a_student_less_sure():
    """Soft targets that do not depend on the image pull towards their mean, as label smoothing does.

    The margin at which cross-entropy and KD balance solves (1 − α)(1 − p) = αT(p_T − 0.1); it is 4.63 for
    α = 0.1 and T = 3, which the students that were published with these numbers have (4.75 to 4.80).
    """
    alpha, temperature, classes = 0.1, 3.0, 10
    margin = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    teacher = 20 * torch.eye(classes, dtype=torch.float64)  # sure of one class, each as often as the others
    optimizer = torch.optim.LBFGS([margin], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        logits = margin * F.one_hot(torch.zeros(classes, dtype=torch.long), classes).double()
        labels = torch.zeros(classes, dtype=torch.long)
        value = alpha * kd_loss(logits, teacher, temperature) + (1 - alpha) * F.cross_entropy(logits, labels)
        value.backward()
        return value

    optimizer.step(loss)
    assert margin.item() == pytest.approx(4.63, abs=0.01)
