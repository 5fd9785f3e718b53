"""Five numbers about two clouds: by hand, at their ends, and against slow definitions."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology import cloud_agreement, h0_deaths

LINE = torch.tensor([[[0.0], [1.0], [3.0], [7.0]]])
"""Distances 1, 3, 7, 2, 6, 4; tree 0–1–2–3."""


def test_by_hand():
    """The last two exchanged: 0, 1, 7, 3. The tree is 0–1–3–2, and one edge, 0–1, is left."""
    found = cloud_agreement(LINE[:, [0, 1, 3, 2]], LINE, neighbours=1)
    # Nearest: teacher 1, 0, 1, 2 and student 1, 0, 3, 1.
    assert found.neighbours == 0.5
    assert found.tree == pytest.approx(2 / 3)  # 2–3 is in both as well
    assert (found.deaths, found.raw_deaths) == (0, 0)
    pairs = [(1, 1), (3, 7), (7, 3), (2, 6), (6, 2), (4, 4)]
    assert found.distances == pytest.approx(spearmanr(*zip(*pairs, strict=True)).statistic)


def test_size_is_seen_by_one_number_alone():
    cloud = torch.randn(3, 20, 4)
    found = cloud_agreement(3 * cloud + 7, cloud)
    assert found.distances == pytest.approx(1)
    assert (found.neighbours, found.tree) == (1, 1)
    assert found.deaths == pytest.approx(0, abs=1e-5)
    assert found.raw_deaths == pytest.approx(2, rel=1e-5)


def test_against_scipy_and_a_loop():
    teacher, student = torch.randn(1, 15, 3), torch.randn(1, 15, 5)
    found = cloud_agreement(student, teacher, neighbours=4)
    a, b = (torch.cdist(cloud[0], cloud[0]).numpy() for cloud in (teacher, student))
    upper = np.triu_indices(15, 1)
    assert found.distances == pytest.approx(spearmanr(a[upper], b[upper]).statistic, rel=1e-6)
    common = 0
    for row in range(15):
        near = [set(np.argsort(matrix[row])[1:5]) for matrix in (a, b)]
        common += len(near[0] & near[1])
    assert found.neighbours == pytest.approx(common / 60)
    deaths = [h0_deaths(cloud)[0] for cloud in (teacher, student)]
    scaled = [d / m[upper].mean() for d, m in zip(deaths, (a, b), strict=True)]
    assert found.deaths == pytest.approx(
        float((scaled[0] - scaled[1]).abs().mean() / scaled[0].mean()), rel=1e-5
    )


def test_chance():
    """Two clouds that have nothing to do with each other."""
    teacher, student = torch.randn(20, 32, 16), torch.randn(20, 32, 16)
    found = cloud_agreement(student, teacher)
    assert abs(found.distances) < 0.1
    assert found.neighbours == pytest.approx(5 / 31, abs=0.04)
    assert found.tree == pytest.approx(2 / 32, abs=0.05)


def test_it_can_be_printed_and_kept():
    found = cloud_agreement(LINE, LINE, neighbours=1)
    assert str(found).count("\n") == 4
    assert "neighbours in common                   1.000" in str(found)
    assert found.to_dict()["tree"] == 1


def test_a_cloud_that_collapsed_has_no_order_of_distances():
    found = cloud_agreement(torch.ones(1, 8, 2), torch.randn(1, 8, 2))
    assert math.isnan(found.distances)
    assert found.raw_deaths == pytest.approx(1)


def test_errors(unchecked):
    with pytest.raises(ValueError, match=r"got shapes \(1, 4, 1\) and \(1, 3, 1\)"):
        cloud_agreement(LINE, LINE[:, :3])
    with pytest.raises(ValueError, match=r"neighbours=5 .* fewer than the points of a cloud, here 4"):
        cloud_agreement(LINE, LINE)
    with pytest.raises(InvalidPoints):
        cloud_agreement(LINE / 0, LINE)
