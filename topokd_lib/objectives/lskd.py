"""Logit standardisation (LSKD): compare what logits say, not how loudly they say it.

Reference:
    S. Sun, W. Ren, J. Li, R. Wang, X. Cao. Logit Standardization in Knowledge Distillation. CVPR 2024, §4.
    [sun2024lskd]
Explained in:
    book/reference/objectives.md
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.dkd import dkd_loss
from topokd_lib.objectives.kd import kd_loss
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["LSKD", "standardised_logits"]

EPSILON = 1e-7


def standardised_logits(logits: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
    r"""Each image's logits, shifted to mean 0 and scaled to standard deviation 1.

    .. math:: \hat z_c = \frac{z_c - \operatorname{mean}(z)}{s(z) + \epsilon}, \qquad
              s(z)^2 = \frac{1}{C - 1} \sum_c (z_c - \operatorname{mean}(z))^2, \qquad \epsilon = 10^{-7}

    Logits that do not differ by more than :math:`\epsilon` say nothing: they become 0, without gradient.

    Raises:
        ValueError: If there are fewer than three classes: two standardised logits are :math:`\pm 1/\sqrt 2`,
            whatever they were.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, 3.0], [10.0, 30.0, 50.0], [4.0, 4.0, 4.0]])
        >>> standardised_logits(logits).round(decimals=4)
        tensor([[-1.,  0.,  1.],
                [-1.,  0.,  1.],
                [ 0.,  0.,  0.]])
    """
    _require_three_classes(logits.shape[1])
    spread = logits.std(dim=1, keepdim=True)
    return torch.where(
        spread > EPSILON, (logits - logits.mean(dim=1, keepdim=True)) / (spread + EPSILON), 0.0
    )


class LSKD(Objective):
    r"""KD, or DKD, of standardised logits.

    .. math:: L(z^S, z^T) = L_\mathrm{base}(\hat z^S, \hat z^T)

    with :func:`standardised_logits` for :math:`\hat z`. A student of little capacity need not reach the
    teacher's range of logits; the loss does not change when its logits are all multiplied or shifted.

    Args:
        pair: The two networks; they need the same classes, at least three.
        temperature: :math:`\tau > 0`, now in standard deviations of the logits; 2 in most official recipes.
        base: :func:`~topokd_lib.objectives.kd_loss`, or :func:`~topokd_lib.objectives.dkd_loss` with its
            default weights.

    Raises:
        ValueError: If there is no teacher, its classes differ or are fewer than three, or the temperature is
            not positive.

    Differs from:
        Values and gradients are those of the official code (sunshangquan/logit-standardization-KD,
        distillers/KD.py and DKD.py, ``logit_stand=True``), but for logits that are all alike: there the
        gradient is divided by 1e-7. Its loss weight, 9 in most recipes, is the weight of the term.
    """

    def __init__(self, pair: Pair, *, temperature: float = 2.0, base: Literal["kd", "dkd"] = "kd") -> None:
        super().__init__()
        pair.require_same_classes("LSKD")
        _require_three_classes(pair.num_classes)
        if not temperature > 0:
            raise ValueError(f"the temperature divides the logits and must be positive, got {temperature}")
        self.temperature = temperature
        self.base = base

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        logits = standardised_logits(student.logits), standardised_logits(teacher.logits)
        if self.base == "dkd":
            return dkd_loss(*logits, batch.labels, self.temperature)
        return kd_loss(*logits, self.temperature)


def _require_three_classes(classes: int) -> None:
    if classes < 3:
        raise ValueError(
            f"LSKD needs at least 3 classes, got {classes}: standardised logits of two are ±1/√2, whatever "
            f"the network says"
        )
