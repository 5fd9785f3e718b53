"""Is a topological loss alive? What goes wrong without a word, measured and said.

A loss on persistence images can be finite, fall, and still teach nothing: because the student's bars lie
outside the image, because the image shows one number in many pixels, or because RipsNet answers about clouds
that it has never seen. None of this raises an error or makes a NaN.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.distance_matrices import check_same_clouds
from topokd_lib.topology.images import PersistenceImage, check_image
from topokd_lib.topology.rips import rips_diagrams
from topokd_lib.topology.ripsnet import RipsNet, check_drawn

__all__ = ["RipsNetHealth", "TopologyHealth", "topology_health"]

_REACTS = 1e-4
"""A point counts if moving it by one bandwidth changes the image by this share of the teacher's image."""

_PROBES = 4
"""Random directions in the space of images; one would do almost surely."""

_FLAT = 1e-6
"""Neighbouring pixels are equal if they differ by no more than this share of the brightest one."""

_MOST_LOST = 0.6
"""More than a bar on the border loses, which half of all images have."""

_MOST_DEAD = 0.25
"""Trained networks have some dead units; a quarter is a sign that training went wrong."""

_FAR = 40.0
"""Bandwidths after which a Gaussian is 0 in double precision."""


@dataclass(frozen=True)
class RipsNetHealth:
    """RipsNet against the exact images. All numbers are mean squared errors per pixel.

    Args:
        teacher_error: On the teacher's clouds.
        student_error: On the student's clouds.
        isometry_error: Between the estimates for the student's clouds before and after the order of their
            coordinates is reversed. That changes no distance, so the exact answer is 0.
        exact_loss: Between the exact images of student and teacher: what training is to make small.
        estimated_loss: The same between the estimates: what training sees.
    """

    teacher_error: float
    student_error: float
    isometry_error: float
    exact_loss: float
    estimated_loss: float


@dataclass(frozen=True)
class TopologyHealth:
    """What :func:`topology_health` found; ``print`` it.

    Args:
        gradient_coverage: Share of the student's points that the image reacts to. A point counts if moving it
            by one bandwidth changes the image by at least 1/10000 of the teacher's image.
        student_coverage: Share of the student's bars inside the ranges of the image; 0 if there is no bar.
        teacher_coverage: The same for the teacher.
        student_lost_mass: Share of the weight of the student's Gaussians that lies outside the ranges; 1 if
            there is no weight at all. A bar on the border loses half of its own.
        teacher_lost_mass: The same for the teacher.
        dead_features: Share of the student's coordinates that are the same for all its points, as units are
            that a ReLU holds at 0: they keep no two images apart.
        flat_axes: Axes along which the teacher's images do not change, as births in dimension 0.
        ripsnet: RipsNet against the exact images, if there is one.
        warnings: One sentence for each thing that is wrong; none if all is well.
    """

    gradient_coverage: float
    student_coverage: float
    teacher_coverage: float
    student_lost_mass: float
    teacher_lost_mass: float
    dead_features: float
    flat_axes: tuple[str, ...]
    ripsnet: RipsNetHealth | None
    warnings: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.warnings

    def __str__(self) -> str:
        """A line for each number, then the warnings."""
        lines = [
            f"points with gradient           {self.gradient_coverage:.0%}",
            f"bars inside, student           {self.student_coverage:.0%}",
            f"bars inside, teacher           {self.teacher_coverage:.0%}",
            f"weight outside, student        {self.student_lost_mass:.0%}",
            f"weight outside, teacher        {self.teacher_lost_mass:.0%}",
            f"dead features, student         {self.dead_features:.0%}",
            f"flat axes                      {', '.join(self.flat_axes) or 'none'}",
        ]
        if self.ripsnet is not None:
            lines += [
                f"RipsNet's error, student       {self.ripsnet.student_error:.2e}",
                f"RipsNet's error, teacher       {self.ripsnet.teacher_error:.2e}",
                f"RipsNet's error, isometry      {self.ripsnet.isometry_error:.2e}",
                f"loss of the exact images       {self.ripsnet.exact_loss:.2e}",
                f"loss of RipsNet's images       {self.ripsnet.estimated_loss:.2e}",
            ]
        return "\n".join(lines + [f"warning: {warning}" for warning in self.warnings])


