"""Relational knowledge distillation (RKD): copy the distances and angles between the images of a batch.

Reference:
    W. Park, D. Kim, Y. Lu, M. Cho. Relational Knowledge Distillation. CVPR 2019, §3.2. [park2019rkd]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import require_images
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["RKD", "angle_cosines", "normalised_distances", "relational_loss"]

SMALLEST = 1e-6  # distances below count as this much, as in the benchmark: a batch of duplicates has a mean

EQUAL = 1e-12  # points closer than this have no direction; the benchmark divides their difference by it


def normalised_distances(points: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    r"""Euclidean distances of all pairs, divided by their mean over distinct images.

    .. math:: \psi_{ij} = \frac{\lVert x_i - x_j \rVert_2}{\mu}, \qquad
              \mu = \frac{1}{B (B - 1)} \sum_{i \ne j} \lVert x_i - x_j \rVert_2

    Equal points count as :math:`10^{-6}` apart and get no gradient from each other.

    Raises:
        ValueError: If there are fewer than two points.

    Example:
        >>> normalised_distances(torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]))
        tensor([[0.0000, 0.7500, 1.2500],
                [0.7500, 0.0000, 1.0000],
                [1.2500, 1.0000, 0.0000]])
    """
    count = len(points)
    require_images("RKD", count)
    # Differences, not a matrix product: |a|² + |b|² − 2ab is noise for points that are close together.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    itself = torch.eye(count, dtype=torch.bool, device=points.device)
    distances = distances.clamp(min=SMALLEST).masked_fill(itself, 0.0)
    return distances / (distances.sum() / (count * (count - 1)))


def angle_cosines(points: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch batch"]:
    r"""Cosine of the angle at each point between the directions to two others.

    .. math:: A_{ijk} = e_{ij} \cdot e_{ik}, \qquad e_{ij} = \frac{x_j - x_i}{\lVert x_j - x_i \rVert_2}

    Equal points, less than :math:`10^{-12}` apart, have no direction from one to the other: the cosine is 0,
    without gradient.

    Example:
        A right angle at the second of three points:

        >>> angle_cosines(torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]))[1, 0, 2].item()
        0.0
    """
    differences = points[None] - points[:, None]
    products = torch.bmm(differences, differences.mT)
    squares = products.diagonal(dim1=1, dim2=2)  # of the distances; dividing these tables is cheaper than
    inverse = squares.masked_fill(squares < EQUAL**2, torch.inf).rsqrt()  # dividing all the differences
    return products * inverse[:, :, None] * inverse[:, None, :]


def relational_loss(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Float[Tensor, ""]:
    r"""Smooth absolute difference of distances and of angles.

    .. math:: L = \frac{w_d}{B^2} \sum_{i,j} \ell(\psi^S_{ij} - \psi^T_{ij})
              + \frac{w_a}{B^3} \sum_{i,j,k} \ell(A^S_{ijk} - A^T_{ijk}), \qquad
              \ell(u) = \begin{cases} u^2 / 2 & |u| < 1 \\ |u| - 1/2 & \text{otherwise} \end{cases}

    Both relations ignore position and size of a cloud of points, and its rotation; widths may differ.

    Args:
        student: Gradients flow into these.
        teacher: The target; no gradient flows into it.
        distance_weight: Of the first sum.
        angle_weight: Of the second.

    Differs from:
        The benchmark (HobbitLong/RepDistiller, distiller_zoo/RKD.py) has the same values to rounding, but its
        gradient for two equal images has a size of about 10¹¹, because a direction of length 0 is divided by
        10⁻¹²; here it is 0. torchdistill's configurations use the weights 1 and 2.
    """
    teacher = teacher.detach()
    distance = F.smooth_l1_loss(normalised_distances(student), normalised_distances(teacher))
    angle = F.smooth_l1_loss(angle_cosines(student), angle_cosines(teacher))
    return distance_weight * distance + angle_weight * angle


class RKD(Objective):
    """:func:`relational_loss` on pooled features; maps are flattened.

    Args:
        pair: The two networks.
        student_feature: The student's points.
        teacher_feature: The teacher's.
        distance_weight: Weight of the distances.
        angle_weight: Weight of the angles.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, a batch has fewer than two images, or a weight is negative.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
    ) -> None:
        super().__init__()
        pair.require_teacher("RKD")
        require_images("RKD", pair.batch_size)
        if not (distance_weight >= 0 and angle_weight >= 0):
            raise ValueError(
                f"the weights of RKD's two parts must not be negative, got distance_weight={distance_weight} "
                f"and angle_weight={angle_weight}"
            )
        pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return relational_loss(
            student[self.student_features[0]].flatten(1),
            teacher[self.teacher_features[0]].flatten(1),
            self.distance_weight,
            self.angle_weight,
        )
