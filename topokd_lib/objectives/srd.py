"""Simple recipe distillation (SRD): a linear projector, normalisation by the batch, and a logarithm.

Reference:
    R. Miles, K. Mikolajczyk. Understanding the Role of the Projector in Knowledge Distillation. AAAI 2024.
    [miles2024srd]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import average_pixels, require_images
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["SRD", "log_distance_loss", "standardise_channels"]

EPSILON = 1e-4


def standardise_channels(feature: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    r"""Each channel without the mean and the variance of the batch, :math:`(f - \mu) / \sqrt{v + 10^{-4}}`.

    It is batch normalisation without trained scale and shift; a constant channel becomes 0.

    Example:
        >>> standardise_channels(torch.tensor([[3.0], [7.0]]))
        tensor([[-1.0000],
                [ 1.0000]])
    """
    variance, mean = torch.var_mean(feature, dim=0, correction=0)
    return (feature - mean) * (variance + EPSILON).rsqrt()


def log_distance_loss(
    student: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"], exponent: float = 4.0
) -> Float[Tensor, ""]:
    r"""Logarithm of the summed powers of the differences of standardised features.

    .. math:: L = \log \sum_{b,i} \left| \tilde f^S_{bi} - \tilde f^T_{bi} \right|^\alpha
              = \alpha \log \lVert \tilde f^S - \tilde f^T \rVert_\alpha

    A large :math:`\alpha` looks at the largest differences. The logarithm takes away the scale: halving all
    differences lowers the loss by :math:`\alpha \log 2`, however small they are, so the gradient does not
    fade as the student comes closer. Batch size and width only add a constant, and the loss may be negative.

    Args:
        student: The student's features in the teacher's space; at least two images.
        teacher: The teacher's features; no gradient flows into them.
        exponent: :math:`\alpha \geq 1`.

    Differs from:
        Where student and teacher are equal, official code has −∞ and a gradient of NaN. Here the sum is at
        least the smallest normal number of its type, and below it there is no gradient.

    Example:
        Opposite signs differ by 2 twice, log(2⁴ + 2⁴) = 3.466, if it were not for the 1e-4.

        >>> student = torch.tensor([[1.0], [-1.0]])
        >>> round(log_distance_loss(student, -student).item(), 4)
        3.4655
    """
    require_images("SRD", len(student))
    difference = standardise_channels(student) - standardise_channels(teacher.detach())
    total = difference.abs().pow(exponent).sum()
    return total.clamp(min=torch.finfo(total.dtype).tiny).log()


class SRD(Objective):
    """:func:`log_distance_loss` of pooled features; the student's go through a trained linear map.

    The published recipe adds it with weight 2 to cross-entropy and to :class:`~topokd_lib.objectives.KD` at
    temperature 1.

    Args:
        pair: The two networks.
        student_feature: The student's feature; maps are averaged over their pixels.
        teacher_feature: The teacher's, likewise.
        exponent: Power of the differences; 4 in the published recipe.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, a batch has fewer than two images, or the exponent is below 1.

    Differs from:
        Official code (roymiles/Simple-Recipe-Distillation, OurDistillationLoss; torchdistill's ``SRDLoss``
        holds the same) gives the projector a bias, which the normalisation takes out again; here it has
        none. Official code has weight 2 and the divergence of the logits inside the loss.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        exponent: float = 4.0,
    ) -> None:
        super().__init__()
        pair.require_teacher("SRD")
        require_images("SRD", pair.batch_size)
        if not exponent >= 1:
            raise ValueError(
                f"the exponent must be at least 1, or equal features have no gradient, got {exponent}"
            )
        shapes = pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.exponent = exponent
        self.projector = nn.Linear(shapes[0][0], shapes[1][0], bias=False)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        projected = self.projector(average_pixels(student[self.student_features[0]]))
        taught = average_pixels(teacher[self.teacher_features[0]])
        return log_distance_loss(projected, taught, self.exponent)
