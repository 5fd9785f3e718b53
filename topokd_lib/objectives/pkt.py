"""Probabilistic knowledge transfer (PKT): match the probability that two images are neighbours.

Reference:
    N. Passalis, A. Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018,
    §3. [passalis2018pkt]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import require_images
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["PKT", "neighbour_loss", "neighbour_probabilities"]

EPSILON = 1e-7


def neighbour_probabilities(points: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch batch"]:
    r"""How the probability of being an image's neighbour is spread over the batch, itself included.

    .. math:: p_{ij} = \frac{s_{ij}}{\sum_k s_{ik}}, \qquad
              s_{ij} = \frac{1}{2} \left( \frac{x_i \cdot x_j}{(\lVert x_i \rVert + \epsilon)
              (\lVert x_j \rVert + \epsilon)} + 1 \right), \qquad \epsilon = 10^{-7}

    A point at the origin has no direction: :math:`s = 1/2` to all others, without gradient.

    Example:
        Two opposite points are no neighbours at all:

        >>> neighbour_probabilities(torch.tensor([[1.0], [-1.0]])).round(decimals=4)
        tensor([[1., 0.],
                [0., 1.]])
    """
    lengths: Tensor = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    directions = points * (lengths.masked_fill(lengths == 0, torch.inf) + EPSILON).reciprocal()
    similarity = directions @ directions.T + 1  # twice the formula's; the factor cancels
    return similarity / similarity.sum(dim=1, keepdim=True)


def neighbour_loss(
    student: Float[Tensor, "batch student_dim"], teacher: Float[Tensor, "batch teacher_dim"]
) -> Float[Tensor, ""]:
    r"""Kullback–Leibler divergence of the neighbour probabilities, averaged over all pairs.

    .. math:: L = \frac{1}{B^2} \sum_{i,j} p^T_{ij} \log \frac{p^T_{ij} + \epsilon}{p^S_{ij} + \epsilon}

    The mean over :math:`B^2` pairs, where a mean over images is usual, is why the benchmark's weight is as
    large as 30000.

    Args:
        student: Gradients flow into these.
        teacher: The target; no gradient flows into it. The width may differ.

    Raises:
        ValueError: If there are fewer than two images.

    Differs from:
        Value and gradient are those of the benchmark (HobbitLong/RepDistiller, distiller_zoo/PKT.py), of
        mdistiller and of torchdistill, but for images whose feature is all zeros: there the gradient of all
        three is NaN, and here it is 0.
    """
    require_images("PKT", len(student))
    target = neighbour_probabilities(teacher.detach())
    found = neighbour_probabilities(student)
    return (target * ((target + EPSILON) / (found + EPSILON)).log()).mean()


class PKT(Objective):
    """:func:`neighbour_loss` on pooled features; maps are flattened.

    Args:
        pair: The two networks.
        student_feature: The student's points.
        teacher_feature: The teacher's.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, or a batch has fewer than two images.
    """

    def __init__(
        self, pair: Pair, *, student_feature: str = "pooled", teacher_feature: str = "pooled"
    ) -> None:
        super().__init__()
        pair.require_teacher("PKT")
        require_images("PKT", pair.batch_size)
        pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return neighbour_loss(
            student[self.student_features[0]].flatten(1), teacher[self.teacher_features[0]].flatten(1)
        )
