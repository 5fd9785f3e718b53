"""Overhaul of feature distillation (OFD): copy what the teacher passes on, ignore what its ReLU will drop.

Reference:
    B. Heo, J. Kim, S. Yun, H. Park, N. Kwak, J. Y. Choi. A Comprehensive Overhaul of Feature Distillation.
    ICCV 2019, §3. [heo2019ofd]
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

__all__ = ["OFD", "OverhaulConnector", "negative_margin", "partial_distance"]

SCALE = 1000
RARELY_NEGATIVE = 0.001
"""Below this probability of a negative value the margin is three standard deviations, as in official code."""


def negative_margin(
    scale: Float[Tensor, " channels"], shift: Float[Tensor, " channels"]
) -> Float[Tensor, " channels"]:
    r"""The mean of a channel where it is negative: what "negative" should look like to the student.

    After batch normalisation a channel is taken to be normal with mean :math:`\beta` and standard deviation
    :math:`s = |\gamma|`, so that, with the density :math:`\varphi` and distribution function :math:`\Phi` of
    the standard normal distribution,

    .. math:: m = \mathbb{E}[x \mid x < 0] = \beta - s \, \frac{\varphi(\beta / s)}{\Phi(-\beta / s)}

    and :math:`m = -3s` if :math:`\Phi(-\beta/s) \leq 0.001`. For :math:`s = 0`, where the official code
    divides by zero, the channel is constant and :math:`m = \min(\beta, 0)`.

    Args:
        scale: The normalisation's weight :math:`\gamma`.
        shift: Its bias :math:`\beta`.

    Example:
        A standard normal channel: −2φ(0).

        >>> negative_margin(torch.ones(1), torch.zeros(1)).item()
        -0.797884...
    """
    deviation, mean = scale.detach().double().abs(), shift.detach().double()
    standardised = mean / deviation.where(deviation > 0, 1.0)
    density = (-0.5 * standardised.square()).exp() / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-standardised)
    margin = torch.where(negative > RARELY_NEGATIVE, mean - deviation * density / negative, -3 * deviation)
    return margin.where(deviation > 0, mean.clamp(max=0)).to(scale.dtype)


def partial_distance(
    regressed: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    r"""Sum of squared differences :math:`(r - y)^2` where the target :math:`y` is positive or :math:`r > y`.

    A negative target will be cut off by the ReLU: a student that is below it already does the same.

    Example:
        Too high at a negative target counts, too low does not; at a positive target both do.

        >>> targets = torch.tensor([-1.0, -1.0, 1.0, 1.0]).view(1, 4, 1, 1)
        >>> students = torch.tensor([0.0, -9.0, 3.0, -1.0]).view(1, 4, 1, 1)
        >>> partial_distance(students, targets).item()
        9.0
    """
    counts = (target > 0) | (regressed > target)
    return F.mse_loss(regressed, target.where(counts, regressed.detach()), reduction="sum")


class OverhaulConnector(nn.Module):
    """Takes the student's pre-activations of one stage into the teacher's channels and measures the distance.

    Args:
        student_channels: Channels of the student's map.
        margin: :func:`negative_margin` of the teacher's channels; a buffer, never trained.
    """

    margin: Tensor

    def __init__(self, student_channels: int, margin: Float[Tensor, " channels"]) -> None:
        super().__init__()
        convolution = nn.Conv2d(student_channels, len(margin), 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.connector = nn.Sequential(convolution, nn.BatchNorm2d(len(margin)))
        self.register_buffer("margin", margin)

    def forward(
        self,
        student: Float[Tensor, "batch student_channels student_height student_width"],
        teacher: Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
    ) -> Float[Tensor, ""]:
        """:func:`partial_distance` to the teacher's map, raised to the margin where it is below."""
        seen, target = pool_to_smaller(student, teacher.detach())
        return partial_distance(self.connector(seen), target.maximum(self.margin[:, None, None]))


class OFD(Objective):
    r""":func:`partial_distance` of pre-activations, weighted by depth.

    .. math:: L = \frac{1}{1000 \, B} \sum_{i=1}^{n} 2^{-(n - i)} \, d_i(r_i(f^S_i), \max(f^T_i, m_i))

    with :math:`d` the partial distance, :math:`m` the margins and :math:`r` a trained 1×1 convolution with
    batch normalisation. The factor 1/1000 is part of the method, as in the official code; the weight in a
    recipe is 1.

    Args:
        pair: The two networks.
        student_features: The student's pre-activations. By default all stages: the first with the first, the
            second with the second, and so on; if one network has more stages, its last ones have no partner.
        teacher_features: The teacher's pre-activations, in the same order; by default of the same names.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, the features do not pair up or are not maps, or no single batch
            normalisation yields a teacher's feature (ShuffleNets).

    Differs from:
        The official code (clovaai/overhaul-distillation) leaves the teacher in training mode: it normalises
        by the batch, which its authors found better. ``Teacher(model, batch_statistics=True)`` does so too,
        without letting the running statistics drift; an ordinary teacher is in evaluation mode. The official
        code needs maps of equal size; here the larger one is averaged, as mdistiller does to the teacher's.
        Where the numbers of stages differ, mdistiller aligns features from the last stage and margins from
        the first; here one list of names decides.

        In a ResNet the normalisation belongs to the residual branch and the pre-activation is its output
        plus the shortcut, so that the margin describes the branch only. That is so in the benchmark, too.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        network = pair.require_teacher("OFD").model
        default = common_stages(pair, ".preact")
        maps = pair_maps(pair, "OFD", student_features, teacher_features, default=default)
        self.student_features = tuple(names.student for names in maps)
        self.teacher_features = tuple(names.teacher for names in maps)
        norms = [network.norm_before(name) for name in self.teacher_features]
        self.connectors = nn.ModuleList(
            OverhaulConnector(names.student_shape[0], negative_margin(norm.weight, norm.bias))
            for names, norm in zip(maps, norms, strict=True)
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        stages = zip(self.connectors, self.student_features, self.teacher_features, strict=True)
        distances = torch.stack([connect(student[s], teacher[t]) for connect, s, t in stages])
        depth = torch.arange(len(distances) - 1, -1, -1, device=distances.device)
        return (distances * 0.5**depth).sum() / (SCALE * len(student.logits))
