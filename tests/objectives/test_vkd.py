"""VkD: official values, and a projector that keeps the shape of the student's cloud through training."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

from tests.objectives.reference import assert_modern_gradient, benchmark_pair, leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import VkD, projection_loss
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import toy_batch, toy_pair
from topokd_lib.topology import rips_diagrams


def pair_of_widths(student, teacher):
    return replace(
        toy_pair(),
        student_shapes={"pooled": torch.Size((student,))},
        teacher_shapes={"pooled": torch.Size((teacher,))},
    )


def projector_of(student, teacher):
    """In float64 from the start: the initial projection is otherwise orthogonal to the digits of float32."""
    projector = VkD(pair_of_widths(student, teacher)).double().projector
    projector.weight = projector.weight.detach()
    return projector


def train(projector, points, target, *, steps=20):
    """The benchmark's optimiser, with its weight decay."""
    optimizer = torch.optim.SGD(projector.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(projection_loss(projector(points), target))
        losses[-1].backward()
        optimizer.step()
    return losses


def test_official_code_agrees(golden):
    values = golden("kd_modern/vkd__a")
    objective = VkD(pair_of_widths(8, 12)).double()
    objective.projector.weight = torch.tensor(values["out__P"])
    np.testing.assert_allclose(objective.projector.weight.detach(), values["out__P"], atol=1e-14)
    student, teacher = leaf(values["in__s"]), leaf(values["in__t"])
    logits = torch.zeros(6, 2, dtype=torch.float64)
    loss = objective(
        ModelOutput(logits, {"pooled": student}), ModelOutput(logits, {"pooled": teacher}), toy_batch()
    )
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "s")
    assert teacher.grad is None


def test_official_code_agrees_in_float32(golden):
    values = golden("kd_modern/vkd__a")
    projected = torch.tensor(values["in__s"]) @ torch.tensor(values["out__P"]).float().T
    loss = projection_loss(projected, torch.tensor(values["in__t"]))
    np.testing.assert_allclose(loss.item(), values["out__loss_f32"], rtol=2e-5)


def test_one_number_by_hand():
    """The teacher becomes (−1, 1): differences 0.5 and 4, so 0.125 and 3.5, and their mean."""
    loss = projection_loss(torch.tensor([[-0.5, 5.0]]).double(), torch.tensor([[10.0, 90.0]]).double())
    assert loss.item() == pytest.approx((0.125 + 3.5) / 2, rel=1e-6)


@given(seed=st.integers(0, 10**6), scale=st.floats(0.5, 20), shift=st.floats(-50, 50))
def test_the_teachers_scale_and_offset_are_ignored(seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 6, dtype=torch.float64, generator=generator)
    expected = projection_loss(student, teacher)
    torch.testing.assert_close(
        projection_loss(student, scale * teacher + shift), expected, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize(("student", "teacher"), [(6, 6), (6, 15)])
def test_training_never_changes_the_shape_of_the_students_cloud(student, teacher):
    """All distances and the persistence of connected components and loops, to the last digits of float64."""
    projector = projector_of(student, teacher)
    points, target = torch.randn(20, student).double(), torch.randn(20, teacher).double()
    before = projector.weight.detach().clone()
    losses = train(projector, points, target)
    projected = projector(points).detach()
    assert losses[-1] < losses[0]
    assert (projector.weight - before).norm() > 0.1
    torch.testing.assert_close(torch.pdist(projected), torch.pdist(points), rtol=1e-12, atol=0)
    diagrams = [rips_diagrams(cloud[None], dimensions=(0, 1)) for cloud in (points, projected)]
    for own, seen in zip(*diagrams, strict=True):
        assert own.counts.tolist() == seen.counts.tolist()
        torch.testing.assert_close(seen.pairs, own.pairs, rtol=1e-12, atol=0)


def test_a_free_linear_map_takes_over_the_shape():
    """What the constraint prevents: without it the same training moves distances, not only directions."""
    points, target = torch.randn(20, 6).double(), torch.randn(20, 15).double()
    free = orthogonal(nn.Linear(6, 15, bias=False), orthogonal_map="cayley").double()
    nn.utils.parametrize.remove_parametrizations(free, "weight")
    torch.testing.assert_close(torch.pdist(free(points)), torch.pdist(points), rtol=1e-6, atol=0)
    train(free, points, target)
    assert ((torch.pdist(free(points)) / torch.pdist(points)).log().abs()).mean() > 0.1


def test_a_narrower_teacher_gets_a_projection_that_lengthens_nothing():
    projector = projector_of(15, 6)
    points = torch.randn(20, 15).double()
    train(projector, points, torch.randn(20, 6).double())
    weight = projector.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(6).double(), rtol=0, atol=1e-12)
    assert (torch.pdist(projector(points)) <= torch.pdist(points) + 1e-12).all()


def test_weight_decay_does_not_destroy_the_projection():
    """Why the map is named: for matrices that are not square, PyTorch's own choice is lost in one step."""
    ours = VkD(pair_of_widths(6, 15)).projector
    default = orthogonal(nn.Linear(6, 15, bias=False))
    initial = ours.weight.detach().clone()
    for projector in (ours, default):
        torch.testing.assert_close(projector.weight.T @ projector.weight, torch.eye(6), rtol=0, atol=1e-5)
        optimizer = torch.optim.SGD(projector.parameters(), lr=0.05, weight_decay=5e-4)
        (0 * projector.weight.sum()).backward()
        optimizer.step()
    torch.testing.assert_close(ours.weight, initial, rtol=0, atol=1e-5)
    assert (default.weight == 0).all()


def test_a_constant_teacher_is_finite():
    """Its standard deviation is zero; the target is then zero as well."""
    student = torch.randn(3, 4, requires_grad=True)
    loss = projection_loss(student, torch.full((3, 4), 7.0))
    loss.backward()
    torch.testing.assert_close(loss, projection_loss(student, torch.zeros(3, 4)))
    assert torch.isfinite(student.grad).all()


def test_maps_are_averaged_over_their_pixels():
    pair = toy_pair()
    objective = VkD(pair, student_feature="stage2", teacher_feature="stage3")
    student, teacher = torch.randn(8, 32, 8, 8), torch.randn(8, 64, 4, 4)
    logits = torch.zeros(8, 5)
    loss = objective(
        ModelOutput(logits, {"stage2": student}), ModelOutput(logits, {"stage3": teacher}), toy_batch()
    )
    expected = projection_loss(objective.projector(student.mean(dim=(2, 3))), teacher.mean(dim=(2, 3)))
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(
    ("names", "shape"),
    [(("wrn_40_2", "wrn_40_1"), (128, 64)), (("wrn_40_2", "shufflenetv1"), (128, 960))],
    ids=lambda value: "-".join(map(str, value)),
)
def test_the_projection_starts_orthogonal_whichever_network_is_wider(names, shape):
    weight = VkD(benchmark_pair(*names)).projector.weight.detach()
    assert weight.shape == shape
    gram = weight.T @ weight if shape[0] >= shape[1] else weight @ weight.T
    torch.testing.assert_close(gram, torch.eye(min(shape)), rtol=0, atol=1e-5)


class TestErrors:
    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'poled'\. Did you mean"):
            VkD(toy_pair(), student_feature="poled")

    def test_no_teacher(self):
        with pytest.raises(
            ValueError, match="VkD compares the student with a teacher, and this run has none"
        ):
            VkD(replace(toy_pair(), teacher=None, teacher_shapes={}))
