"""Neuron selectivity transfer (NST): the student's channels fire at the same places as the teacher's.

Reference:
    Z. Huang, N. Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017, §4.
    [huang2017nst]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import common_stages, pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["NST", "selectivity_loss"]


def selectivity_loss(
    student: Float[Tensor, "batch student_channels student_height student_width"],
    teacher: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
) -> Float[Tensor, ""]:
    r"""Squared maximum mean discrepancy of two sets of channels, with the kernel :math:`k(x,y) = (x^T y)^2`.

    A channel, flattened and scaled to length 1, is a point in the space of positions; an image gives one such
    set per network. With :math:`C_S` and :math:`C_T` channels,

    .. math:: L = \frac{1}{B} \sum_b \Bigl[ \frac{1}{C_T^2} \sum_{c,d} k(t_c, t_d)
              + \frac{1}{C_S^2} \sum_{c,d} k(s_c, s_d) - \frac{2}{C_S C_T} \sum_{c,d} k(s_c, t_d) \Bigr]

    which is :math:`\lVert \frac{1}{C_S} \sum_c s_c s_c^T - \frac{1}{C_T} \sum_d t_d t_d^T \rVert^2`: the sets
    are compared by which positions fire together. Each sum is computed through the smaller of its two forms.

    Args:
        student: Gradients flow into this map; the larger of the two maps is averaged to the smaller.
        teacher: The target; no gradient flows into it.

    Differs from:
        The paper leaves the choice of the kernel open; this one is that of the benchmark
        (HobbitLong/RepDistiller, distiller_zoo/NST.py), which computes the same number but keeps a product of
        size batch × channels² × positions in memory.

    Example:
        One channel each, at different positions: 1 + 1 − 2·0.

        >>> selectivity_loss(torch.tensor([[[[3.0, 0.0]]]]), torch.tensor([[[[0.0, 5.0]]]])).item()
        2.0
    """
    smaller = pool_to_smaller(student, teacher.detach())
    s, t = (F.normalize(feature.flatten(2), dim=2) for feature in smaller)
    return _mean_kernel(t, t) + _mean_kernel(s, s) - 2 * _mean_kernel(s, t)


def _mean_kernel(
    x: Float[Tensor, "batch channels1 positions"], y: Float[Tensor, "batch channels2 positions"]
) -> Float[Tensor, ""]:
    """Mean of the kernel over images and pairs of channels, through the smaller Gram matrices."""
    if x.shape[1] * y.shape[1] <= x.shape[2] ** 2:
        return torch.bmm(x, y.mT).square().mean()
    together = torch.bmm(x.mT, x) * torch.bmm(y.mT, y)
    return together.sum(dim=(1, 2)).mean() / (x.shape[1] * y.shape[1])


class NST(Objective):
    """:func:`selectivity_loss`, added over the stages.

    Args:
        pair: The two networks.
        student_features: The student's maps. By default all stages: the first with the first, the second
            with the second, and so on; if one network has more stages, its last ones have no partner.
        teacher_features: The teacher's maps, in the same order; by default those of the same names.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, or the features do not pair up or are not maps.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        maps = pair_maps(pair, "NST", student_features, teacher_features, default=common_stages(pair))
        self.student_features = tuple(names.student for names in maps)
        self.teacher_features = tuple(names.teacher for names in maps)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        names = zip(self.student_features, self.teacher_features, strict=True)
        return torch.stack([selectivity_loss(student[s], teacher[t]) for s, t in names]).sum()
