"""Two clouds of the same samples, compared through their distance matrices.

Row i of the teacher's cloud and row i of the student's are the same image. A distance matrix keeps this
correspondence, which a persistence diagram forgets, and it forgets the space in which the cloud lies: clouds
of different width need no connector.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology.checks import (
    check_edges,
    check_matrix,
    check_reals,
    check_square,
    check_tensor,
    is_finite,
)
from topokd_lib.topology.spanning_tree import check_points

__all__ = [
    "SCALES",
    "check_same_clouds",
    "check_same_samples",
    "edge_weights",
    "pairwise_distances",
    "scale_distances",
    "scale_points",
]

SCALES = ("mean", "max", "quantile", "none")
"""What distances can be divided by, see :func:`scale_distances`."""

_QUANTILE_LIMIT = 2**24
"""torch refuses to take quantiles of more numbers."""


def check_same_samples(student: Tensor, teacher: Tensor, what: str, needed: int = 2) -> None:
    """Raise unless both are one cloud each, of the same number of points, at least ``needed``, all finite.

    Raises:
        TypeError: If one is not a tensor.
        ValueError: If they are not real clouds, or the numbers of points differ or are too small.
        InvalidPoints: If a coordinate is not finite.

    Example:
        >>> check_same_samples(torch.zeros(4, 2), torch.zeros(3, 2), "RTD")
        Traceback (most recent call last):
        ValueError: RTD compares the same images in two networks, one row each, got shapes (4, 2) and (3, 2)
    """
    for name, cloud in (("student", student), ("teacher", teacher)):
        check_tensor(f"the {name}'s points", cloud)
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"{what} compares the same images in two networks, one row each, got shapes "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if len(student) < needed:
        raise ValueError(
            f"{what} compares the images of a batch with each other and needs at least {needed}, got "
            f"{len(student)}; choose a larger batch_size"
        )
    for name, cloud in (("student", student), ("teacher", teacher)):
        check_reals(f"the {name}'s points", cloud, "points", "dim", finite=False)
        if not is_finite(cloud):
            point = int((~cloud.detach().isfinite()).any(dim=1).nonzero()[0])
            raise InvalidPoints(
                f"coordinates must be finite: the {name}'s point {point} is not; look for an exploding "
                f"network or a division by 0"
            )


def check_same_clouds(student: Tensor, teacher: Tensor) -> None:
    """Raise unless both are batches of as many clouds of as many points.

    Raises:
        InvalidPoints: See :func:`~topokd_lib.topology.check_points`.
        ValueError: If the numbers of clouds or points differ.
    """
    check_points(student)
    check_points(teacher)
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"student and teacher see the same samples in the same clouds, got shapes "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def pairwise_distances(points: Float[Tensor, "points dim"]) -> Float[Tensor, "points points"]:
    """Euclidean distances of all pairs, from differences: exact for close points, and 0 for equal ones.

    In the unit of the coordinates; half precision is measured in float32. The gradient of a distance of 0 is
    0, one of its subgradients.

    Raises:
        TypeError: If the points are not a tensor.
        ValueError: If they are not one cloud of shape (points, dim), or empty, not real or not finite.

    Example:
        >>> pairwise_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[0., 5.],
                [5., 0.]])
    """
    check_reals("points", points, "points", "dim")
    points = points.to(torch.promote_types(points.dtype, torch.float32))
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def scale_distances(
    distances: Float[Tensor, "points points"], scale: Literal["mean", "max", "quantile", "none"]
) -> Float[Tensor, "points points"]:
    r"""A distance matrix in a unit of its own, so that the size of the cloud does not count.

    ==============  ===============================================================================
    ``"mean"``      :math:`\mu = \frac{1}{m (m - 1)} \sum_{i \ne j} D_{ij}`, as RKD does
    ``"max"``       the largest distance
    ``"quantile"``  the 0.9-quantile of all entries, the diagonal included, as RTD and RTD-Lite do
    ``"none"``      1
    ==============  ===============================================================================

    The unit is differentiated, too: gradients of a scaled loss do not change the size of the cloud. A cloud
    of equal points stays 0.

    Raises:
        TypeError: If the distances are not a tensor.
        ValueError: If they are not a symmetric matrix of finite numbers of at least 0, there is no such
            scale, or more than 4,096 points are to have a quantile.

    Example:
        >>> scale_distances(torch.tensor([[0.0, 4.0], [4.0, 0.0]]), "mean")
        tensor([[0., 1.],
                [1., 0.]])
    """
    check_matrix("distances", distances)
    return distances if scale == "none" else distances / _unit(distances, scale)


def scale_points(
    points: Float[Tensor, "points dim"], scale: Literal["mean", "max", "quantile", "none"]
) -> Float[Tensor, "points dim"]:
    """A cloud in a unit of its own: its distances are those that :func:`scale_distances` makes.

    Raises:
        TypeError: If the points are not a tensor.
        ValueError: See :func:`pairwise_distances`; or if there is no such scale.

    Example:
        >>> scale_points(torch.tensor([[0.0], [4.0]]), "mean")
        tensor([[0.],
                [1.]])
    """
    if scale == "none":
        check_reals("points", points, "points", "dim")
        return points
    return points / _unit(pairwise_distances(points), scale)


def _unit(distances: Float[Tensor, "points points"], scale: str) -> Float[Tensor, ""]:
    count = len(distances)
    match scale:
        case "mean":
            unit = distances.sum() / max(count * (count - 1), 1)
        case "max":
            unit = distances.max()
        case "quantile":
            if distances.numel() > _QUANTILE_LIMIT:
                raise ValueError(
                    f"torch takes quantiles of at most {_QUANTILE_LIMIT} numbers, and {count} points have "
                    f"{distances.numel()} distances; divide by 'mean' or 'max' instead"
                )
            unit = distances.to(torch.promote_types(distances.dtype, torch.float32)).quantile(0.9)
        case _:
            raise ValueError(f"distances are divided by one of {', '.join(SCALES)}, got {scale!r}")
    return unit.clamp(min=torch.finfo(distances.dtype).tiny ** 0.5)


def edge_weights(
    distances: Float[Tensor, "points points"], edges: Int[Tensor, "edges 2"]
) -> Float[Tensor, " edges"]:
    """The entries of a matrix at the edges of a graph, in its unit.

    Raises:
        TypeError: If distances or edges are not tensors.
        ValueError: If the matrix is not square, real and of at least one point, or the edges are not pairs of
            whole numbers that count its points.

    Example:
        >>> edge_weights(torch.tensor([[0.0, 5.0], [5.0, 0.0]]), torch.tensor([[0, 1]]))
        tensor([5.])
    """
    check_square("distances", distances)
    check_edges(edges, len(distances))
    return distances[edges[:, 0], edges[:, 1]]
