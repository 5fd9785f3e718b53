"""Attention transfer (AT): the student looks where the teacher looks.

Reference:
    S. Zagoruyko, N. Komodakis. Paying More Attention to Attention: Improving the Performance of
    Convolutional Neural Networks via Attention Transfer. ICLR 2017, §3.1. [zagoruyko2017at]
Explained in:
    book/reference/objectives.md
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import common_stages, pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["AT", "attention_loss", "attention_map"]


def attention_map(
    feature: Float[Tensor, "batch channels height width"], power: float = 2.0
) -> Float[Tensor, "batch positions"]:
    r"""How strongly each position of a feature map responds, as a vector of length 1.

    .. math:: q = \frac{a}{\lVert a \rVert_2}, \qquad a_{hw} = \frac{1}{C} \sum_c |f_{chw}|^p

    A map without any response has no direction; its attention is 0 everywhere.

    Example:
        >>> attention_map(torch.tensor([[[[1.0, 0.0]], [[1.0, 2.0]]]])).round(decimals=4)
        tensor([[0.4472, 0.8944]])
    """
    responses = feature.square() if power == 2 else feature.abs().pow(power)
    return F.normalize(responses.mean(dim=1).flatten(1), dim=1)


def attention_loss(
    student: Float[Tensor, "batch student_channels student_height student_width"],
    teacher: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    power: float = 2.0,
    variant: Literal["benchmark", "paper"] = "benchmark",
) -> Float[Tensor, ""]:
    r"""Difference of two attention maps; channels may differ, and the larger map is averaged to the smaller.

    .. math:: L_\mathrm{benchmark} = \frac{1}{B H W} \sum_{b,h,w} (q^S_{bhw} - q^T_{bhw})^2,
              \qquad L_\mathrm{paper} = \frac{1}{B} \sum_b \lVert q^S_b - q^T_b \rVert_2

    Args:
        student: Gradients flow into this map.
        teacher: The target; no gradient flows into it.
        power: The exponent :math:`p` of :func:`attention_map`.
        variant: Which formula.

    Differs from:
        The benchmark (HobbitLong/RepDistiller, distiller_zoo/AT.py), and the authors' own code, average the
        squared difference over the positions, so that large maps weigh less. The paper's formula is the norm,
        not squared; its size is quite another (1.58 against 0.044 on the same random maps), and so is the
        weight that it needs. It is ``mode="paper"`` of torchdistill.
    """
    smaller = pool_to_smaller(student, teacher.detach())
    difference = attention_map(smaller[0], power) - attention_map(smaller[1], power)
    if variant == "paper":
        distances: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return distances.mean()
    return difference.square().mean()


class AT(Objective):
    """:func:`attention_loss`, added over the stages.

    Args:
        pair: The two networks.
        student_features: The student's maps. By default all stages: the first with the first, the second
            with the second, and so on; if one network has more stages, its last ones have no partner.
        teacher_features: The teacher's maps, in the same order; by default those of the same names.
        power: Exponent of the responses, at least 1.
        variant: The benchmark's squared difference, or the paper's norm.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, the features do not pair up or are not maps, or ``power`` is below
            1.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
        power: float = 2.0,
        variant: Literal["benchmark", "paper"] = "benchmark",
    ) -> None:
        super().__init__()
        if not power >= 1:
            raise ValueError(f"responses are raised to a power of at least 1, got {power}")
        maps = pair_maps(pair, "AT", student_features, teacher_features, default=common_stages(pair))
        self.student_features = tuple(names.student for names in maps)
        self.teacher_features = tuple(names.teacher for names in maps)
        self.power = power
        self.variant = variant

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        names = zip(self.student_features, self.teacher_features, strict=True)
        losses = [attention_loss(student[s], teacher[t], self.power, self.variant) for s, t in names]
        return torch.stack(losses).sum()
