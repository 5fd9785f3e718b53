"""ShuffleNet (version 2) for 32×32 images.

Reference:
    N. Ma, X. Zhang, H.-T. Zheng, J. Sun. ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture
    Design. ECCV 2018. [ma2018shufflenetv2]
Differs from:
    Shapes and parameter names are those of the benchmark (HobbitLong/RepDistiller, models/ShuffleNetv2.py,
    ``ShuffleV2``, width 1): a 1×1 convolution without pooling as stem. The benchmark takes a stage's
    pre-activation before the closing channel shuffle and the stage after it, so that their channels do not
    correspond; here both are shuffled, and ``stageK = relu(stageK.preact)`` holds. Half of those channels
    pass the last unit untouched, so they are not the output of one batch normalisation and ``norm_before``
    refuses. Pooling is global.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, channel_shuffle

__all__ = ["CifarShuffleNetV2"]


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half are convolved; returns what the closing ReLU receives, shuffled.

    The passing half was rectified before, so a ReLU over all channels leaves it as it is.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passing, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out))
        return channel_shuffle(torch.cat([passing, out], dim=1), 2)


class DownsamplingUnit(nn.Module):
    """Two branches of stride 2, side by side; returns what the closing ReLU receives, shuffled."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn5(self.conv5(self.bn4(self.conv4(right))))
        return channel_shuffle(torch.cat([left, right], dim=1), 2)


class CifarShuffleNetV2(StagedModel):
    """Three stages of 4, 8 and 4 units, at half, quarter and eighth resolution.

    Features (32×32 input): ``stem`` 24×32×32, ``stage1`` 116×16×16, ``stage2`` 232×8×8, ``stage3`` 464×4×4,
    each stage also as ``.preact``, ``pooled`` 1024, ``cam`` classes×4×4.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.
    """

    def __init__(self, *, num_classes: int = 100, in_channels: int = 3, name: str = "shufflenetv2") -> None:
        super().__init__(name, num_classes, stages=3)
        self.conv1 = nn.Conv2d(in_channels, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = _stage(24, 116, units=4)
        self.layer2 = _stage(116, 232, units=8)
        self.layer3 = _stage(232, 464, units=4)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", F.relu(self.bn1(self.conv1(images))))
        x = self._rectified_stage("stage1", self.layer1, x, taps)
        x = self._rectified_stage("stage2", self.layer2, x, taps)
        x = self._rectified_stage("stage3", self.layer3, x, taps)
        return self._classify(F.relu(self.bn2(self.conv2(x))), taps)

    @property
    def last_layer(self) -> nn.Linear:
        return self.linear

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        return {
            "stem": (self.conv1, self.bn1),
            "stage1": (self.layer1,),
            "stage2": (self.layer2,),
            "stage3": (self.layer3,),
            "pooled": (self.conv2, self.bn2),
        }

    def stage_norms(self) -> tuple[None, ...]:
        return None, None, None


def _stage(in_channels: int, channels: int, *, units: int) -> nn.Sequential:
    first = DownsamplingUnit(in_channels, channels)
    return nn.Sequential(first, *(ShuffleUnit(channels) for _ in range(units - 1)))


FAMILY = {"shufflenetv2": partial(CifarShuffleNetV2, name="shufflenetv2")}
