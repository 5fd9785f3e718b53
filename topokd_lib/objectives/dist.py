"""Distillation from a stronger teacher (DIST): correlate with the teacher instead of repeating it.

Reference:
    T. Huang, S. You, F. Wang, C. Qian, C. Xu. Knowledge Distillation from A Stronger Teacher. NeurIPS 2022,
    §3. [huang2022dist]
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

__all__ = ["DIST", "dist_loss", "pearson_correlation"]

EPSILON = 1e-8


def pearson_correlation(
    first: Float[Tensor, "rows columns"], second: Float[Tensor, "rows columns"]
) -> Float[Tensor, " rows"]:
    r"""Correlation of each row of ``first`` with the same row of ``second``.

    .. math:: r = \frac{\bar x \cdot \bar y}{\lVert \bar x \rVert \lVert \bar y \rVert + \epsilon},
              \qquad \bar x = x - \operatorname{mean}(x), \qquad \epsilon = 10^{-8}

    A row in which nothing varies correlates with nothing: 0, without gradient.

    Example:
        >>> x = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [5.0, 5.0, 5.0]])
        >>> y = torch.tensor([[20.0, 40.0, 60.0], [3.0, 2.0, 1.0], [1.0, 0.0, 2.0]])
        >>> pearson_correlation(x, y).round(decimals=4)
        tensor([ 1., -1.,  0.])
    """
    x, y = (rows - rows.mean(dim=1, keepdim=True) for rows in (first, second))
    lengths = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(y, dim=1)
    varies = (first.amax(dim=1) > first.amin(dim=1)) & (second.amax(dim=1) > second.amin(dim=1))
    return torch.where(varies, (x * y).sum(dim=1) / (lengths + EPSILON), 0.0)


def dist_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 4.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Float[Tensor, ""]:
    r"""How far probabilities are from a perfect correlation, for each image and for each class.

    .. math:: L = \tau^2 \Bigl[ \beta \Bigl( 1 - \frac{1}{B} \sum_b r(p^S_{b\cdot}, p^T_{b\cdot}) \Bigr)
              + \gamma \Bigl( 1 - \frac{1}{C} \sum_c r(p^S_{\cdot c}, p^T_{\cdot c}) \Bigr) \Bigr],
              \qquad p = \operatorname{softmax}(z / \tau)

    with :func:`pearson_correlation` for :math:`r`. The first part relates the classes of one image, the
    second the images of the batch by one class, so the loss depends on what else is in the batch.

    Args:
        student_logits: Gradients flow into these.
        teacher_logits: The target; no gradient flows into it.
        temperature: Divides both logits.
        inter_weight: :math:`\beta`, of the relation between classes.
        intra_weight: :math:`\gamma`, of the relation within a class.

    Raises:
        ValueError: If logits differ in shape, or there are fewer than two images.

    Differs from:
        Value and gradient are those of the official code (hunto/image_classification_sota,
        losses/dist_kd.py), but for a student whose probabilities are all alike: there the gradient is
        divided by 1e-8. The authors' code for segmentation (hunto/DIST_KD) has no temperature.

    Example:
        A student that ranks the classes as the teacher does costs little, however sure it is:

        >>> teacher = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> abs(dist_loss(teacher / 2, teacher).item()) < 1e-4
        True
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"DIST compares logits of the same images and classes: the student's are "
            f"{tuple(student_logits.shape)}, the teacher's {tuple(teacher_logits.shape)}"
        )
    require_images("DIST", len(student_logits))
    student = F.softmax(student_logits / temperature, dim=1)
    teacher = F.softmax(teacher_logits.detach() / temperature, dim=1)
    inter = 1 - pearson_correlation(student, teacher).mean()
    intra = 1 - pearson_correlation(student.T, teacher.T).mean()
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


class DIST(Objective):
    r""":func:`dist_loss` between student and teacher.

    Args:
        pair: The two networks; they need the same classes.
        temperature: :math:`\tau > 0`; 4 on CIFAR-100, 1 on ImageNet.
        inter_weight: Weight of the relation between the classes of an image.
        intra_weight: Weight of the relation between the images of a batch.

    Raises:
        ValueError: If there is no teacher, its classes differ, a batch has fewer than two images, the
            temperature is not positive, or a weight is negative.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        temperature: float = 4.0,
        inter_weight: float = 1.0,
        intra_weight: float = 1.0,
    ) -> None:
        super().__init__()
        pair.require_same_classes("DIST")
        require_images("DIST", pair.batch_size)
        if not temperature > 0:
            raise ValueError(f"the temperature divides the logits and must be positive, got {temperature}")
        if not (inter_weight >= 0 and intra_weight >= 0):
            raise ValueError(
                f"weights of the parts must not be negative, got inter_weight={inter_weight} and "
                f"intra_weight={intra_weight}"
            )
        self.temperature = temperature
        self.inter_weight = inter_weight
        self.intra_weight = intra_weight

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return dist_loss(
            student.logits, teacher.logits, self.temperature, self.inter_weight, self.intra_weight
        )
