"""Knowledge distillation: match the teacher's softened class probabilities.

Reference:
    G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. 2015, §2. [hinton2015kd]
Explained in:
    book/topology_in_distillation/topkd_digits.ipynb
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["KD", "kd_loss"]


def kd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    r"""Kullback–Leibler divergence from the teacher's to the student's softened probabilities.

    .. math:: L = \frac{\tau^2}{B} \sum_b \sum_c p^T_{bc} \log \frac{p^T_{bc}}{p^S_{bc}},
              \qquad p = \operatorname{softmax}(z / \tau)

    The factor :math:`\tau^2` keeps the size of the gradient independent of the temperature.

    Args:
        student_logits: Gradients flow into these.
        teacher_logits: The target; no gradient flows into it.
        temperature: Divides both logits; above 1 it brings out the small probabilities.

    Differs from:
        Some collections drop the factor (torchdistill's ``KDLoss`` with ``alpha=0``) or average over classes
        as well (``reduction="mean"``), which makes the loss ``classes`` times smaller. This is the form of
        the benchmark (HobbitLong/RepDistiller, distiller_zoo/KD.py): summed over classes, averaged over
        images, with the factor.

    Example:
        Equal logits cost nothing, and so does adding a constant to all of them:

        >>> import torch
        >>> teacher = torch.tensor([[2.0, 0.0, -1.0]])
        >>> round(kd_loss(teacher + 3.0, teacher).item(), 6)
        0.0
        >>> round(kd_loss(torch.zeros(1, 3), teacher, temperature=1.0).item(), 4)
        0.5743
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"KD compares logits of the same images and classes: the student's are "
            f"{tuple(student_logits.shape)}, the teacher's {tuple(teacher_logits.shape)}"
        )
    return temperature**2 * F.kl_div(
        F.log_softmax(student_logits / temperature, dim=1),
        F.log_softmax(teacher_logits.detach() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


class KD(Objective):
    r""":func:`kd_loss` between student and teacher.

    Args:
        pair: The two networks; they need the same classes.
        temperature: :math:`\tau > 0`; 4 in the benchmark and in TopKD.

    Raises:
        ValueError: If there is no teacher, its classes differ, or the temperature is not positive.
    """

    def __init__(self, pair: Pair, *, temperature: float = 4.0) -> None:
        super().__init__()
        pair.require_same_classes("KD")
        if not temperature > 0:
            raise ValueError(f"the temperature divides the logits and must be positive, got {temperature}")
        self.temperature = temperature

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return kd_loss(student.logits, teacher.logits, self.temperature)
