"""WKD-F against official values and closed forms."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import WKDF, cell_statistics, gaussian_transport_loss
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def test_official_code_agrees(golden):
    values = golden("kd_modern/wkd_f__a")
    student, teacher = leaf(values["in__s"]), leaf(values["in__t"])
    loss = gaussian_transport_loss(student, teacher, mean_weight=2.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "s")
    assert teacher.grad is None
    for weight, part in (
        (1.0, values["out__mean_term"] + values["out__std_term"]),
        (0.0, values["out__std_term"]),
    ):
        np.testing.assert_allclose(gaussian_transport_loss(student, teacher, weight).item(), part, rtol=1e-6)


def test_official_code_agrees_in_single_precision(golden):
    values = golden("kd_modern/wkd_f__a")
    loss = gaussian_transport_loss(torch.tensor(values["in__s"]), torch.tensor(values["in__t"]))
    np.testing.assert_allclose(loss.item(), values["out__loss_f32"], rtol=2e-5)


def test_one_number_by_hand():
    """Means 1 and 3, deviations √2 and 0 (with 1e-5): 2 · 4 + (√2 − 0.0032)²."""
    student, teacher = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2), torch.full((1, 1, 1, 2), 3.0)
    expected = 8 + ((2 + 1e-5) ** 0.5 - 1e-5**0.5) ** 2
    assert gaussian_transport_loss(student, teacher).item() == pytest.approx(expected)


def test_places_within_a_cell_do_not_matter():
    student = torch.randn(2, 3, 4, 4)
    shuffled = student.flatten(2)[:, :, torch.randperm(16)].view_as(student)
    assert gaussian_transport_loss(student, shuffled).item() == pytest.approx(0, abs=1e-10)
    assert gaussian_transport_loss(student, shuffled, cells=2).item() > 0.1


@pytest.mark.parametrize(("size", "cells"), [(8, 2), (8, 4), (7, 4), (7, 3), (6, 1)])
def test_means_are_those_of_adaptive_pooling(size, cells):
    maps = torch.randn(2, 3, size, size)
    mean, deviation = cell_statistics(maps, cells)
    torch.testing.assert_close(mean, F.adaptive_avg_pool2d(maps, cells))
    last = maps[:, :, -(-size // cells) * -1 :, -(-size // cells) * -1 :]
    expected = (last.flatten(2).var(dim=2) + 1e-5).sqrt()
    torch.testing.assert_close(deviation[:, :, -1, -1], expected)


def test_the_objective_projects_and_fades():
    pair, batch = toy_pair(teacher="resnet8x4"), toy_batch()
    student, teacher = toy_outputs(
        pair, batch, student_features=("last_map",), teacher_features=("last_map",)
    )
    objective = WKDF(pair, mean_weight=4.0, decay_from=0).eval()
    whole = gaussian_transport_loss(objective.projector(student["last_map"]), teacher["last_map"], 4.0)
    torch.testing.assert_close(objective(student, teacher, batch), whole)
    objective.begin_epoch(1, 4)
    torch.testing.assert_close(objective(student, teacher, batch), 0.5 * whole)


def test_projectors():
    pair = toy_pair(teacher="resnet8x4")
    assert [p.conv.kernel_size for p in WKDF(pair).projector] == [(1, 1)]
    bottleneck = WKDF(pair, projector="bottleneck").projector
    assert [p.conv.weight.shape[:3] for p in bottleneck] == [(256, 64, 1), (256, 256, 3), (256, 256, 1)]


def test_pair_that_does_not_fit_is_refused(unchecked):
    pair = toy_pair()
    with pytest.raises(
        ValueError, match="the student's map is 4×4, the teacher's 4×4, and 4×4 cells were asked"
    ):
        WKDF(pair, cells=4)
    with pytest.raises(ValueError, match=r"mean_weight must not be negative, got -1\.0"):
        WKDF(pair, mean_weight=-1.0)
    with pytest.raises(FeatureNotFound, match="student resnet8 has no feature 'stage7'"):
        WKDF(pair, student_feature="stage7")
    with pytest.raises(ValueError, match=r"WKD-F compares feature maps, and student feature 'pooled'"):
        WKDF(pair, student_feature="pooled")
    with pytest.raises(ValueError, match=r"student's map is \(1, 2, 4, 4\), the teacher's \(1, 3, 4, 4\)"):
        gaussian_transport_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
