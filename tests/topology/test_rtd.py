"""RTD in dimension 1 against the official code's exact form, and what both engines must agree on."""

import builtins

import numpy as np
import pytest
import torch

from tests.objectives.test_signature import CLOUDS, DUPLICATES, assert_gradient, clouds
from topokd_lib.errors import InvalidPoints
from topokd_lib.topology import cross_barcode, pairwise_distances, rtd1, rtd_lite_barcode, scale_distances

pytest.importorskip("gph", reason="giotto-ph is not installed; the engine 'gudhi' is slow")


@pytest.mark.parametrize("which", [*CLOUDS, *DUPLICATES])
def test_the_official_exact_form_agrees(golden, which):
    values = golden(f"beyond_topkd/{which}")
    tolerance = 1e-9 if which.endswith("f64") else 5e-6
    student, teacher = clouds(values)
    loss = rtd1(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(float(values["rtd1_exact_loss"]), rel=tolerance)
    if which in DUPLICATES:  # how ties are broken decides; the value does not depend on it
        assert student.grad.isfinite().all()
    else:
        assert_gradient(student, values, "rtd1_exact", tolerance)


@pytest.mark.parametrize("which", ["n16_d4_d4_f64", "n48_d16_d8_f64", "dup_n16_d4_d3_f64"])
def test_the_official_bars_agree(golden, which):
    values = golden(f"beyond_topkd/{which}")
    student, teacher = (pairwise_distances(torch.tensor(values[role])) for role in ("student", "teacher"))
    a, b = scale_distances(teacher, "quantile"), scale_distances(student, "quantile")
    for found, name in ((cross_barcode(a, b), "ts"), (cross_barcode(b, a), "st")):
        total = float((found[:, 1] - found[:, 0]).sum())
        assert total == pytest.approx(float(values[f"rtd1_exact_{name}"]), rel=1e-9)
        expected = values[f"rtd1_bars_{name}"]
        found = found[(found[:, 1] - found[:, 0]) > 1e-9]
        expected = expected[(expected[:, 1] - expected[:, 0]) > 1e-9]
        np.testing.assert_allclose(sorted(found.tolist()), sorted(expected.tolist()), rtol=1e-9, atol=1e-12)


def test_the_engines_agree():
    generator = torch.Generator().manual_seed(0)
    for points in (2, 3, 12):
        student = torch.randn(points, 3, dtype=torch.float64, generator=generator, requires_grad=True)
        teacher = torch.randn(points, 5, dtype=torch.float64, generator=generator)
        results = []
        for engine in ("giotto-ph", "gudhi"):
            student.grad = None
            loss = rtd1(student, teacher, engine=engine)
            if loss.requires_grad:
                loss.backward()
            results.append((loss.item(), None if student.grad is None else student.grad.clone()))
        assert results[0][0] == pytest.approx(results[1][0], rel=1e-9, abs=1e-12)
        if results[0][1] is not None and results[1][1] is not None:
            torch.testing.assert_close(results[0][1], results[1][1])


def test_gradients_are_those_of_differences():
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(8, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(8, 4, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda x: rtd1(x, teacher), student)


def test_a_loop_that_is_closed_the_other_way_is_seen_by_rtd_alone():
    """A circle of twelve against a line of the same steps: equal spanning trees, but one loop more."""
    angles = torch.arange(12).double() * 2 * torch.pi / 12
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    step = (circle[1] - circle[0]).norm()
    line = torch.stack([torch.arange(12) * step, torch.zeros(12)], dim=1).double()
    a, b = pairwise_distances(line), pairwise_distances(circle)
    assert rtd_lite_barcode(a, b).diff(dim=1).sum() < 1e-9
    assert rtd1(circle, line, normalise="none").item() > 0.5


def test_equal_distances_cost_nothing_and_order_does_not_count():
    cloud = torch.randn(10, 3, dtype=torch.float64)
    other = torch.randn(10, 4, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    assert rtd1(3 * cloud @ rotation + 5, cloud).item() == pytest.approx(0, abs=1e-9)
    order = torch.randperm(10)
    assert rtd1(cloud[order], other[order]).item() == pytest.approx(rtd1(cloud, other).item())


class TestErrors:
    def test_engines(self, monkeypatch, unchecked):
        cloud = torch.randn(4, 2)
        with pytest.raises(ValueError, match="there is no engine 'ripser'; known: auto, giotto-ph, gudhi"):
            rtd1(cloud, cloud, engine="ripser")
        real = builtins.__import__

        def absent(name, *args, **kwargs):
            if name == "gph":
                raise ModuleNotFoundError(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", absent)
        other = torch.randn(4, 2)
        with pytest.raises(ImportError, match=r"pip install 'topokd-lib\[giotto\]', or engine='gudhi'"):
            rtd1(cloud, other, engine="giotto-ph")
        assert rtd1(cloud, other).item() == rtd1(cloud, other, engine="gudhi").item()

    def test_clouds(self, unchecked):
        with pytest.raises(ValueError, match=r"RTD compares the images of a batch .* at least 2, got 1"):
            rtd1(torch.ones(1, 2), torch.ones(1, 2))
        with pytest.raises(InvalidPoints, match="the teacher's point 0"):
            rtd1(torch.ones(2, 1), torch.tensor([[torch.inf], [0.0]]))
