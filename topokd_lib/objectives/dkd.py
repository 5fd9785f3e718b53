"""Decoupled knowledge distillation (DKD): how sure of the label, and what the other classes are like.

Reference:
    B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang. Decoupled Knowledge Distillation. CVPR 2022, §3. [zhao2022dkd]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.kd import kd_loss
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["DKD", "dkd_loss", "non_target_loss", "target_loss"]


def target_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    r"""KD of two probabilities: that of the label, and that of all other classes together (TCKD).

    .. math:: L = \frac{\tau^2}{B} \sum_b \Bigl( p^T_{by} \log \frac{p^T_{by}}{p^S_{by}}
              + (1 - p^T_{by}) \log \frac{1 - p^T_{by}}{1 - p^S_{by}} \Bigr),
              \qquad p = \operatorname{softmax}(z / \tau)

    Args:
        student_logits: Gradients flow into these.
        teacher_logits: The target; no gradient flows into it.
        labels: The class of each image.
        temperature: Divides both logits.

    Example:
        1/2 and 1/2 against 3/4 and 1/4, whatever the other classes are:

        >>> teacher = torch.tensor([[9.0, 2.0, 1.0]]).log()
        >>> round(
        ...     target_loss(torch.tensor([[2.0, 0.5, 1.5]]).log(), teacher, torch.tensor([0]), 1.0).item(), 4
        ... )
        0.1308
    """
    _require_other_classes(student_logits.shape[1])
    student = _label_or_not(student_logits / temperature, labels)
    teacher = _label_or_not(teacher_logits / temperature, labels)
    return temperature**2 * kd_loss(student, teacher, temperature=1.0)


def non_target_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    temperature: float = 4.0,
) -> Float[Tensor, ""]:
    r"""KD of the other classes among each other, as if the label did not exist (NCKD).

    .. math:: L = \frac{\tau^2}{B} \sum_b \sum_{c \neq y_b} q^T_{bc} \log \frac{q^T_{bc}}{q^S_{bc}},
              \qquad q_{bc} = \frac{p_{bc}}{1 - p_{by}}

    Arguments are those of :func:`target_loss`.

    Example:
        The logit of the label does not count:

        >>> teacher, label = torch.tensor([[7.0, 2.0, 1.0]]), torch.tensor([0])
        >>> non_target_loss(torch.tensor([[-5.0, 2.0, 1.0]]), teacher, label).item()
        0.0
    """
    _require_other_classes(student_logits.shape[1])
    return kd_loss(_others(student_logits, labels), _others(teacher_logits, labels), temperature)


def dkd_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    temperature: float = 4.0,
    target_weight: float = 1.0,
    non_target_weight: float = 8.0,
) -> Float[Tensor, ""]:
    r"""The two parts of KD with weights of their own.

    .. math:: L = \alpha \, L_\mathrm{TCKD} + \beta \, L_\mathrm{NCKD}

    KD is the same sum with the weight :math:`1 - p^T_{by}` on each image's second part: the surer the teacher
    is of the label, the less KD tells about the other classes.

    Args:
        student_logits: Gradients flow into these.
        teacher_logits: The target; no gradient flows into it.
        labels: The class of each image. They have to be certain: mixed or smoothed labels have no such parts.
        temperature: Divides both logits.
        target_weight: :math:`\alpha`, of :func:`target_loss`.
        non_target_weight: :math:`\beta`, of :func:`non_target_loss`.

    Raises:
        ValueError: If logits differ in shape, or there is only one class.

    Differs from:
        The official code (megvii-research/mdistiller, distillers/DKD.py) adds probabilities and takes the
        logarithm of the sum, which is infinite in float32 from a gap of some hundred between logits; it
        removes the label by subtracting 1000 from its logit. Here sums are taken of logarithms, and the label
        is left out. Where the official value is finite, it is the same. The official warm-up is not part of
        the loss: it is the field ``warmup_epochs`` of a recipe's term.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"DKD compares logits of the same images and classes: the student's are "
            f"{tuple(student_logits.shape)}, the teacher's {tuple(teacher_logits.shape)}"
        )
    arguments = (student_logits, teacher_logits, labels, temperature)
    return target_weight * target_loss(*arguments) + non_target_weight * non_target_loss(*arguments)


class DKD(Objective):
    r""":func:`dkd_loss` between student and teacher, with the labels of the batch.

    Args:
        pair: The two networks; they need the same classes.
        temperature: :math:`\tau > 0`; 4 on CIFAR-100, 1 on ImageNet.
        target_weight: Weight of what is said about the label; 1 in the paper.
        non_target_weight: Weight of what is said about the other classes; 8 by default, as in the official
            code, whose recipes choose between 2 and 8 for each pair of networks.

    Raises:
        ValueError: If there is no teacher, its classes differ, there is only one class, the temperature is
            not positive, or a weight is negative.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        temperature: float = 4.0,
        target_weight: float = 1.0,
        non_target_weight: float = 8.0,
    ) -> None:
        super().__init__()
        pair.require_same_classes("DKD")
        _require_other_classes(pair.num_classes)
        if not temperature > 0:
            raise ValueError(f"the temperature divides the logits and must be positive, got {temperature}")
        if not (target_weight >= 0 and non_target_weight >= 0):
            raise ValueError(
                f"weights of the parts must not be negative, got target_weight={target_weight} and "
                f"non_target_weight={non_target_weight}"
            )
        self.temperature = temperature
        self.target_weight = target_weight
        self.non_target_weight = non_target_weight

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return dkd_loss(
            student.logits,
            teacher.logits,
            batch.labels,
            self.temperature,
            self.target_weight,
            self.non_target_weight,
        )


def _others(
    values: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "batch others"]:
    """Each row without the entry of its label."""
    numbers = torch.arange(values.shape[1] - 1, device=values.device)
    return values.gather(1, numbers + (numbers >= labels[:, None]))


def _label_or_not(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Float[Tensor, "batch 2"]:
    """Logarithms of the probabilities of the label and of all other classes together."""
    logs = F.log_softmax(logits, dim=1)
    return torch.stack([logs.gather(1, labels[:, None])[:, 0], _others(logs, labels).logsumexp(dim=1)], dim=1)


def _require_other_classes(classes: int) -> None:
    if classes < 2:
        raise ValueError(
            f"DKD tells the label from other classes and needs at least 2 classes, got {classes}"
        )
