"""Variational information distillation (VID): keep the information that the student has on the teacher high.

Reference:
    S. Ahn, S. X. Hu, A. Damianou, N. D. Lawrence, Z. Dai. Variational Information Distillation for
    Knowledge Transfer. CVPR 2019, §2. [ahn2019vid]
Explained in:
    book/reference/objectives.md
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import common_stages, pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["VID", "VariationalRegressor", "variational_loss"]

SMALLEST_VARIANCE = 1e-5


def variational_loss(
    mean: Float[Tensor, "batch channels height width"],
    variance: Float[Tensor, " channels"],
    teacher: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    r"""Negative logarithm of a Gaussian density at the teacher's map, without its constant.

    .. math:: L = \frac{1}{B C H W} \sum_{b,c,h,w} \frac{1}{2}
              \left( \frac{(f^T_{bchw} - \mu_{bchw})^2}{\sigma_c^2} + \log \sigma_c^2 \right)

    Its mean bounds the conditional entropy of the teacher's feature given the student's from above, up to the
    constant; lowering it raises a lower bound of their mutual information. It may be negative.

    Args:
        mean: What the student predicts.
        variance: One positive variance per channel.
        teacher: The target; no gradient flows into it.

    Example:
        Off by 2 at variance 4: (4/4 + log 4) / 2.

        >>> mean, variance = torch.zeros(1, 1, 1, 1), torch.tensor([4.0])
        >>> round(variational_loss(mean, variance, torch.full((1, 1, 1, 1), 2.0)).item(), 4)
        1.1931
    """
    per_channel = (mean - teacher.detach()).square().mean(dim=(0, 2, 3))
    return 0.5 * (per_channel / variance + variance.log()).mean()


class VariationalRegressor(nn.Module):
    r"""Predicts the distribution of one map of the teacher: a mean per position, a variance per channel.

    The mean comes from the student's map by three 1×1 convolutions without bias, with ReLUs between. The
    variance is :math:`\sigma_c^2 = \operatorname{softplus}(\alpha_c) + 10^{-5}` with a trained
    :math:`\alpha_c`.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
        initial_variance: Variance before training.
    """

    def __init__(self, student_channels: int, teacher_channels: int, initial_variance: float = 5.0) -> None:
        super().__init__()
        self.regressor = nn.Sequential(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        softplus = initial_variance - SMALLEST_VARIANCE
        start = softplus + math.log(-math.expm1(-softplus))  # the inverse of softplus
        self.log_scale = nn.Parameter(torch.full((teacher_channels,), start))

    @property
    def variance(self) -> Float[Tensor, " channels"]:
        """The present variance of each channel."""
        return F.softplus(self.log_scale) + SMALLEST_VARIANCE

    def forward(
        self,
        student: Float[Tensor, "batch student_channels student_height student_width"],
        teacher: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    ) -> Float[Tensor, ""]:
        """:func:`variational_loss` of the teacher's map; the larger map is averaged to the smaller first."""
        seen, target = pool_to_smaller(student, teacher)
        return variational_loss(self.regressor(seen), self.variance, target)


class VID(Objective):
    """:func:`variational_loss`, added over the stages.

    Args:
        pair: The two networks.
        student_features: The student's maps. By default all stages: the first with the first, the second
            with the second, and so on; if one network has more stages, its last ones have no partner.
        teacher_features: The teacher's maps, in the same order; by default those of the same names.
        initial_variance: Variance of every channel before training; 5 in the benchmark.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, the features do not pair up or are not maps, or the variance is
            not above 1e-5.

    Differs from:
        The benchmark (HobbitLong/RepDistiller, distiller_zoo/VID.py) writes log(1 + exp(α)), which overflows
        for large α; the value is the same. mdistiller keeps α in a plain list, so that its variances are
        never trained and the loss is a fixed multiple of the squared error, plus a constant.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
        initial_variance: float = 5.0,
    ) -> None:
        super().__init__()
        if not initial_variance > SMALLEST_VARIANCE:
            raise ValueError(
                f"initial_variance must be above {SMALLEST_VARIANCE}, the smallest variance that the "
                f"prediction can have, got {initial_variance}"
            )
        maps = pair_maps(pair, "VID", student_features, teacher_features, default=common_stages(pair))
        self.student_features = tuple(names.student for names in maps)
        self.teacher_features = tuple(names.teacher for names in maps)
        self.regressors = nn.ModuleList(
            VariationalRegressor(names.student_shape[0], names.teacher_shape[0], initial_variance)
            for names in maps
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        stages = zip(self.regressors, self.student_features, self.teacher_features, strict=True)
        return torch.stack([regress(student[s], teacher[t]) for regress, s, t in stages]).sum()
