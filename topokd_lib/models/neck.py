r"""Layers that a method puts between a student's last map and its classifier.

Most methods leave the student alone. Two do not: NORM widens the last map to several copies of the teacher's
and merges the added layers into the classifier when training is over; SimKD projects the map into the
teacher's space and lets the teacher's classifier read it, for good. The word is that of object detection,
where a neck joins a backbone and its heads.

Reference:
    X. Liu, L. Li, C. Li, A. Yao. NORM: Knowledge Distillation via N-to-One Representation Matching.
    ICLR 2023. [liu2023norm]
    D. Chen, J.-P. Mei, H. Zhang, C. Wang, Y. Feng, C. Chen. Knowledge Distillation with the Reused Teacher
    Classifier. CVPR 2022. [chen2022simkd]
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps

__all__ = ["NToOneNeck", "Neck", "ProjectorNeck"]

BOTTLENECK = 2
"""The projector's middle is so many times narrower than the teacher; official code has no other value."""


class Neck(nn.Module, ABC):
    """What stands between the last map of a network and its mean.

    Attributes:
        merges: Whether :meth:`merge` can do away with it.
    """

    merges = False

    @abstractmethod
    def forward(
        self, maps: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch out_channels height width"]:
        """The map that is averaged; features on the way are offered to ``taps``."""

    @abstractmethod
    def steps(self) -> Mapping[str, tuple[nn.Module, ...]]:
        """Features in their order, ``last_map`` at the end, each with the modules since the one before."""

    def merge(self, last_layer: nn.Linear) -> nn.Linear:
        """A classifier that does in evaluation mode what this neck and ``last_layer`` do.

        Raises:
            TypeError: If no linear layer can.
        """
        raise TypeError(f"a {type(self).__name__} is not linear and cannot be merged into a classifier")


class NToOneNeck(Neck):
    r"""Widens a map to N times the teacher's channels and back, and adds the result to the map.

    .. math:: e = \operatorname{BN}_1(A_1 x), \qquad y = x + \operatorname{BN}_2(A_2 e)

    The wide map :math:`e` is the feature ``expanded``. Nothing in it is rectified, so in evaluation mode all
    of it is linear and commutes with the mean over pixels: :meth:`merge`.

    Args:
        channels: Of the student's last map.
        teacher_channels: Of the teacher's last map.
        parts: :math:`N`.
    """

    merges = True

    def __init__(self, channels: int, teacher_channels: int, parts: int = 8) -> None:
        super().__init__()
        if parts < 1:
            raise ValueError(f"an n-to-one neck needs at least one part, got parts={parts}")
        self.expand = _normalised_convolution(channels, parts * teacher_channels)
        self.contract = _normalised_convolution(parts * teacher_channels, channels)

    def forward(
        self, maps: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch channels height width"]:
        expanded: Tensor = taps.keep("expanded", self.expand(maps))
        return torch.as_tensor(maps + self.contract(expanded))

    def steps(self) -> Mapping[str, tuple[nn.Module, ...]]:
        return {"expanded": (self.expand,), "last_map": (self.contract,)}

    @torch.no_grad()
    def merge(self, last_layer: nn.Linear) -> nn.Linear:
        r"""The merged classifier.

        With :math:`\operatorname{BN}_k(A_k x) = W_k x + c_k` in evaluation mode:

        .. math:: W' = W (I + W_2 W_1), \qquad b' = b + W (W_2 c_1 + c_2)

        The products are taken in float64, so that the logits differ by rounding only.
        """
        (up, shift_up), (down, shift_down) = (_as_affine(part) for part in (self.expand, self.contract))
        weight = last_layer.weight.double()
        merged = nn.Linear(last_layer.in_features, last_layer.out_features).to(last_layer.weight)
        merged.weight.copy_(weight + weight @ down @ up)
        bias = 0 if last_layer.bias is None else last_layer.bias.double()
        merged.bias.copy_(bias + weight @ (down @ shift_up + shift_down))
        return merged.train(last_layer.training)


class ProjectorNeck(Neck):
    """Projects a map into the teacher's channels: 1×1, 3×3 and 1×1, each normalised and rectified.

    Args:
        channels: Of the student's last map.
        teacher_channels: Of the teacher's last map.
    """

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.channels, self.teacher_channels = channels, teacher_channels
        middle = max(teacher_channels // BOTTLENECK, 1)
        self.reduce = _normalised_convolution(channels, middle)
        self.mix = _normalised_convolution(middle, middle, size=3)
        self.project = _normalised_convolution(middle, teacher_channels)

    def forward(
        self, maps: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch teacher_channels height width"]:
        for layer in (self.reduce, self.mix, self.project):
            maps = F.relu(layer(maps))
        return maps

    def steps(self) -> Mapping[str, tuple[nn.Module, ...]]:
        return {"last_map": (self.reduce, self.mix, self.project)}


def _normalised_convolution(channels: int, out_channels: int, size: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out_channels, size, padding=size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(out_channels)))


def _as_affine(layer: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Matrix and shift of a 1×1 convolution with batch normalisation in evaluation mode, in float64."""
    convolution, norm = layer.conv, layer.bn
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = norm.bias.double() - norm.running_mean.double() * scale
    return convolution.weight.double().flatten(1) * scale[:, None], shift
