"""What each topological loss determines: RKD = 0 ⇒ signature = 0 ⇒ RTD-Lite = 0 ⇒ equal sorted deaths.

Every arrow is tried on constructions in which the left side is 0, and every arrow back is refuted by one.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from topokd_lib.objectives import normalised_distances, rtd_lite_loss, signature_loss, sorted_deaths_loss
from topokd_lib.topology import (
    cross_barcode,
    edge_weights,
    mst_edges,
    pairwise_distances,
    rtd1,
    rtd_lite_barcode,
    scale_distances,
)

ZERO = 1e-12


def rkd(student, teacher):
    return F.smooth_l1_loss(normalised_distances(student), normalised_distances(teacher)).item()


def losses(student, teacher, normalise="none"):
    """The three on the right of RKD, in one unit, so that their zeros can be compared."""
    return (
        signature_loss(student, teacher, normalise=normalise).item(),
        rtd_lite_loss(student, teacher, normalise=normalise).item(),
        sorted_deaths_loss(student, teacher, normalise=normalise).item(),
    )


def gaussian(seed, points=9, dim=4):
    return torch.randn(points, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6), factor=st.floats(0.1, 10))
def test_equal_distances_are_a_zero_of_all(seed, factor):
    teacher = gaussian(seed)
    rotation, _ = torch.linalg.qr(gaussian(seed + 1, 4, 4))
    student = factor * teacher @ rotation + 1
    assert rkd(student, teacher) < ZERO
    assert max(losses(student, teacher, "mean")) < ZERO
    assert rtd1(student, teacher, engine="auto", normalise="mean").item() < 1e-9


steps = arrays(float, 7, elements=st.floats(0.1, 5))


@given(lengths=steps)
def test_equal_tree_edges_are_a_zero_of_all_but_rkd(lengths):
    """The same steps once on a line and once each in a new direction: both trees are the path."""
    lengths = torch.from_numpy(lengths)
    line = F.pad(lengths.cumsum(0), (1, 0))[:, None]
    stairs = F.pad(torch.diag(lengths).cumsum(0), (0, 0, 1, 0))
    assert rkd(stairs, line) > 1e-4
    assert max(losses(stairs, line)) < 1e-9


@given(long=st.floats(1.1, 3), longer=st.floats(1.05, 1.5))
def test_equal_dendrograms_are_a_zero_of_rtd_lite_and_of_sorted_deaths_alone(long, longer):
    """Image 2 joins 0 and 1 at the same height, but its nearest is 1 in the teacher and 0 in the student."""

    def triangle(a, b, c):  # |01|, |02|, |12|
        x = (a**2 + b**2 - c**2) / (2 * a)
        return torch.tensor([[0, 0], [a, 0], [x, (b**2 - x**2) ** 0.5]], dtype=torch.float64)

    far = min(long * longer, long + 0.9)
    teacher, student = triangle(1, far, long), triangle(1, long, far)
    signature, lite, deaths = losses(student, teacher)
    assert signature > 1e-4
    assert lite == pytest.approx(0, abs=1e-9)
    assert deaths == pytest.approx(0, abs=1e-9)


@given(seed=st.integers(0, 10**6))
def test_exchanged_images_are_a_zero_of_sorted_deaths_alone(seed):
    teacher = gaussian(seed)
    signature, lite, deaths = losses(teacher.roll(1, dims=0), teacher)
    assert deaths < ZERO
    assert lite > 1e-3
    assert signature > 1e-3


@given(seed=st.integers(0, 10**6))
@settings(max_examples=6)
def test_descending_the_signature_ends_at_a_zero_of_what_follows(seed):
    """Not a construction: whatever the descent finds, when the signature is small the others are, too."""
    teacher, student = gaussian(seed, 6), gaussian(seed + 1, 6).requires_grad_()
    optimiser = torch.optim.Adam([student], lr=0.05)
    for step in range(150):
        for group in optimiser.param_groups:
            group["lr"] = 0.05 * (1 - step / 150)
        optimiser.zero_grad()
        loss = signature_loss(student, teacher, normalise="none")
        loss.backward()
        optimiser.step()
    signature, lite, deaths = losses(student.detach(), teacher)
    # The gaps along the trees bound everything: at most 2 (m − 1) edges, each off by at most √(m L).
    bound = 10 * (6 * signature) ** 0.5
    assert lite <= bound + 1e-9
    assert deaths**0.5 <= bound + 1e-9


@given(seed=st.integers(0, 10**6), normalise=st.sampled_from(["none", "mean", "quantile"]))
@settings(max_examples=40)
def test_rtd_sees_at_least_what_rtd_lite_sees_and_its_bars_add_up(seed, normalise):
    a = scale_distances(pairwise_distances(gaussian(seed, 8)), normalise)
    b = scale_distances(pairwise_distances(gaussian(seed + 1, 8, 3)), normalise)
    merged = torch.minimum(a, b)
    weight = [edge_weights(matrix, mst_edges(matrix[None])[0]).sum().item() for matrix in (a, b, merged)]
    for first, second, alone in ((a, b, weight[0]), (b, a, weight[1])):
        lite = rtd_lite_barcode(first, second)
        total = (lite[:, 1] - lite[:, 0]).sum().item()
        assert total == pytest.approx(alone - weight[2], abs=1e-12)
        bars = cross_barcode(first, second)
        assert (bars[:, 1] - bars[:, 0]).sum().item() >= total - 1e-6
