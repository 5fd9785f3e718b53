"""What objectives share: directions of vectors, whatever their length."""

import pytest
import torch
from torch.nn import functional as F

from topokd_lib.objectives.connectors import unit_rows


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_unit_rows_are_the_usual_ones_with_their_gradient(order):
    vectors = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(unit_rows(vectors, order), F.normalize(vectors, p=order, dim=1))
    assert torch.autograd.gradcheck(lambda x: unit_rows(x, order), vectors)


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-40, 1e-30, 1e-20, 1e-18, 1e18])
@pytest.mark.parametrize("order", [1.0, 2.0])
def test_rows_of_any_length_are_finite_with_their_gradient(size, order):
    vectors = torch.full((2, 3), size, requires_grad=True)
    rows = unit_rows(vectors, order)
    rows[0, 0].backward()
    assert torch.isfinite(rows).all()
    assert torch.isfinite(vectors.grad).all()
    direction = 3 ** (-1 / order) if size > 1e-19 else 0.0
    torch.testing.assert_close(rows.detach(), torch.full((2, 3), direction))