def topology_health(
    student_cloud: Float[Tensor, "batch points student_dim"],
    teacher_cloud: Float[Tensor, "batch points teacher_dim"],
    image: PersistenceImage,
    ripsnet: RipsNet | None = None,
    *,
    dimension: int = 0,
) -> TopologyHealth:
    """Examine a loss that compares the persistence images of student and teacher.

    Nothing is changed and nothing random is drawn from the global state. The cost is that of a few training
    steps of the exact loss, so that it can be asked once per epoch.

    Args:
        student_cloud: Features of a few minibatches, as the loss sees them: with a projection already done.
        teacher_cloud: The teacher's features of the same samples.
        image: What both are drawn with.
        ripsnet: The network that the loss asks instead, if it does.
        dimension: Homology dimension.

    Raises:
        InvalidPoints: See :func:`~topokd_lib.topology.check_points`.
        TypeError: If the image is no PersistenceImage, or ``ripsnet`` no RipsNet.
        ValueError: If the numbers of clouds or points differ, or RipsNet does not read these clouds or does
            not draw this image.

    Example:
        The student is ten times too small for an image that was made for the teacher:

        >>> teacher = torch.randn(4, 32, 8, generator=torch.Generator().manual_seed(0))
        >>> image = PersistenceImage.fit(rips_diagrams(teacher)[0])
        >>> health = topology_health(teacher / 10, teacher, image)
        >>> health.gradient_coverage, health.student_coverage, health.flat_axes
        (0.0, 0.0, ('birth',))
    """
    check_same_clouds(student_cloud, teacher_cloud)
    check_image(image)
    if ripsnet is not None:
        check_drawn(ripsnet, image)
    # In float64, so that only what is lost in principle is lost.
    student = student_cloud.detach().double().requires_grad_()
    teacher = teacher_cloud.detach().double()
    with torch.enable_grad():
        student_diagrams, teacher_diagrams = (
            rips_diagrams(cloud, dimensions=(dimension,))[0] for cloud in (student, teacher)
        )
        student_image, teacher_image = image(student_diagrams), image(teacher_diagrams)
        coverage = _gradient_coverage(student, student_image, teacher_image, image)
    answers = None
    if ripsnet is not None:
        answers = _ripsnet_health(
            ripsnet, student_cloud, teacher_cloud, student_image.detach(), teacher_image
        )
    health = TopologyHealth(
        gradient_coverage=coverage,
        student_coverage=_coverage(student_diagrams, image),
        teacher_coverage=_coverage(teacher_diagrams, image),
        student_lost_mass=_lost_mass(student_diagrams, image),
        teacher_lost_mass=_lost_mass(teacher_diagrams, image),
        dead_features=_dead_features(student.detach()),
        flat_axes=_flat_axes(teacher_image.detach()),
        ripsnet=answers,
        warnings=(),
    )
    bars = int(student_diagrams.counts.sum()), int(teacher_diagrams.counts.sum())
    return replace(health, warnings=tuple(_warnings(health, image, bars)))


def _gradient_coverage(student: Tensor, seen: Tensor, target: Tensor, image: PersistenceImage) -> float:
    if not seen.requires_grad:  # no cloud has a bar
        return 0.0
    generator = torch.Generator().manual_seed(0)
    squares = torch.zeros_like(student[..., 0])
    for _ in range(_PROBES):
        # The mean over standard normal v of |vᵀJ|² is the squared norm of the Jacobian J.
        probe = torch.randn(seen.shape, generator=generator, dtype=seen.dtype).to(seen.device)
        (gradient,) = torch.autograd.grad(seen, student, probe, retain_graph=True)
        squares += gradient.square().sum(dim=2) / _PROBES
    change = squares.sqrt() * image.bandwidth
    size = torch.linalg.vector_norm(target, dim=(1, 2)).mean()
    return float((change > _REACTS * size).double().mean())


def _dead_features(clouds: Tensor) -> float:
    points = clouds.flatten(0, 1)
    return float((points == points[:1]).all(dim=0).double().mean())


def _flat_axes(target: Tensor) -> tuple[str, ...]:
    least = _FLAT * target.abs().max()
    axes = (("persistence", 1), ("birth", 2))
    return tuple(
        name
        for name, axis in axes
        if target.shape[axis] > 1 and bool(least > 0) and bool((target.diff(dim=axis).abs() <= least).all())
    )


def _coverage(diagrams: PersistenceDiagrams, image: PersistenceImage) -> float:
    bars = diagrams.flat().detach()
    births, persistence = bars[:, 0], bars[:, 1] - bars[:, 0]
    inside = _within(births, image.birth_range) & _within(persistence, image.persistence_range)
    return float(inside.double().mean()) if len(bars) else 0.0


def _within(numbers: Tensor, limits: tuple[float, float]) -> Tensor:
    # The ranges may have been fitted in float32.
    slack = 1e-5 * max(abs(limits[0]), abs(limits[1]))
    return (numbers >= limits[0] - slack) & (numbers <= limits[1] + slack)


