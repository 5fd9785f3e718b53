"""How far the diagrams of a student's clouds are from those of its teacher's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.errors import require_name
from topokd_lib.topology import (
    PersistenceDiagrams,
    bottleneck_distance,
    rips_diagrams,
    sliced_wasserstein_distance,
    wasserstein_distance,
)

__all__ = ["DISTANCES", "DiagramDistance", "diagram_distances"]

DISTANCES: dict[str, Callable[[PersistenceDiagrams, PersistenceDiagrams], Tensor]] = {
    "bottleneck": bottleneck_distance,
    "wasserstein": wasserstein_distance,
    "wasserstein-2": partial(wasserstein_distance, order=2.0, ground="euclidean"),
    "sliced-wasserstein": sliced_wasserstein_distance,
}
"""Distances between persistence diagrams by name; see :mod:`topokd_lib.topology`."""


@dataclass(frozen=True)
class DiagramDistance:
    """Distances in one homology dimension, averaged over pairs of clouds.

    Args:
        dimension: Of the homology.
        same: Between the two networks' clouds of the *same* images.
        others: Between one network's cloud and the other's cloud of *other* images: what two clouds of the
            data differ by anyway. A student whose ``same`` is not below it has copied nothing of the batch.
        teacher_spread: Between the teacher's own clouds of different images.
    """

    dimension: int
    same: float
    others: float
    teacher_spread: float


@torch.no_grad()
def diagram_distances(
    student: Float[Tensor, "clouds points student_dim"],
    teacher: Float[Tensor, "clouds points teacher_dim"],
    *,
    dimensions: Sequence[int] = (0, 1),
    distance: str = "wasserstein",
    scaled: bool = True,
) -> tuple[DiagramDistance, ...]:
    """Compare the Rips diagrams of clouds that two networks make of the same minibatches.

    Args:
        student: One cloud for each minibatch.
        teacher: Of the same minibatches; the spaces may differ.
        dimensions: Homology dimensions.
        distance: One of :data:`DISTANCES`.
        scaled: Divide each cloud by the mean distance between its points, so that size does not count; the
            result is then in units of it, and otherwise in the unit of the features.

    Raises:
        UnknownName: If there is no such distance.
        ValueError: If there are fewer than two clouds, their numbers differ, or one is a single place.

    Example:
        A rotated and enlarged copy has the same shape; a cloud of noise has not.

        >>> clouds = torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(0))
        >>> (h0,) = diagram_distances(2 * clouds.flip(2), clouds, dimensions=[0])
        >>> round(h0.same, 4), h0.others > 0.1
        (0.0, True)
    """
    require_name("distance between diagrams", distance, DISTANCES)
    if student.shape[:2] != teacher.shape[:2] or len(student) < 2:
        raise ValueError(
            f"clouds of the same minibatches are compared, at least two of them and with as many points; got "
            f"shapes {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    clouds = [_scaled(cloud) if scaled else cloud for cloud in (student, teacher)]
    between = DISTANCES[distance]
    found = []
    for dimension in dimensions:
        seen, taught = (rips_diagrams(cloud, dimensions=(dimension,))[0] for cloud in clouds)
        (moved,) = rips_diagrams(clouds[1].roll(1, 0), dimensions=(dimension,))
        found.append(
            DiagramDistance(
                dimension,
                same=float(between(seen, taught).mean()),
                others=float(between(seen, moved).mean()),
                teacher_spread=float(between(taught, moved).mean()),
            )
        )
    return tuple(found)


def _scaled(clouds: Tensor) -> Tensor:
    points = clouds.shape[1]
    distances = torch.cdist(clouds, clouds, compute_mode="donot_use_mm_for_euclid_dist")
    means = distances.sum(dim=(1, 2)) / (points * (points - 1))
    if (means == 0).any():
        raise ValueError(
            f"cloud {int((means == 0).nonzero()[0])} is a single place and has no size to be divided by"
        )
    return clouds / means[:, None, None]
