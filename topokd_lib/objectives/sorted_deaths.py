"""Sorted deaths: the spanning trees of both clouds have edges of equal lengths, rank by rank.

TopKD without an image: nothing is blurred, cut off by a window, or fitted.

Reference:
    J. C. Gower, G. J. S. Ross. Minimum spanning trees and single linkage cluster analysis. 1969, for the
    deaths [gower1969mst]; J. Kim et al., ICML 2024, for their use [kim2024topkd]. With a constant target this
    is the idea of C. Hofer et al., ICML 2019 [hofer2019connectivity].
Explained in:
    book/reference/objectives.md
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.clouds import Connector, RunningMean, feature_cloud, make_connector
from topokd_lib.objectives.connectors import require_images
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.topology import h0_deaths, scale_points

__all__ = ["SortedDeaths", "sorted_deaths_loss"]

Normalise = Literal["mean", "max", "none"]


def sorted_deaths_loss(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    normalise: Normalise = "mean",
) -> Float[Tensor, ""]:
    r"""Mean squared difference of the finite H0 deaths, rank by rank.

    .. math:: L = \frac{1}{m - 1} \sum_{i=1}^{m - 1} \big(d^T_{(i)} - d^S_{(i)}\big)^2

    :math:`d_{(i)}` are the lengths of the minimum spanning tree's edges, ascending, in units of the cloud's
    own (:func:`~topokd_lib.topology.scale_points`). Which images an edge joins does not matter.

    Args:
        student: Gradients flow into these.
        teacher: The target; no gradient flows into it.
        normalise: The unit of the lengths.

    Raises:
        ValueError: If the numbers of points differ, there are fewer than two, or the unit is unknown.
        InvalidPoints: If a coordinate is not finite.

    Example:
        Gaps 1 and 2 against gaps 1 and 1: both in units of their clouds' mean distances, 2 and 4/3.

        >>> student, teacher = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [1.0], [2.0]])
        >>> sorted_deaths_loss(student, teacher, normalise="none").item()
        0.5
        >>> round(sorted_deaths_loss(student, teacher).item(), 4)  # (0.25² + 0.25²) / 2
        0.0625
    """
    for points in (student, teacher):
        require_images("the distance of sorted deaths", len(points))
    if len(student) != len(teacher):
        raise ValueError(
            f"deaths are compared rank by rank and need clouds of equal size, got {len(student)} and "
            f"{len(teacher)} points"
        )
    return F.mse_loss(_deaths(student, normalise), _deaths(teacher.detach(), normalise))


def _deaths(points: Float[Tensor, "batch dim"], normalise: Normalise) -> Float[Tensor, "1 bars"]:
    return h0_deaths(scale_points(points, normalise)[None])


class SortedDeaths(Objective):
    """:func:`sorted_deaths_loss` of the features of a minibatch; maps are averaged over their pixels.

    Nothing has to be prepared, and widths may differ.

    Args:
        pair: The two networks.
        student_feature: The student's points.
        teacher_feature: The teacher's.
        normalise: The unit of the lengths; ``"none"`` also asks for the teacher's size.
        target: ``"constant"`` is a control: the mean of the teacher's deaths so far in place of this batch's.
        connector: A map of the student's points into the teacher's space; none is needed.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, a batch has fewer than two images, or an option is unknown.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        normalise: Normalise = "mean",
        target: Literal["batch", "constant"] = "batch",
        connector: Connector = "auto",
    ) -> None:
        super().__init__()
        pair.require_teacher("SortedDeaths")
        require_images("SortedDeaths", pair.batch_size)
        if target not in ("batch", "constant"):
            raise ValueError(f"SortedDeaths has no target={target!r}; known: batch, constant")
        shapes = pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.normalise = normalise
        self.connector = make_connector(connector, shapes[0][0], shapes[1][0], needed=False)
        self.mean_target = RunningMean(pair.batch_size - 1) if target == "constant" else None

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        points, taught = (
            feature_cloud(output[names[0]])[0]
            for output, names in ((student, self.student_features), (teacher, self.teacher_features))
        )
        points = self.connector(points)
        if self.mean_target is None:
            return sorted_deaths_loss(points, taught, normalise=self.normalise)
        require_images("SortedDeaths", len(points))
        target = self.mean_target(_deaths(taught.detach(), self.normalise))
        return F.mse_loss(_deaths(points, self.normalise), torch.as_tensor(target))
