"""The topological signature against both public codes, by hand, and what it should not see."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topokd_lib.errors import FeatureNotFound, InvalidPoints
from topokd_lib.objectives import Signature, signature_loss
from topokd_lib.testing import toy_pair
from topokd_lib.topology import mst_edges, pairwise_distances

CLOUDS = [f"{name}_{kind}" for name in ("n16_d4_d4", "n48_d16_d8", "n64_d64_d32") for kind in ("f64", "f32")]
DUPLICATES = ["dup_n16_d4_d3_f64", "dup_n16_d4_d3_f32"]
VARIANTS = {"topoae": "topoae", "torch_topological": "ptop"}


def clouds(values):
    return torch.tensor(values["student"], requires_grad=True), torch.tensor(values["teacher"])


def assert_gradient(student, values, name, tolerance):
    found = student.grad.numpy()
    norm = float(values[f"{name}_grad_norm"])
    assert np.linalg.norm(found) == pytest.approx(norm, rel=tolerance)
    np.testing.assert_allclose(found.ravel()[:16], values[f"{name}_grad16"], rtol=0, atol=tolerance * norm)
    rows = np.linalg.norm(found, axis=1)
    np.testing.assert_allclose(rows, values[f"{name}_grad_rownorm"], rtol=0, atol=tolerance * norm)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("which", [*CLOUDS, *DUPLICATES])
def test_the_public_codes_agree(golden, which, variant):
    values, name = golden(f"beyond_topkd/{which}"), VARIANTS[variant]
    tolerance = 1e-9 if which.endswith("f64") else 5e-6
    student, teacher = clouds(values)
    loss = signature_loss(student, teacher, variant=variant)
    loss.backward()
    if which in DUPLICATES and name == "ptop":  # which of the equal edges is taken depends on the engine
        assert np.isfinite(loss.item())
        assert student.grad.isfinite().all()
        return
    assert loss.item() == pytest.approx(float(values[f"{name}_loss"]), rel=tolerance)
    assert_gradient(student, values, name, tolerance)


@pytest.mark.parametrize("which", ["n64_d64_d32_f64", *DUPLICATES])
def test_the_trees_are_those_of_the_public_code_ties_included(golden, which):
    values = golden(f"beyond_topkd/{which}")
    for role in ("teacher", "student"):
        found = mst_edges(pairwise_distances(torch.tensor(values[role]))[None])[0]
        assert found.tolist() == np.sort(values[f"topoae_pairs_{role}"], axis=1).tolist()


@pytest.mark.parametrize("which", CLOUDS[::2])
def test_each_direction_of_the_public_code(golden, which):
    values = golden(f"beyond_topkd/{which}")
    student, teacher = clouds(values)
    for edges, name in (("teacher", "topoae_d12"), ("student", "topoae_d21")):
        found = signature_loss(student, teacher, edges=edges, variant="topoae")
        assert found.item() * len(student) == pytest.approx(float(values[name]), rel=1e-9)


def test_by_hand_in_units_of_the_mean():
    """0, 1, 3 on a line has the mean distance 2; exchanged in the student, 0–1 is 1.5 there and 0.5 here."""
    teacher, student = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [1.0]])
    # teacher's tree 0–1, 1–2: 0.5 against 1.5, 1 against 1. Student's tree 0–2, 1–2: 1.5 against 0.5.
    assert signature_loss(student, teacher).item() == pytest.approx(2 / 3)
    assert signature_loss(student, teacher, edges="teacher").item() == pytest.approx(1 / 3)
    assert signature_loss(5 * student, teacher).item() == pytest.approx(2 / 3)
    assert signature_loss(student, teacher, normalise="max").item() == pytest.approx(2 * (2 / 3) ** 2 / 3)


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 10), shift=st.floats(-100, 100))
def test_position_rotation_size_and_order_are_ignored(seed, factor, shift):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    student = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    order = torch.randperm(7, generator=generator)
    expected = signature_loss(student, teacher).item()
    assert signature_loss(factor * student @ rotation + shift, teacher).item() == pytest.approx(expected)
    assert signature_loss(student[order], teacher[order]).item() == pytest.approx(expected)
    assert signature_loss(factor * teacher, teacher).item() < 1e-20


@pytest.mark.parametrize("normalise", ["mean", "max", "none"])
@pytest.mark.parametrize("variant", ["mean_square", "torch_topological"])
def test_gradients_are_those_of_differences(normalise, variant):
    generator = torch.Generator().manual_seed(4)
    student = torch.randn(9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: signature_loss(x, teacher, normalise=normalise, variant=variant), student
    )


def test_every_point_is_heard_and_equal_clouds_have_no_pull():
    """The norm that is not squared has a gradient of size 1 everywhere but at 0, where it must not be NaN."""
    teacher = torch.randn(12, 4)
    for variant in ("mean_square", "torch_topological"):
        student = torch.randn(12, 3, requires_grad=True)
        signature_loss(student, teacher, variant=variant).backward()
        assert (student.grad.norm(dim=1) > 0).all()
        same = teacher.clone().requires_grad_()
        signature_loss(same, teacher, variant=variant).backward()
        assert same.grad.abs().max() == 0


def test_all_images_alike_is_finite():
    student = torch.ones(5, 3, requires_grad=True)
    loss = signature_loss(student, torch.randn(5, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


class TestErrors:
    def test_a_batch_of_one(self, unchecked):
        with pytest.raises(ValueError, match="needs at least 2, got 1"):
            Signature(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=r"the topological signature .* at least 2, got 1"):
            signature_loss(torch.ones(1, 3), torch.ones(1, 3))
        with pytest.raises(ValueError, match=r"one row each, got shapes \(3, 2\) and \(4, 2\)"):
            signature_loss(torch.ones(3, 2), torch.ones(4, 2))

    def test_options_that_do_not_exist(self, unchecked):
        with pytest.raises(
            ValueError, match="the signature has no edges='all'; known: both, teacher, student"
        ):
            signature_loss(torch.randn(3, 2), torch.randn(3, 2), edges="all")
        with pytest.raises(ValueError, match="the signature has no variant='paper'"):
            signature_loss(torch.randn(3, 2), torch.randn(3, 2), variant="paper")
        with pytest.raises(ValueError, match="divided by one of mean, max, quantile, none, got 'median'"):
            signature_loss(torch.randn(3, 2), torch.randn(3, 2), normalise="median")

    def test_points_that_are_not_numbers(self):
        broken = torch.tensor([[0.0], [float("nan")], [1.0]])
        with pytest.raises(InvalidPoints, match="the student's point 1 is not"):
            signature_loss(broken, torch.randn(3, 2))

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'pool'\. Did you mean"):
            Signature(toy_pair(), student_feature="pool")
