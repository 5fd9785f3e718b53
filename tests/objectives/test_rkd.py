"""RKD against official values, by hand, on duplicates, and what it should not see."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import assert_gradient, assert_modern_gradient, leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import RKD, angle_cosines, normalised_distances, relational_loss
from topokd_lib.testing import toy_pair

PARTS = {
    "repdistiller": (25.0, 50.0),
    "distance_x25": (25.0, 0.0),
    "angle_x50": (0.0, 50.0),
    "dist1_angle2": (1.0, 2.0),
}


@pytest.mark.parametrize("part", PARTS)
def test_the_benchmark_agrees(golden, part):
    values = golden("kd/rkd_0")
    student, teacher = leaf(values["s.f"]), leaf(values["t.f"])
    loss = relational_loss(student, teacher, *PARTS[part])
    loss.backward()
    np.testing.assert_allclose(loss.item(), values[f"loss.{part}"], rtol=1e-6)
    assert_gradient(student, values, "s.f", "grad" if part == "repdistiller" else f"grad_{part}")
    assert teacher.grad is None


def test_mdistiller_agrees_down_to_the_gradient(golden):
    values = golden("kd_modern/rkd_mdistiller__a")
    student, teacher = leaf(values["in__s"]), leaf(values["in__t"])
    loss = relational_loss(student, teacher, 25.0, 50.0)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "s")


def test_other_collections_agree(golden):
    values = golden("kd/rkd_0")
    student, teacher = leaf(values["s.f"]), leaf(values["t.f"])
    for reference, weights in (("mdistiller", (25.0, 50.0)), ("torchdistill_d1_a2", (1.0, 2.0))):
        loss = relational_loss(student, teacher, *weights)
        np.testing.assert_allclose(loss.item(), values[f"loss.{reference}"], rtol=1e-6)


@pytest.mark.parametrize("part", PARTS)
def test_duplicates_cost_what_they_cost_in_the_benchmark(golden, part):
    """Twice the same student, twice the same teacher, and a zero vector; the reference has float32 noise."""
    values = golden("kd/rkd_1_duplicates")
    loss = relational_loss(leaf(values["s.f"]), leaf(values["t.f"]), *PARTS[part])
    np.testing.assert_allclose(loss.item(), values[f"loss.{part}"], rtol=1e-4)


def test_the_gradient_of_duplicates_does_not_explode(golden):
    """The distances' gradient is the benchmark's; that of the angles is 2.5e11 there and ordinary here."""
    values = golden("kd/rkd_1_duplicates")
    student, teacher = leaf(values["s.f"]), leaf(values["t.f"])
    relational_loss(student, teacher, 25.0, 0.0).backward()
    np.testing.assert_allclose(student.grad.norm(), values["grad_distance_x25.s.f.norm"], rtol=1e-4)
    student.grad = None
    relational_loss(student, teacher).backward()
    assert values["grad.s.f.norm"] > 1e11
    assert 0 < student.grad.norm() < 100


def test_all_images_alike_is_finite():
    student = torch.ones(4, 3, requires_grad=True)
    loss = relational_loss(student, torch.randn(4, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad.abs().max() == 0


def test_a_triangle_against_a_line_by_hand():
    """Distances 1, 1, √2 against 1, 1, 2; the cosines at the middle point are 0 and −1."""
    triangle = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    line = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    short, long = (2 + 2**0.5) / 3, 4 / 3
    near, far = 1 / short - 1 / long, 2**0.5 / short - 2 / long
    distance = 2 * (2 * near**2 / 2 + far**2 / 2) / 9
    other = 0.5**0.5 - 1  # at an end of the triangle the cosine is 1/√2, at an end of the line it is 1
    angle = (2 * 0.5 + 4 * other**2 / 2) / 27
    assert relational_loss(triangle, line, 1.0, 0.0).item() == pytest.approx(distance, rel=1e-5)
    assert relational_loss(triangle, line, 0.0, 1.0).item() == pytest.approx(angle, rel=1e-5)


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 10), shift=st.floats(-100, 100))
def test_position_rotation_and_size_are_ignored(seed, factor, shift):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(6, 4, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))
    assert relational_loss(factor * teacher @ rotation + shift, teacher).item() < 1e-12


@given(seed=st.integers(0, 10**6))
def test_distances_average_to_one_and_cosines_are_cosines(seed):
    points = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert normalised_distances(points).sum().item() == pytest.approx(20)
    cosines = angle_cosines(points)
    assert cosines.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(cosines, cosines.mT)


def test_a_cloud_far_from_the_origin_is_not_noise():
    """In float32; |a|² + |b|² − 2ab loses all digits here."""
    points = torch.randn(8, 4)
    moved = (points + 1000).double() - 1000  # what float32 keeps of the points themselves
    torch.testing.assert_close(
        normalised_distances(points + 1000), normalised_distances(moved).float(), rtol=1e-4, atol=1e-5
    )


class TestErrors:
    def test_a_batch_of_one(self):
        message = "RKD compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            RKD(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=message):
            relational_loss(torch.ones(1, 3), torch.ones(1, 3))

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"teacher resnet14 has no feature 'pool'\. Did you mean"):
            RKD(toy_pair(), teacher_feature="pool")

    def test_a_negative_weight(self):
        with pytest.raises(ValueError, match=r"must not be negative, got distance_weight=25.0 and angle_w"):
            RKD(toy_pair(), angle_weight=-1.0)