def _lost_mass(diagrams: PersistenceDiagrams, image: PersistenceImage) -> float:
    bars = diagrams.flat().detach()
    if not len(bars):
        return 1.0
    margin = _FAR * image.bandwidth
    births, persistence = bars[:, 0], bars[:, 1] - bars[:, 0]
    everything = replace(
        image,
        value="mass",
        resolution=(1, 1),
        birth_range=(float(births.min()) - margin, float(births.max()) + margin),
        persistence_range=(float(persistence.min()) - margin, float(persistence.max()) + margin),
    )
    # A range of width 0 stands for all births near it.
    first, last = image.birth_range
    window = (first, last) if first < last else (first - margin, last + margin)
    shown = replace(image, value="mass", resolution=(1, 1), birth_range=window)
    pairs = replace(diagrams, pairs=diagrams.pairs.detach())
    total = float(everything(pairs).sum())
    return 1 - float(shown(pairs).sum()) / total if total > 0 else 1.0


@torch.no_grad()
def _ripsnet_health(
    ripsnet: RipsNet, student: Tensor, teacher: Tensor, student_image: Tensor, teacher_image: Tensor
) -> RipsNetHealth:
    student, teacher = (cloud.detach().to(ripsnet.input_mean) for cloud in (student, teacher))
    guess, turned, other = (ripsnet(cloud).double() for cloud in (student, student.flip(2), teacher))
    exact, target = (
        picture.flatten(1).to(guess.device) for picture in (student_image, teacher_image.detach())
    )

    def error(one: Tensor, two: Tensor) -> float:
        return float((one - two).square().mean())

    return RipsNetHealth(
        teacher_error=error(other, target),
        student_error=error(guess, exact),
        isometry_error=error(guess, turned),
        exact_loss=error(exact, target),
        estimated_loss=error(guess, other),
    )


def _warnings(health: TopologyHealth, image: PersistenceImage, bars: tuple[int, int]) -> list[str]:
    found = []
    shown = f"births {_limits(image.birth_range)}, persistence {_limits(image.persistence_range)}"
    for who, count, coverage, lost in (
        ("student", bars[0], health.student_coverage, health.student_lost_mass),
        ("teacher", bars[1], health.teacher_coverage, health.teacher_lost_mass),
    ):
        if not count:
            found.append(
                f"the {who}'s clouds have no bar: in dimension 0 all points coincide, in a higher one there "
                f"is no hole"
            )
        elif coverage < 0.5:
            found.append(
                f"{1 - coverage:.0%} of the {who}'s bars are outside the image ({shown}): fit the image to "
                f"these diagrams, widen its ranges, or compare clouds of the same scale"
            )
        elif lost > _MOST_LOST:
            found.append(f"{lost:.0%} of the weight of the {who}'s bars is outside the image ({shown})")
    if health.gradient_coverage < 0.5 and bars[0]:
        found.append(
            f"only {health.gradient_coverage:.0%} of the student's points receive gradient from the exact "
            f"image; sorted_deaths_distance has no window and does not lose it"
        )
    if health.dead_features > _MOST_DEAD:
        found.append(
            f"{health.dead_features:.0%} of the student's features are the same for all images: dead units, "
            f"which no loss on these features brings back"
        )
    for axis in health.flat_axes:
        what, equal = ("columns", 1) if axis == "birth" else ("rows", 0)
        found.append(
            f"all {image.resolution[equal]} {what} of the teacher's images are equal, because the range of "
            f"{axis} is narrow for the bandwidth {image.bandwidth:.3g} ({shown}): an image of "
            f"{image.pixels} pixels holds {image.resolution[1 - equal]} numbers"
        )
    if health.ripsnet is not None:
        found += _ripsnet_warnings(health.ripsnet)
    return found


def _ripsnet_warnings(ripsnet: RipsNetHealth) -> list[str]:
    found = []
    if ripsnet.student_error > 5 * ripsnet.teacher_error:
        found.append(
            f"RipsNet errs {ripsnet.student_error / max(ripsnet.teacher_error, 1e-300):.3g} times as much on "
            f"the student as on the teacher it was trained on"
        )
    if ripsnet.student_error > ripsnet.exact_loss:
        found.append(
            f"RipsNet's error on the student ({ripsnet.student_error:.2e}) is larger than the exact loss "
            f"({ripsnet.exact_loss:.2e}): equal estimates say little about equal topology"
        )
    if ripsnet.isometry_error > ripsnet.exact_loss:
        found.append(
            f"reversing the coordinates, which changes no distance, moves RipsNet's answer by "
            f"{ripsnet.isometry_error:.2e}, more than student and teacher differ ({ripsnet.exact_loss:.2e})"
        )
    return found


def _limits(limits: tuple[float, float]) -> str:
    return f"{limits[0]:.3g} to {limits[1]:.3g}"
