"""NORM against official values, by hand, and against its description; the neck has tests of its own."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.models.test_neck import official_neck
from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.models import Taps
from topokd_lib.objectives import NORM, CrossEntropy, n_to_one_loss
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


@pytest.mark.parametrize("case", ["a_small", "b_n8"])
def test_official_code_agrees(golden, case):
    """Behind the student's expansion; in the first case the teacher's map is larger and is max-pooled."""
    values = golden(f"kd_modern/norm__{case}")
    student, teacher = leaf(values["in__s"]), leaf(values["in__t"])
    weight = leaf(values["w__ft/up.0.weight"])
    scale, shift = leaf(values["w__ft/up.1.weight"]), leaf(values["w__ft/up.1.bias"])
    expanded = F.batch_norm(F.conv2d(student, weight), None, None, scale, shift, training=True)
    loss = n_to_one_loss(expanded, teacher)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "s")
    assert_modern_gradient(weight, values, "w0/up.0.weight")
    assert_modern_gradient(scale, values, "w0/up.1.weight")
    assert_modern_gradient(shift, values, "w0/up.1.bias")
    assert teacher.grad is None


def test_one_number_by_hand():
    """Parts 1 and −2 of a teacher that is 1: 0 + 9."""
    expanded = torch.tensor([1.0, 1.0, -2.0, -2.0]).view(1, 2, 1, 2)
    assert n_to_one_loss(expanded, torch.ones(1, 1, 1, 2)).item() == 9.0


def test_one_part_is_the_mean_squared_error():
    student, teacher = torch.randn(2, 4, 6, 3, 3)
    torch.testing.assert_close(n_to_one_loss(student, teacher), nn.functional.mse_loss(student, teacher))


def test_every_part_is_compared_with_the_whole_teacher():
    """Copies of the teacher cost nothing, channels repeated one by one do."""
    teacher = torch.randn(2, 3, 4, 4)
    assert n_to_one_loss(teacher.repeat(1, 5, 1, 1), teacher).item() == 0
    assert n_to_one_loss(teacher.repeat_interleave(5, dim=1), teacher).item() > 0.1


def test_the_larger_map_is_max_pooled():
    large = torch.randn(2, 3, 8, 8)
    pooled = F.max_pool2d(large, 2)
    assert n_to_one_loss(pooled.repeat(1, 2, 1, 1), large).item() == 0
    assert n_to_one_loss(large.repeat(1, 2, 1, 1), pooled).item() == 0


@pytest.mark.parametrize("channels", [2, 7])
def test_channels_that_are_no_multiple(channels):
    with pytest.raises(
        ValueError, match=f"{channels} channels are not a multiple of the teacher's 3; expand"
    ):
        n_to_one_loss(torch.zeros(1, channels, 2, 2), torch.zeros(1, 3, 2, 2))


def test_it_reads_the_neck_and_the_last_map():
    pair, batch = toy_pair(teacher="resnet8x4", neck="n-to-one"), toy_batch()
    objective = NORM(pair)
    student, teacher = toy_outputs(
        pair, batch, student_features=("expanded",), teacher_features=("last_map",)
    )
    assert pair.student_shapes["expanded"] == (3 * 256, 4, 4)
    expected = sum(F.mse_loss(part, teacher["last_map"]) for part in student["expanded"].chunk(3, dim=1))
    torch.testing.assert_close(objective(student, teacher, batch), expected)


def test_student_without_a_fitting_neck_is_refused():
    with pytest.raises(ValueError, match=r"student resnet8 has none; .* 'neck: \{kind: n-to-one\}'"):
        NORM(toy_pair())
    pair = toy_pair(neck="n-to-one")
    other = toy_pair(teacher="resnet8x4")
    mixed = type(pair)(
        pair.student, other.teacher, pair.student_shapes, other.teacher_shapes, pair.train_labels, 8
    )
    with pytest.raises(
        ValueError, match="widens to 192 channels, no multiple of the 256 of teacher resnet8x4"
    ):
        NORM(mixed)
    alone = type(pair)(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(ValueError, match="NORM compares the student with a teacher, and this run has none"):
        NORM(alone)


@pytest.mark.parametrize("case", ["a_small", "b_n8"])
def test_official_cross_entropy_of_standardised_logits_agrees(golden, case):
    """The widened network in training mode, from the map to the loss."""
    values = golden(f"kd_modern/norm__{case}")
    neck, classifier = official_neck(values)
    logits = classifier(neck(leaf(values["in__s"]), Taps()).mean(dim=(2, 3)))
    batch = Batch(torch.zeros(len(logits), 3, 8, 8), torch.tensor(values["in__y"]), torch.arange(len(logits)))
    loss = CrossEntropy(toy_pair(), standardised=2.5)(ModelOutput(logits), ModelOutput(logits), batch)
    np.testing.assert_allclose(loss.item(), values["out__ce_ln"], rtol=1e-6)


def test_a_scale_of_logits_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"standardised is the new scale of logits and positive, got 0\.0"):
        CrossEntropy(toy_pair(), standardised=0.0)
