"""Distances between the diagrams of two networks' clouds: equal shapes, other sizes, and the controls."""

import pytest
import torch

from topokd_lib.analysis import DISTANCES, diagram_distances
from topokd_lib.errors import UnknownName
from topokd_lib.topology import h0_deaths, rips_diagrams, wasserstein_distance


def clouds(seed=0, count=3, dim=3):
    return torch.randn(count, 14, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_rotated_enlarged_copy_in_more_dimensions_has_the_same_shape(distance):
    teacher = clouds()
    rotation, _ = torch.linalg.qr(torch.randn(5, 5))
    student = 3 * torch.cat([teacher, torch.zeros(3, 14, 2)], dim=2) @ rotation
    for found in diagram_distances(student, teacher, distance=distance):
        assert found.same < 1e-4
        assert found.others == pytest.approx(found.teacher_spread, abs=1e-4)
    h0, h1 = diagram_distances(student, teacher, distance=distance)
    assert (h0.dimension, h1.dimension) == (0, 1)
    assert h0.others > 0.01
    (unscaled,) = diagram_distances(student, teacher, distance=distance, dimensions=[0], scaled=False)
    assert unscaled.same > h0.others


def test_distances_are_those_of_the_diagrams():
    student, teacher = clouds(1, dim=2), clouds(2)
    (found,) = diagram_distances(student, teacher, dimensions=[0], scaled=False)
    expected = wasserstein_distance(*(rips_diagrams(c, dimensions=(0,))[0] for c in (student, teacher)))
    assert found.same == pytest.approx(expected.mean().item())


def test_in_units_of_the_mean_distance():
    """Two points are 1 apart, whatever their distance; four in a square have three deaths of equal length."""
    square = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    (found,) = diagram_distances(torch.stack([line] * 2), torch.stack([7 * square] * 2), dimensions=[0])
    mean_square, mean_line = (4 + 2 * 2**0.5) / 6, (3 * 1 + 2 * 2 + 3) / 6
    assert h0_deaths(square[None]).tolist() == [[1.0, 1.0, 1.0]]
    assert found.same == pytest.approx(3 * abs(1 / mean_line - 1 / mean_square), rel=1e-5)


class TestErrors:
    def test_an_unknown_distance(self):
        with pytest.raises(
            UnknownName, match=r"no distance between diagrams 'wasserstien'\. Did you mean 'was"
        ):
            diagram_distances(clouds(), clouds(), distance="wasserstien")

    def test_shapes(self, unchecked):
        with pytest.raises(ValueError, match=r"got shapes \(3, 14, 3\) and \(2, 14, 3\)"):
            diagram_distances(clouds(), clouds(count=2))
        with pytest.raises(ValueError, match="at least two of them"):
            diagram_distances(clouds(count=1), clouds(count=1))

    def test_a_cloud_without_size(self):
        flat = clouds()
        flat[1] = 1.0
        with pytest.raises(ValueError, match="cloud 1 is a single place"):
            diagram_distances(flat, clouds())
