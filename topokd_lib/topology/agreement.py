"""What two clouds of the same samples have in common: distances, neighbours, tree, bars.

A loss can bring one of them together and leave, or destroy, the others. Five numbers side by side tell which.

Reference:
    C. Spearman. The proof and measurement of association between two things. 1904. [spearman1904proof]
    J. B. Kruskal. On the shortest spanning subtree of a graph. 1956. [kruskal1956shortest]
"""

from dataclasses import asdict, astuple, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.checks import is_whole
from topokd_lib.topology.distance_matrices import check_same_clouds, pairwise_distances
from topokd_lib.topology.spanning_tree import h0_deaths, mst_edges

__all__ = ["CloudAgreement", "cloud_agreement"]


@dataclass(frozen=True)
class CloudAgreement:
    """How alike two clouds are, averaged over clouds.

    Args:
        distances: Spearman's rank correlation of the distances of all pairs of samples: 1 if the order of the
            distances is the same, about 0 if one tells nothing of the other, not a number if all distances of
            a cloud are equal.
        neighbours: Share of the nearest neighbours that are the same in both clouds. Chance gives k / (m -
            1).
        tree: Share of the teacher's minimum spanning tree that is in the student's, edges being pairs of
            samples.
        deaths: Mean difference of the sorted H0 deaths, after each cloud was divided by its mean distance,
            relative to the mean of the teacher's: the shape of the bars, without sizes and without names. Not
            a number if all points of a cloud are equal.
        raw_deaths: The same of clouds as they are: shape and size.
    """

    distances: float
    neighbours: float
    tree: float
    deaths: float
    raw_deaths: float

    def to_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)

    def __str__(self) -> str:
        """One line for each number."""
        return "\n".join(
            f"{name:<38}{value:6.3f}"
            for name, value in zip(
                (
                    "distances, rank correlation",
                    "neighbours in common",
                    "edges of the tree in common",
                    "H0 deaths, relative difference, scaled",
                    "H0 deaths, relative difference, raw",
                ),
                astuple(self),
                strict=True,
            )
        )


@torch.no_grad()
def cloud_agreement(
    student: Float[Tensor, "clouds points student_dim"],
    teacher: Float[Tensor, "clouds points teacher_dim"],
    *,
    neighbours: int = 5,
) -> CloudAgreement:
    """Compare clouds in which row i is the same sample.

    Args:
        student: Its points; the width does not matter.
        teacher: The same samples in the same order.
        neighbours: How many nearest neighbours of each sample are compared.

    Raises:
        InvalidPoints: See :func:`~topokd_lib.topology.check_points`.
        ValueError: If the numbers of clouds or points differ, or there are fewer than neighbours + 1 points.

    Example:
        A rotated and enlarged copy has the same shape; its bars are twice as long.

        >>> teacher = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
        >>> agreement = cloud_agreement(2 * teacher.flip(2), teacher)
        >>> round(agreement.distances, 4), agreement.neighbours, agreement.tree
        (1.0, 1.0, 1.0)
        >>> round(agreement.deaths, 4), round(agreement.raw_deaths, 4)
        (0.0, 1.0)
    """
    check_same_clouds(student, teacher)
    if not is_whole(neighbours, 1) or neighbours >= student.shape[1]:
        raise ValueError(
            f"neighbours={neighbours!r} have to be at least 1, and fewer than the points of a cloud, here "
            f"{student.shape[1]}"
        )
    rows = [_one(*pair, neighbours) for pair in zip(student.double(), teacher.double(), strict=True)]
    return CloudAgreement(*np.mean(rows, axis=0).tolist())


def _one(student: Tensor, teacher: Tensor, neighbours: int) -> tuple[float, float, float, float, float]:
    from scipy.stats import rankdata  # half a second and 30 MB, which only this function needs

    found, target = pairwise_distances(student), pairwise_distances(teacher)
    upper = tuple(torch.triu_indices(len(found), len(found), 1))
    ranks = [torch.from_numpy(rankdata(matrix[upper].cpu().numpy())) for matrix in (found, target)]
    correlation = float(torch.corrcoef(torch.stack(ranks))[0, 1])
    nearest = [_nearest(matrix, neighbours) for matrix in (found, target)]
    tree, other = (set(map(tuple, mst_edges(matrix[None])[0].tolist())) for matrix in (target, found))
    deaths, wanted = h0_deaths(student[None]), h0_deaths(teacher[None])
    mean_found, mean_target = found.mean(), target.mean()
    typical = wanted.mean()
    scaled = (deaths / mean_found - wanted / mean_target).abs().mean() / (typical / mean_target)
    raw = (deaths - wanted).abs().mean() / typical
    return (
        correlation,
        float((nearest[0] & nearest[1]).double().sum() / (neighbours * len(found))),
        len(tree & other) / max(len(tree), 1),
        float(scaled),
        float(raw),
    )


def _nearest(distances: Tensor, count: int) -> Tensor:
    """Entry (i, j) is true if j is one of the nearest neighbours of i."""
    itself = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    order = distances.masked_fill(itself, torch.inf).argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(itself).scatter(1, order, value=True)
