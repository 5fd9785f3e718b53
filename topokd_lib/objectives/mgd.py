"""Masked generative distillation (MGD): from a part of its features the student has to make the teacher's.

Reference:
    Z. Yang, Z. Li, M. Shao, D. Shi, Z. Yuan, C. Yuan. Masked Generative Distillation. ECCV 2022.
    [yang2022mgd]
Explained in:
    book/reference/objectives.md
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import last_stage, pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["MGD", "MaskedGenerator", "generation_loss", "random_mask"]


def random_mask(
    maps: Float[Tensor, "batch channels height width"],
    masked: float,
    unit: Literal["channel", "position"] = "channel",
) -> Float[Tensor, "batch mask_channels mask_height mask_width"]:
    """Zeros with probability ``masked`` and ones, from PyTorch's generator of the maps' device.

    Args:
        maps: Only their shape, dtype and device matter.
        masked: Probability of a zero.
        unit: ``"channel"`` draws one value per image and channel, ``"position"`` one per image and pixel.

    Example:
        >>> random_mask(torch.ones(2, 8, 4, 4), 0.5).shape
        torch.Size([2, 8, 1, 1])
        >>> random_mask(torch.ones(2, 8, 4, 4), 0.5, "position").shape
        torch.Size([2, 1, 4, 4])
    """
    batch, channels, height, width = maps.shape
    shape = (batch, channels, 1, 1) if unit == "channel" else (batch, 1, height, width)
    return (torch.rand(shape, device=maps.device) >= masked).to(maps.dtype)


def generation_loss(
    generated: Float[Tensor, "batch channels height width"],
    teacher: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    r"""Squared difference of maps, added over channels and pixels, averaged over images.

    .. math:: L = \frac{1}{B} \sum_{b,c,h,w} (g_{bchw} - f^T_{bchw})^2

    It grows with the size of the map, and its weight has to shrink accordingly.

    Args:
        generated: What the student makes of the part of its features that it sees.
        teacher: The target; no gradient flows into it.

    Example:
        >>> generation_loss(torch.zeros(2, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]], [[[0.0, 1.0]]]])).item()
        3.0
    """
    if generated.shape != teacher.shape:
        raise ValueError(
            f"the generated map has shape {tuple(generated.shape)}, the teacher's {tuple(teacher.shape)}; "
            f"build the generator for these two features"
        )
    return (generated - teacher.detach()).square().sum() / len(generated)


class MaskedGenerator(nn.Module):
    """Aligns channels with a 1×1 convolution if they differ, masks, and generates with two 3×3 convolutions.

    Args:
        student_channels: Channels of the student's map.
        teacher_channels: Channels of the teacher's map.
    """

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        equal = student_channels == teacher_channels
        self.align = nn.Identity() if equal else nn.Conv2d(student_channels, teacher_channels, 1)
        self.generation = nn.Sequential(
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1),
        )

    def forward(
        self,
        student: Float[Tensor, "batch student_channels height width"],
        masked: float,
        unit: Literal["channel", "position"] = "channel",
    ) -> Float[Tensor, "batch teacher_channels height width"]:
        """The teacher's map as the student sees it through a fresh :func:`random_mask`."""
        aligned = self.align(student)
        return torch.as_tensor(self.generation(aligned * random_mask(aligned, masked, unit)))


class MGD(Objective):
    r""":func:`generation_loss` of a map of the student of which a random part is hidden.

    .. math:: L = \frac{1}{B} \lVert G(M \odot a(f^S)) - f^T \rVert^2

    with a trained alignment :math:`a`, a trained generator :math:`G`, and a mask :math:`M` that is drawn anew
    at every step. Masks come from PyTorch's generator, which training seeds for every epoch.

    Args:
        pair: The two networks.
        student_feature: The student's map; by default its last stage.
        teacher_feature: The teacher's map; by default its last stage.
        masked: Probability that a channel of an image is hidden, at least 0 and below 1; 0.15 in the official
            settings for classification.
        mask: ``"channel"`` as for classification, or ``"position"`` as for detection and segmentation.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ValueError: If there is no teacher, a feature is not a map, or ``masked`` is out of its range.

    Differs from:
        The official code (yzd-v/MGD) multiplies by 7e-5 inside; here that is the weight in a recipe, and it
        is meant for 512×7×7 maps. It needs maps of equal size; here the larger one is averaged, so that its
        detail is out of reach. It compares what the classifier averages. A wide ResNet normalises after its
        last stage, ShuffleNetV2 and MobileNetV2 convolve; there the default comes before.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str | None = None,
        teacher_feature: str | None = None,
        masked: float = 0.15,
        mask: Literal["channel", "position"] = "channel",
    ) -> None:
        super().__init__()
        pair.require_teacher("MGD")
        if not 0 <= masked < 1:
            raise ValueError(f"masked is a probability, at least 0 and below 1, got {masked}")
        (names,) = pair_maps(
            pair,
            "MGD",
            (student_feature or last_stage(pair.student_shapes),),
            (teacher_feature or last_stage(pair.teacher_shapes),),
            default=(),
        )
        self.student_features = (names.student,)
        self.teacher_features = (names.teacher,)
        self.masked = masked
        self.mask: Literal["channel", "position"] = mask
        self.generator = MaskedGenerator(names.student_shape[0], names.teacher_shape[0])

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        seen, target = pool_to_smaller(student[self.student_features[0]], teacher[self.teacher_features[0]])
        return generation_loss(self.generator(seen, self.masked, self.mask), target)
