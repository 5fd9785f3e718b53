"""SP against official values, by hand, on blank images, and on batches of one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import assert_gradient, benchmark_pair, leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import SP, similarity_loss, similarity_matrix
from topokd_lib.testing import toy_pair


@pytest.mark.parametrize("case", ["sp_0", "sp_1"])
def test_the_benchmark_agrees(golden, case):
    """Also where channels, height and width all differ."""
    values = golden(f"kd/{case}")
    student, teacher = leaf(values["s.f"]), leaf(values["t.f"])
    loss = similarity_loss(student, teacher)
    loss.backward()
    for reference in ("repdistiller", "mdistiller"):
        np.testing.assert_allclose(loss.item(), values[f"loss.{reference}"].item(), rtol=1e-6)
    assert_gradient(student, values, "s.f")
    assert teacher.grad is None


@pytest.mark.parametrize("case", ["sp_0", "sp_1"])
def test_torchdistill_divides_rows_by_another_norm(golden, case):
    values = golden(f"kd/{case}")
    loss = similarity_loss(leaf(values["s.f"]), leaf(values["t.f"]), variant="torchdistill")
    np.testing.assert_allclose(loss.item(), values["loss.torchdistill_L1rows"], rtol=1e-6)


def test_alike_against_unlike_by_hand():
    """All alike: every entry 1/√2. Unlike: the identity. Two squared differences of each kind."""
    alike, unlike = torch.ones(2, 3), torch.eye(2)
    half = 0.5**0.5
    expected = (2 * (1 - half) ** 2 + 2 * half**2) / 4
    assert similarity_loss(alike, unlike).item() == pytest.approx(expected, rel=1e-6)


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 10))
def test_rotation_and_size_of_the_cloud_are_ignored(seed, factor):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(5, 4, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))
    assert similarity_loss(factor * teacher @ rotation, teacher).item() < 1e-20


@pytest.mark.parametrize("variant", ["benchmark", "torchdistill"])
def test_a_blank_feature_map_has_no_similarity_and_no_gradient(variant):
    student = torch.randn(4, 3, 2, 2)
    student[1] = 0
    student.requires_grad_()
    similarity_loss(student, torch.randn(4, 5), variant).backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() < 1
    assert similarity_matrix(student)[1].tolist() == [0.0] * 4


def test_the_last_stage_of_each_network_is_compared():
    objective = SP(benchmark_pair("vgg13", "mobilenetv2_half"))
    pair = benchmark_pair("vgg13", "mobilenetv2_half")
    for names, shapes in (
        (objective.student_features, pair.student_shapes),
        (objective.teacher_features, pair.teacher_shapes),
    ):
        maps = [name for name, shape in shapes.items() if name.startswith("stage") and "." not in name]
        assert names == (maps[-1],)


class TestErrors:
    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'stage9'\. Did you mean"):
            SP(toy_pair(), student_feature="stage9")

    def test_a_batch_of_one(self):
        message = "SP compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            SP(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=message):
            similarity_loss(torch.ones(1, 3), torch.ones(1, 3))
