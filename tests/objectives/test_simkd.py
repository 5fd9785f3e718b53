"""SimKD: by hand, and what becomes of a student that keeps its teacher's classifier."""

import pytest
import torch
from torch.nn import functional as F

from topokd_lib.objectives import SimKD, alignment_loss
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def test_one_number_by_hand():
    """Differences 1 and −3: (1 + 9) / 2."""
    student = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1)
    assert alignment_loss(student, torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)).item() == 5.0


def test_the_larger_map_is_averaged():
    large = torch.randn(2, 3, 8, 8)
    small = F.avg_pool2d(large, 2)
    assert alignment_loss(small, large).item() == pytest.approx(0, abs=1e-12)
    assert alignment_loss(large, small).item() == pytest.approx(0, abs=1e-12)


def test_channels_that_differ_are_refused(unchecked):
    with pytest.raises(ValueError, match="projected map has 2 channels, the teacher's 3"):
        alignment_loss(torch.zeros(1, 2, 1, 1), torch.zeros(1, 3, 1, 1))


def test_a_perfect_student_has_the_teachers_logits():
    """The only loss is on the map; with equal maps the borrowed classifier says what the teacher says."""
    pair, batch = toy_pair(teacher="resnet8x4", neck="teacher-classifier"), toy_batch()
    student, teacher = toy_outputs(
        pair, batch, student_features=("last_map",), teacher_features=("last_map", "pooled")
    )
    torch.testing.assert_close(pair.student.last_layer(teacher["pooled"]), teacher.logits)
    expected = F.mse_loss(student["last_map"], teacher["last_map"])
    torch.testing.assert_close(SimKD(pair)(student, teacher, batch), expected)


def test_one_step_trains_the_projector_and_not_the_classifier():
    pair, batch = toy_pair(teacher="resnet8x4", neck="teacher-classifier"), toy_batch()
    objective = SimKD(pair)
    seen = pair.student.train().extract(batch.images, objective.student_features)
    taught = pair.teacher(batch, objective.teacher_features)
    objective(seen, taught, batch).backward()
    assert all(p.grad is None for p in pair.student.last_layer.parameters())
    assert all(p.grad is not None for p in pair.student.neck.parameters())
    assert pair.student.conv1.weight.grad is not None
    assert pair.student.last_layer is not pair.teacher.model.last_layer


def test_the_projector_has_the_published_shape():
    """1×1, 3×3 and 1×1 without bias, half the teacher's width in between, each normalised."""
    pair = toy_pair(teacher="resnet8x4", neck="teacher-classifier")
    count = sum(p.numel() for p in pair.student.neck.parameters())
    assert count == 64 * 128 + 9 * 128 * 128 + 128 * 256 + 2 * (128 + 128 + 256)


def test_student_without_a_fitting_neck_is_refused():
    with pytest.raises(
        ValueError, match=r"student resnet8 has none; .* 'neck: \{kind: teacher-classifier\}'"
    ):
        SimKD(toy_pair())
    pair = toy_pair(neck="teacher-classifier")
    other = toy_pair(teacher="resnet8x4")
    mixed = type(pair)(
        pair.student, other.teacher, pair.student_shapes, other.teacher_shapes, pair.train_labels, 8
    )
    with pytest.raises(ValueError, match="projects to 64 channels, and teacher resnet8x4 has 256"):
        SimKD(mixed)
    alone = type(pair)(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(ValueError, match="SimKD compares the student with a teacher, and this run has none"):
        SimKD(alone)
