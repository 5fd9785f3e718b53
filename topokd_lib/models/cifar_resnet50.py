"""ResNet-50 for 32×32 images: bottleneck blocks behind a 3×3 stem without pooling.

Reference:
    K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, Table 1.
    [he2016resnet]
Differs from:
    The paper's network for ImageNet begins with a 7×7 convolution and a max pooling, which would leave 8×8
    of a 32×32 image; the benchmark (HobbitLong/RepDistiller, models/resnetv2.py, ``ResNet50``) keeps the full
    resolution. Of the two places for a bottleneck's stride, both use the 3×3 convolution, as torchvision
    does. Parameter names equal the benchmark's. Not to be confused with the basic-block ResNets of
    :mod:`topokd_lib.models.cifar_resnet`, whose depths are 6·n + 2 as well.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, initialise_convolutions

__all__ = ["CifarResNet50"]


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; returns the sum *before* the closing ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return torch.as_tensor(out + self.shortcut(x))


class CifarResNet50(StagedModel):
    """Four stages of 3, 4, 6 and 3 bottlenecks.

    Features (32×32 input): ``stem`` 64×32×32, ``stage1`` 256×32×32, ``stage2`` 512×16×16, ``stage3``
    1024×8×8, ``stage4`` 2048×4×4, each stage also as ``.preact``, ``pooled`` 2048, ``cam`` classes×4×4.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.
    """

    def __init__(self, *, num_classes: int = 100, in_channels: int = 3, name: str = "resnet50") -> None:
        super().__init__(name, num_classes, stages=4)
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, blocks=3, stride=1)
        self.layer2 = _stage(256, 128, blocks=4, stride=2)
        self.layer3 = _stage(512, 256, blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, blocks=3, stride=2)
        self.linear = nn.Linear(2048, num_classes)
        initialise_convolutions(self)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", F.relu(self.bn1(self.conv1(images))))
        x = self._rectified_stage("stage1", self.layer1, x, taps)
        x = self._rectified_stage("stage2", self.layer2, x, taps)
        x = self._rectified_stage("stage3", self.layer3, x, taps)
        x = self._rectified_stage("stage4", self.layer4, x, taps)
        return self._classify(x, taps)

    @property
    def last_layer(self) -> nn.Linear:
        return self.linear

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        return {
            "stem": (self.conv1, self.bn1),
            "stage1": (self.layer1,),
            "stage2": (self.layer2,),
            "stage3": (self.layer3,),
            "stage4": (self.layer4,),
            "pooled": (),
        }

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(_closing_norm(stage) for stage in (self.layer1, self.layer2, self.layer3, self.layer4))


def _stage(in_channels: int, channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride)
    wide = channels * Bottleneck.expansion
    return nn.Sequential(first, *(Bottleneck(wide, channels, 1) for _ in range(blocks - 1)))


def _closing_norm(stage: nn.Sequential) -> nn.BatchNorm2d:
    last = stage[-1]
    assert isinstance(last, Bottleneck)
    return last.bn3


FAMILY = {"resnet50": partial(CifarResNet50, name="resnet50")}
