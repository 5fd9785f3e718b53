"""The health report: each silent failure is provoked, measured against its known size, and named."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology import PersistenceImage, RipsNet, fit_ripsnet, rips_diagrams, topology_health

SQUARE = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
"""One loop, born at 1, that dies at √2; three bars from 0 to 1."""

WIDE = PersistenceImage((-1.0, 1.0), (0.0, 2.0), bandwidth=0.1, resolution=(8, 8))


def clouds(count=4, points=24, dim=8, seed=0):
    return torch.randn(count, points, dim, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def teacher():
    return clouds()


@pytest.fixture(scope="module")
def image(teacher):
    return PersistenceImage.fit(rips_diagrams(teacher)[0])


# Numbers known beforehand


def test_all_is_well():
    health = topology_health(SQUARE, SQUARE, WIDE)
    assert health.healthy
    assert health.warnings == ()
    assert (health.gradient_coverage, health.student_coverage, health.teacher_coverage) == (1, 1, 1)
    assert health.student_lost_mass == pytest.approx(0, abs=1e-12)
    assert health.flat_axes == ()
    assert health.ripsnet is None
    assert "warning" not in str(health)


def test_mass_on_a_border_is_half_lost():
    on_the_border = replace(WIDE, persistence_range=(1.0, 4.0))
    health = topology_health(SQUARE, 2 * SQUARE, on_the_border)
    assert health.student_coverage == health.teacher_coverage == 1
    assert health.student_lost_mass == pytest.approx(0.5)
    assert health.teacher_lost_mass == pytest.approx(0, abs=1e-12)


def test_bars_are_counted_inside_and_weighed():
    # Single linkage of 0, 1, 3: bars of length 1 and 2, of which the image shows the first.
    line = torch.tensor([[[0.0], [1.0], [3.0]]])
    narrow = PersistenceImage((-1.0, 1.0), (0.0, 1.5), bandwidth=0.05, resolution=(16, 8))
    health = topology_health(line, line, narrow)
    assert health.student_coverage == 0.5
    assert health.student_lost_mass == pytest.approx(2 / 3)
    # The edge from 1 to 3 is invisible: only the points 0 and 1 are heard.
    assert health.gradient_coverage == pytest.approx(2 / 3)
    assert health.warnings == (
        "67% of the weight of the student's bars is outside the image (births -1 to 1, persistence 0 to 1.5)",
        "67% of the weight of the teacher's bars is outside the image (births -1 to 1, persistence 0 to 1.5)",
    )


def test_loops():
    image = PersistenceImage((0.5, 1.5), (0.0, 1.0), bandwidth=0.05, resolution=(20, 20))
    health = topology_health(SQUARE, SQUARE, image, dimension=1)
    assert health.healthy
    assert health.gradient_coverage > 0


# The silent failures


def test_student_that_left_the_window(teacher, image):
    health = topology_health(teacher / 20, teacher, image)
    assert health.gradient_coverage == 0
    assert health.student_coverage == 0
    assert health.student_lost_mass == pytest.approx(1, abs=1e-6)
    assert health.teacher_coverage == 1
    assert any("100% of the student's bars are outside the image" in warning for warning in health.warnings)
    assert any(
        "only 0% of the student's points receive gradient" in warning and "sorted_deaths_distance" in warning
        for warning in health.warnings
    )


def test_what_the_report_calls_dead_does_not_move(teacher, image):
    """The loss itself agrees: without coverage its gradient is nothing, with coverage it is something."""
    target = image(rips_diagrams(teacher)[0])
    for scale, coverage in ((0.1, 0), (0.9, 1)):
        student = (scale * clouds(seed=1)).requires_grad_()
        assert topology_health(student, teacher, image).gradient_coverage == coverage
        (image(rips_diagrams(student)[0]) - target).square().mean().backward()
        assert (student.grad.norm() > 1e-6) == bool(coverage)


def test_columns_that_are_equal(teacher, image):
    health = topology_health(teacher, teacher, image)
    assert health.flat_axes == ("birth",)
    (warning,) = health.warnings
    assert "all 20 columns of the teacher's images are equal" in warning
    assert "an image of 400 pixels holds 20 numbers" in warning


def test_rows_that_are_equal():
    wide = replace(WIDE, persistence_range=(0.9, 1.1), birth_range=(-1e4, 1e4), bandwidth=3e3)
    health = topology_health(SQUARE, SQUARE, replace(wide, weight="constant"))
    assert health.flat_axes == ("persistence",)
    assert any("all 8 rows of the teacher's images are equal" in warning for warning in health.warnings)
    assert any("of the weight of the teacher's bars is outside" in warning for warning in health.warnings)


def test_features_that_are_the_same_for_all_images(teacher, image):
    dead = teacher.clone()
    dead[..., :3] = 0
    health = topology_health(dead, teacher, image)
    assert health.dead_features == 3 / 8
    assert any("38% of the student's features are the same for all images" in w for w in health.warnings)
    assert topology_health(teacher, teacher, image).dead_features == 0


def test_clouds_without_a_bar(teacher, image):
    health = topology_health(torch.ones(4, 24, 8), teacher, image)
    assert (health.gradient_coverage, health.student_coverage, health.student_lost_mass) == (0, 0, 1)
    assert any("the student's clouds have no bar" in warning for warning in health.warnings)
    assert topology_health(teacher, torch.ones(4, 24, 8), image).teacher_coverage == 0


@pytest.fixture(scope="module")
def ripsnet(image):
    torch.manual_seed(0)
    network = RipsNet(8, 400, pooling="mean", widths=(16, 16, 16, 16, 16, 16))
    many = clouds(count=64, seed=2) * torch.linspace(0.7, 1.1, 64)[torch.randperm(64), None, None]
    fit_ripsnet(network, many, image(rips_diagrams(many)[0]), epochs=40, learning_rate=1e-2, batch_size=16)
    network.zero_grad()
    return network


def test_ripsnet_is_compared_with_the_exact_images(teacher, image, ripsnet):
    student = 0.8 * clouds(seed=1)
    found = topology_health(student, teacher, image, ripsnet).ripsnet
    exact = [image(rips_diagrams(cloud)[0]).flatten(1) for cloud in (student, teacher)]
    with torch.no_grad():
        guess, other, turned = (ripsnet(cloud) for cloud in (student, teacher, student.flip(2)))

    def error(one, two):
        return pytest.approx((one - two).square().mean().item(), rel=1e-4)

    assert found.student_error == error(guess, exact[0])
    assert found.teacher_error == error(other, exact[1])
    assert found.isometry_error == error(guess, turned)
    assert found.exact_loss == error(*exact)
    assert found.estimated_loss == error(guess, other)


def test_ripsnet_far_from_what_it_knows(teacher, image, ripsnet):
    # All distances are the teacher's, and so are the exact images; RipsNet thinks otherwise.
    moved = teacher + 5 * torch.arange(8.0)
    health = topology_health(moved, teacher, image, ripsnet)
    assert health.ripsnet.exact_loss == pytest.approx(0, abs=1e-9)
    assert "RipsNet's error, student" in str(health)
    assert any("larger than the exact loss" in warning for warning in health.warnings)
    assert any(
        "reversing the coordinates, which changes no distance" in warning for warning in health.warnings
    )
    known = topology_health(teacher, 0.3 * teacher, image, ripsnet)
    assert known.ripsnet.student_error < known.ripsnet.exact_loss
    assert not any("larger than the exact loss" in warning for warning in known.warnings)


def test_ripsnet_that_errs_more_on_the_student(image):
    # A network that always answers 1/2, and a teacher whose images are close to that.
    network = RipsNet(8, 400)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    teacher = clouds()
    wide = replace(image, bandwidth=3.0, scale=1.0)
    grey = replace(wide, scale=2 * wide(rips_diagrams(teacher)[0]).mean().item())
    near, dark = (topology_health(scale * teacher, teacher, grey, network) for scale in (1, 90))
    assert near.ripsnet.student_error == near.ripsnet.teacher_error
    assert dark.ripsnet.student_error == pytest.approx(0.25)
    assert not any("times as much" in warning for warning in near.warnings)
    ratio = 0.25 / dark.ripsnet.teacher_error
    assert ratio > 5
    assert any(f"RipsNet errs {ratio:.3g} times as much on the student" in w for w in dark.warnings)


# Properties


@given(st.permutations(range(24)), st.integers(0, 100))
@settings(max_examples=5)
def test_order_of_the_points_and_the_frame_do_not_matter(order, seed):
    one, other = clouds(seed=seed), clouds(seed=seed + 1)
    image = PersistenceImage.fit(rips_diagrams(other)[0])
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0].float()
    plain, moved = (topology_health(x, other, image) for x in (one, one[:, order] @ rotation + 1))
    assert moved.gradient_coverage == plain.gradient_coverage
    assert moved.student_coverage == pytest.approx(plain.student_coverage, abs=0.05)
    assert moved.student_lost_mass == pytest.approx(plain.student_lost_mass, abs=1e-4)


def test_looking_changes_nothing(teacher, image, ripsnet):
    student = teacher.clone().requires_grad_()
    state = torch.get_rng_state()
    with torch.no_grad():
        first = topology_health(student, teacher, image, ripsnet)
    assert first == topology_health(student, teacher, image, ripsnet)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.grad is None
    assert all(parameter.grad is None for parameter in ripsnet.parameters())


def test_report_reads_as_lines(teacher, image):
    lines = str(topology_health(teacher / 20, teacher, image)).splitlines()
    assert lines[0] == "points with gradient           0%"
    assert lines[1] == "bars inside, student           0%"
    assert lines[5] == "dead features, student         0%"
    assert lines[6] == "flat axes                      birth"
    assert sum(line.startswith("warning: ") for line in lines) == 3


# What is refused


@pytest.mark.parametrize("other", [{"count": 2}, {"points": 23}])
def test_clouds_that_do_not_belong_together(other, teacher, image, unchecked):
    student = clouds(**other)
    with pytest.raises(ValueError, match=r"same samples in the same clouds, got shapes .* and \(4, 24, 8\)"):
        topology_health(student, teacher, image)


def test_points_that_are_none(teacher, image, unchecked):
    with pytest.raises(InvalidPoints, match=r"add a batch axis with points\[None\]"):
        topology_health(teacher[0], teacher, image)
    with pytest.raises(InvalidPoints, match="must be finite: cloud 0, point 0 has nan"):
        topology_health(teacher, torch.full((4, 24, 8), torch.nan), image)


def test_ripsnet_of_another_image_or_width(teacher, image, ripsnet):
    with pytest.raises(ValueError, match="draws 400 pixels, but the image has 8 × 8 = 64"):
        topology_health(teacher, teacher, WIDE, ripsnet)
    with pytest.raises(ValueError, match=r"reads clouds of shape \(batch, points, 8\).*\(4, 24, 5\)"):
        topology_health(clouds(dim=5), teacher, image, ripsnet)
