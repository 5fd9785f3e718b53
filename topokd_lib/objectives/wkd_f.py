"""WKD-F: each channel of the last map is taken for a normal distribution, and distributions are compared.

Reference:
    J. Lv, H. Yang, P. Li. Wasserstein Distance Rivals Kullback–Leibler Divergence for Knowledge Distillation.
    NeurIPS 2024, §3.2. [lv2024wkd]
Explained in:
    book/reference/objectives.md
"""

from collections import OrderedDict
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import cosine_decay, pair_maps
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["WKDF", "cell_statistics", "gaussian_transport_loss"]

EPSILON = 1e-5
BOTTLENECK = 256


def cell_statistics(
    maps: Float[Tensor, "batch channels height width"], cells: int = 1
) -> tuple[Float[Tensor, "batch channels cells cells"], Float[Tensor, "batch channels cells cells"]]:
    r"""Mean and standard deviation of each channel in each cell of a grid.

    The variance is the unbiased one, and :math:`10^{-5}` is added to it before the root. Where the grid does
    not divide the map, cells overlap as in adaptive pooling.

    Example:
        >>> mean, deviation = cell_statistics(torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]]))
        >>> mean.item(), round(deviation.item(), 4)
        (2.0, 1.1547)
    """
    height, width = maps.shape[2:]
    if height % cells == 0 and width % cells == 0:
        blocks = maps.unflatten(3, (cells, -1)).unflatten(2, (cells, -1)).transpose(3, 4).flatten(4)
        variance, mean = torch.var_mean(blocks, dim=4)
    else:
        parts = [
            torch.var_mean(maps[:, :, rows, columns], dim=(2, 3))
            for rows in _intervals(height, cells)
            for columns in _intervals(width, cells)
        ]
        variance, mean = (
            torch.stack(values, dim=2).unflatten(2, (cells, cells)) for values in zip(*parts, strict=True)
        )
    return mean, (variance + EPSILON).sqrt()


def gaussian_transport_loss(
    student: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels teacher_height teacher_width"],
    mean_weight: float = 2.0,
    cells: int = 1,
) -> Float[Tensor, ""]:
    r"""Squared 2-Wasserstein distance of diagonal normal distributions, the means counting more.

    .. math:: L = \frac{1}{B g^2} \sum_{b, \text{cells}} \bigl( r \, \lVert \mu^S - \mu^T \rVert^2
              + \lVert \sigma^S - \sigma^T \rVert^2 \bigr)

    With :math:`r = 1` the bracket is the distance itself. Sizes of maps may differ: only statistics are
    compared.

    Args:
        student: The student's map in the teacher's channels.
        teacher: The target; no gradient flows into it.
        mean_weight: :math:`r`.
        cells: Cells per side, :math:`g`, each with a distribution of its own.

    Example:
        Constant maps differ in their means only: two channels, 2 · (1² + 1²).

        >>> gaussian_transport_loss(torch.ones(1, 2, 2, 2), torch.zeros(1, 2, 4, 4)).item()
        4.0
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"WKD-F compares channels of the same images: the student's map is {tuple(student.shape)}, the "
            f"teacher's {tuple(teacher.shape)}"
        )
    mean, deviation = cell_statistics(student, cells)
    target_mean, target_deviation = cell_statistics(teacher.detach(), cells)
    means = F.mse_loss(mean, target_mean, reduction="sum")
    deviations = F.mse_loss(deviation, target_deviation, reduction="sum")
    return (mean_weight * means + deviations) / (len(student) * cells**2)


class WKDF(Objective):
    r""":func:`gaussian_transport_loss` of the last maps, the student's through a projector.

    Args:
        pair: The two networks.
        student_feature: The student's map.
        teacher_feature: The teacher's map.
        projector: ``"conv"``, a 1×1 convolution with normalisation and ReLU, as on CIFAR-100; or
            ``"bottleneck"``, 1×1, 3×3 and 1×1 with 256 channels in between, as on ImageNet.
        mean_weight: :math:`r`, of the means beside the deviations; 4 in the official CIFAR-100 setting, 2 on
            ImageNet.
        cells: Cells per side; 1 on CIFAR-100, 4 on ImageNet.
        decay_from: Epoch, counted from 0, from which the loss falls to 0 as half a cosine; ``None`` keeps it.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ValueError: If there is no teacher, a feature is not a map or has too few pixels for the cells, or
            ``mean_weight`` is negative.

    Differs from:
        The official code (JiamingLv/WKD) leaves the exact layers of the bottleneck to mdistiller's
        ``ConvRegBottleNeck``; here each of its three convolutions is normalised and rectified, and has no
        bias, which the normalisation would take away again.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "last_map",
        teacher_feature: str = "last_map",
        projector: Literal["conv", "bottleneck"] = "conv",
        mean_weight: float = 2.0,
        cells: int = 1,
        decay_from: int | None = None,
    ) -> None:
        super().__init__()
        (maps,) = pair_maps(pair, "WKD-F", (student_feature,), (teacher_feature,), default=())
        sides = (*maps.student_shape[1:], *maps.teacher_shape[1:])
        if cells < 1 or min(part.stop - part.start for side in sides for part in _intervals(side, cells)) < 2:
            raise ValueError(
                f"WKD-F needs at least 2×2 pixels per cell: the student's map is "
                f"{sides[0]}×{sides[1]}, the teacher's {sides[2]}×{sides[3]}, and {cells}×{cells} cells were "
                f"asked for; choose fewer cells or a larger map"
            )
        if not mean_weight >= 0:
            raise ValueError(f"mean_weight must not be negative, got {mean_weight}")
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.mean_weight = mean_weight
        self.cells = cells
        self.decay_from = decay_from
        self.decay = 1.0
        width_in, width_out = maps.student_shape[0], maps.teacher_shape[0]
        layers = [(width_in, width_out, 1)]
        if projector == "bottleneck":
            layers = [(width_in, BOTTLENECK, 1), (BOTTLENECK, BOTTLENECK, 3), (BOTTLENECK, width_out, 1)]
        self.projector = nn.Sequential(*(_rectified_convolution(*layer) for layer in layers))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.decay = cosine_decay(epoch, epochs, self.decay_from)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        projected = self.projector(student[self.student_features[0]])
        target = teacher[self.teacher_features[0]]
        return self.decay * gaussian_transport_loss(projected, target, self.mean_weight, self.cells)


def _rectified_convolution(channels: int, out_channels: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(out_channels), relu=nn.ReLU()))


def _intervals(length: int, cells: int) -> list[slice]:
    """Where the cells of adaptive pooling begin and end."""
    return [slice(k * length // cells, -(-(k + 1) * length // cells)) for k in range(cells)]
