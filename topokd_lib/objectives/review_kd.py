"""ReviewKD: each stage of the teacher teaches the same stage of the student and all deeper ones.

Reference:
    P. Chen, S. Liu, H. Zhao, J. Jia. Distilling Knowledge via Knowledge Review. CVPR 2021. [chen2021reviewkd]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import common_stages, pair_maps
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["AttentionFusion", "ReviewKD", "hierarchical_loss"]

WIDEST = 512


def hierarchical_loss(
    student: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    r"""Mean squared difference of two maps at several resolutions: the map's own, and 4, 2, 1 cells per side.

    .. math:: L = \frac{\sum_{j \ge 0} 2^{-j} \, \operatorname{mse}(\operatorname{pool}_j f^S,
              \operatorname{pool}_j f^T)}{\sum_{j \ge 0} 2^{-j}}

    :math:`j = 0` is the map itself; then come those of 4, 2, 1 that are smaller than it, in this order. On a
    1×1 map the loss is the mean squared difference.

    Args:
        student: Gradients flow into this map.
        teacher: The target; no gradient flows into it.

    Example:
        The map differs by (1, −1, 1, −1), its mean not at all: (1 + 0/2) / (1 + 1/2).

        >>> student = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 1, 2, 2)
        >>> round(hierarchical_loss(student, torch.zeros(1, 1, 2, 2)).item(), 4)
        0.6667
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the fused map has shape {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}; build "
            f"the fusion for these two features"
        )
    target = teacher.detach()
    cells = [side for side in (4, 2, 1) if side < min(student.shape[2:])]
    losses = [F.mse_loss(student, target)]
    losses += [
        F.mse_loss(F.adaptive_avg_pool2d(student, side), F.adaptive_avg_pool2d(target, side))
        for side in cells
    ]
    weights = 0.5 ** torch.arange(len(losses), device=student.device, dtype=student.dtype)
    return (weights * torch.stack(losses)).sum() / weights.sum()


class AttentionFusion(nn.Module):
    r"""Mixes a map of the student with what the deeper ones left, and turns the mixture into a teacher's map.

    With :math:`u` the student's map in the middle channels and :math:`r` the residual of the next deeper
    fusion, scaled to the same size, two attention maps decide pixel by pixel:

    .. math:: u' = a \odot u + b \odot r, \qquad (a, b) = \operatorname{sigmoid}(\operatorname{conv}[u; r])

    The ABF module of the paper. The deepest fusion has no residual: :math:`u' = u`.

    Args:
        student_channels: Channels of the student's map.
        middle_channels: Channels of the mixture; the same in all fusions of a chain.
        teacher_channels: Channels of the teacher's map.
        fuse: Whether there is a deeper fusion.
    """

    def __init__(
        self, student_channels: int, middle_channels: int, teacher_channels: int, *, fuse: bool
    ) -> None:
        super().__init__()
        self.reduce = _normalised_convolution(student_channels, middle_channels, 1)
        self.attention = nn.Conv2d(2 * middle_channels, 2, 1) if fuse else None
        self.expand = _normalised_convolution(middle_channels, teacher_channels, 3)

    def forward(
        self,
        student: Float[Tensor, "batch student_channels height width"],
        residual: Float[Tensor, "batch middle_channels deep_height deep_width"] | None,
        size: tuple[int, int],
    ) -> tuple[
        Float[Tensor, "batch teacher_channels teacher_height teacher_width"],
        Float[Tensor, "batch middle_channels teacher_height teacher_width"],
    ]:
        """What is compared with the teacher's map, of height and width ``size``, and the next residual."""
        mixed = self.reduce(student)
        if self.attention is not None and residual is not None:
            residual = F.interpolate(residual, mixed.shape[2:], mode="nearest")
            attention = self.attention(torch.cat([mixed, residual], dim=1)).sigmoid()
            mixed = attention[:, :1] * mixed + attention[:, 1:] * residual
        mixed = F.interpolate(mixed, size, mode="nearest")
        return self.expand(mixed), mixed


class ReviewKD(Objective):
    """:func:`hierarchical_loss` of a chain of :class:`AttentionFusion`, from deep to shallow, added up.

    The chain begins with ``pooled`` as a 1×1 map and ends with the first stage.

    Args:
        pair: The two networks.
        student_features: The student's maps, from shallow to deep, without ``pooled``. By default all
            stages; if one network has more, its last ones have no partner.
        teacher_features: The teacher's maps, in the same order; by default its pre-activations.
        middle_channels: Channels of the mixtures; by default those of the student's ``pooled``, at most 512.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, the features do not pair up or are not maps, ``middle_channels``
            is not positive, or a batch holds a single image, which a 1×1 map cannot be normalised over.

    Differs from:
        The official code (dvlab-research/ReviewKD) lists channels and sizes of every network by hand; here
        the pair knows them. On ImageNet it reads the student's pre-activations
        (``student_features=("stage1.preact", …)``). Its warm-up counts epochs from 0, mdistiller's from 1;
        it belongs to the recipe (``warmup_epochs``), which counts from 1.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
        middle_channels: int | None = None,
    ) -> None:
        super().__init__()
        students = common_stages(pair) if student_features is None else student_features
        teachers = common_stages(pair, ".preact") if teacher_features is None else teacher_features
        maps = pair_maps(pair, "ReviewKD", students, teachers, default=())
        if pair.batch_size < 2:
            raise ValueError(
                f"ReviewKD normalises a 1×1 map over the images of a batch and needs at least 2, got "
                f"batch_size={pair.batch_size}"
            )
        (student_width,), (teacher_width,) = pair.shapes(student="pooled", teacher="pooled")
        middle = min(student_width, WIDEST) if middle_channels is None else middle_channels
        if middle < 1:
            raise ValueError(f"middle_channels must be at least 1, got {middle}")
        self.student_features = (*students, "pooled")
        self.teacher_features = (*teachers, "pooled")
        widths = [(names.student_shape[0], names.teacher_shape[0]) for names in reversed(maps)]
        self.fusions = nn.ModuleList(
            AttentionFusion(seen, middle, taught, fuse=level > 0)
            for level, (seen, taught) in enumerate([(student_width, teacher_width), *widths])
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        residual = None
        losses = []
        levels = zip(self.student_features[::-1], self.teacher_features[::-1], strict=True)
        for fusion, (seen, taught) in zip(self.fusions, levels, strict=True):
            target = _as_map(teacher[taught])
            fused, residual = fusion(_as_map(student[seen]), residual, tuple(target.shape[2:]))
            losses.append(hierarchical_loss(fused, target))
        return torch.stack(losses).sum()


def _normalised_convolution(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _as_map(feature: Tensor) -> Tensor:
    return feature[:, :, None, None] if feature.ndim == 2 else feature
