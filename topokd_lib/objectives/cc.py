"""Correlation congruence (CC): the student's images should correlate with each other as the teacher's do.

Reference:
    B. Peng, X. Jin, J. Liu, D. Li, Y. Wu, Y. Liu, S. Zhou, Z. Zhang. Correlation Congruence for Knowledge
    Distillation. ICCV 2019, §3. [peng2019cc]
Explained in:
    book/reference/objectives.md
"""

from math import exp, factorial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import require_images, unit_rows
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["CC", "consecutive_loss", "correlation_loss", "gaussian_correlation"]


def consecutive_loss(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    r"""Product of the errors of each image and the next one in the batch.

    .. math:: L = \frac{1}{B - 1} \sum_{i=1}^{B-1} d_i \cdot d_{i+1}, \qquad d_i = |x^S_i - x^T_i|

    Raises:
        ValueError: If there are fewer than two images.

    Example:
        The errors are 1, 2 and 3:

        >>> consecutive_loss(torch.tensor([[1.0], [2.0], [3.0]]), torch.zeros(3, 1)).item()
        4.0
    """
    require_images("CC", len(student))
    errors = (student - teacher).abs()
    return (errors[:-1] * errors[1:]).sum() / (len(errors) - 1)


def gaussian_correlation(
    points: Float[Tensor, "batch dim"], gamma: float = 0.4, order: int = 2
) -> Float[Tensor, "batch batch"]:
    r"""Gaussian kernel of all pairs of unit vectors, as a Taylor series.

    .. math:: k(x, y) = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} (x \cdot y)^p
              \;\approx\; e^{-\gamma \lVert x - y \rVert^2}

    Args:
        points: Vectors of length 1; for others it is another kernel.
        gamma: :math:`\gamma`, the inverse squared width.
        order: :math:`P`, the highest power.

    Example:
        Orthogonal vectors have a squared distance of 2, and :math:`e^{-0.8} = 0.4493`:

        >>> gaussian_correlation(torch.eye(2)).round(decimals=4)[0, 1].item()
        0.44929999113082886
    """
    products = points @ points.T
    terms = [(2 * gamma) ** p / factorial(p) * products**p for p in range(order + 1)]
    return exp(-2 * gamma) * torch.stack(terms).sum(dim=0)


def correlation_loss(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    gamma: float = 0.4,
    order: int = 2,
) -> Float[Tensor, ""]:
    r"""Mean squared difference of the correlations of all pairs of directions, as in the paper.

    .. math:: L = \frac{1}{B^2} \sum_{i,j} \bigl( k(\hat x^S_i, \hat x^S_j) - k(\hat x^T_i, \hat x^T_j)
              \bigr)^2, \qquad \hat x = x / \lVert x \rVert_2

    with :func:`gaussian_correlation` for :math:`k`.
    """
    require_images("CC", len(student))
    return F.mse_loss(
        gaussian_correlation(unit_rows(student), gamma, order),
        gaussian_correlation(unit_rows(teacher), gamma, order),
    )


class CC(Objective):
    """Correlations of embedded features; the embeddings of *both* networks are linear maps that are trained.

    Args:
        pair: The two networks.
        student_feature: What is embedded for the student; maps are flattened.
        teacher_feature: The same for the teacher.
        dim: Width of the embeddings.
        variant: ``"benchmark"`` is :func:`consecutive_loss`, ``"taylor"`` is :func:`correlation_loss`.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, a batch has fewer than two images, or ``dim`` is not positive.

    Differs from:
        The default is the loss that the benchmark calls CC (HobbitLong/RepDistiller, distiller_zoo/CC.py,
        with the weight 0.02). It depends on the order of the batch, is not what the paper describes, and is
        zero when both embeddings are the same constant. torchdistill compares Taylor kernels as well, but
        neither normalises the embeddings nor squares the norm of the difference.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        dim: int = 128,
        variant: Literal["benchmark", "taylor"] = "benchmark",
    ) -> None:
        super().__init__()
        pair.require_teacher("CC")
        require_images("CC", pair.batch_size)
        if dim < 1:
            raise ValueError(f"an embedding has at least one dimension, got dim={dim}")
        shapes = pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.student_embedding = nn.Linear(shapes[0].numel(), dim)
        self.teacher_embedding = nn.Linear(shapes[1].numel(), dim)
        self.variant = variant

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        embedded = self.student_embedding(student[self.student_features[0]].flatten(1))
        target = self.teacher_embedding(teacher[self.teacher_features[0]].detach().flatten(1))
        return (consecutive_loss if self.variant == "benchmark" else correlation_loss)(embedded, target)
