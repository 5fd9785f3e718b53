"""RTD-Lite against the official code, by hand, and the limits of its gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.test_signature import CLOUDS, DUPLICATES, assert_gradient, clouds
from topokd_lib.objectives import RTDLite, rtd_lite_loss
from topokd_lib.testing import toy_pair
from topokd_lib.topology import (
    edge_weights,
    mst_edges,
    pairwise_distances,
    rtd_lite_barcode,
    scale_distances,
)


@pytest.mark.parametrize("which", [*CLOUDS, *DUPLICATES])
def test_the_official_code_agrees(golden, which):
    values = golden(f"beyond_topkd/{which}")
    double = which.endswith("f64")
    student, teacher = clouds(values)
    loss = rtd_lite_loss(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(float(values["rtdlite_loss"]), rel=2e-6 if double else 5e-6)
    assert_gradient(student, values, "rtdlite", 1e-9 if double else 5e-6)


@pytest.mark.parametrize("which", [*CLOUDS[::2], DUPLICATES[0]])
def test_the_official_weights_quantiles_and_bars_agree(golden, which):
    values = golden(f"beyond_topkd/{which}")
    raw = {role: pairwise_distances(torch.tensor(values[role])) for role in ("teacher", "student")}
    for role, distances in raw.items():
        assert distances.quantile(0.9).item() == pytest.approx(float(values[f"rtdlite_q_{role}"]), rel=1e-9)
    a, b = (scale_distances(raw[role], "quantile") for role in ("teacher", "student"))
    for name, matrix in (("teacher", a), ("student", b), ("min", torch.minimum(a, b))):
        weight = edge_weights(matrix, mst_edges(matrix[None])[0]).sum().item()
        assert weight == pytest.approx(float(values[f"rtdlite_mst_sum_{name}"]), rel=1e-9)
    for found, name in ((rtd_lite_barcode(a, b), "ts"), (rtd_lite_barcode(b, a), "st")):
        expected = np.asarray(sorted(values[f"rtdlite_bars_{name}"].tolist()))
        np.testing.assert_allclose(np.asarray(sorted(found.tolist())), expected, rtol=1e-9)


def test_by_hand():
    """Teacher 0, 1, 3 and student 0, 3, 1 on a line: the trees weigh 3 each, merged 2, and laid over 5."""
    teacher, student = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [1.0]])
    for mode, expected in (("min", 1.0), ("max", 2.0), ("minmax", 3.0)):
        assert rtd_lite_loss(student, teacher, mode=mode, normalise="none").item() == expected


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 10), shift=st.floats(-100, 100))
def test_position_rotation_size_and_order_are_ignored(seed, factor, shift):
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(7, 4, dtype=torch.float64, generator=generator)
    student = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    order = torch.randperm(7, generator=generator)
    for mode in ("min", "max", "minmax"):
        expected = rtd_lite_loss(student, teacher, mode=mode).item()
        assert expected >= -1e-12
        moved = factor * student @ rotation + shift
        assert rtd_lite_loss(moved, teacher, mode=mode).item() == pytest.approx(expected, rel=1e-6)
        assert rtd_lite_loss(student[order], teacher[order], mode=mode).item() == pytest.approx(expected)
        assert rtd_lite_loss(factor * teacher, teacher, mode=mode).item() < 1e-9


@pytest.mark.parametrize("mode", ["min", "max", "minmax"])
@pytest.mark.parametrize("normalise", ["quantile", "mean", "none"])
def test_gradients_are_those_of_differences(mode, normalise):
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(9, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(9, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(
        lambda x: rtd_lite_loss(x, teacher, mode=mode, normalise=normalise), student
    )


def test_the_gradient_lives_on_the_students_own_tree():
    """What the docstring warns of: no other pair is pulled, however near it is in the teacher."""
    student, teacher = torch.randn(20, 4, requires_grad=True), torch.randn(20, 6)
    distances = pairwise_distances(student)
    distances.retain_grad()
    a = pairwise_distances(teacher)
    weights = [
        edge_weights(m, mst_edges(m[None])[0]).sum() for m in (a, distances, torch.minimum(a, distances))
    ]
    ((weights[0] + weights[1]) / 2 - weights[2]).backward()
    touched = {tuple(sorted(pair)) for pair in distances.grad.nonzero().tolist()}
    assert touched == set(map(tuple, mst_edges(distances[None])[0].tolist()))


class TestErrors:
    def test_a_batch_of_one(self, unchecked):
        with pytest.raises(ValueError, match="needs at least 2, got 1"):
            RTDLite(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=r"RTD-Lite compares .* needs at least 2, got 1"):
            rtd_lite_loss(torch.ones(1, 3), torch.ones(1, 3))

    def test_options_that_do_not_exist(self, unchecked):
        with pytest.raises(ValueError, match="RTD-Lite has no mode 'mean'; known: min, max, minmax"):
            rtd_lite_loss(torch.randn(3, 2), torch.randn(3, 2), mode="mean")
        with pytest.raises(ValueError, match="divided by one of mean, max, quantile, none, got 'median'"):
            rtd_lite_loss(torch.randn(3, 2), torch.randn(3, 2), normalise="median")


def test_a_cloud_too_large_for_torchs_quantile_is_told_what_to_divide_by(monkeypatch):
    monkeypatch.setattr("topokd_lib.topology.distance_matrices._QUANTILE_LIMIT", 15)
    with pytest.raises(ValueError, match=r"at most 15 numbers, and 4 points have 16.*'mean' or 'max'"):
        scale_distances(torch.zeros(4, 4), "quantile")
