"""ShuffleNet (version 1) for 32×32 images.

Reference:
    X. Zhang, X. Zhou, M. Lin, J. Sun. ShuffleNet: An Extremely Efficient Convolutional Neural Network for
    Mobile Devices. CVPR 2018. [zhang2018shufflenet]
Differs from:
    Shapes and parameter names are those of the benchmark (HobbitLong/RepDistiller, models/ShuffleNetv1.py,
    ``ShuffleV1``): three groups, a 1×1 convolution without pooling as stem, and a ReLU after the depthwise
    convolution, which the paper leaves out. The benchmark offers no normalisation before its stages' ReLU;
    it exists, so ``norm_before`` gives it. Pooling is global.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, channel_shuffle, last_norm

__all__ = ["CifarShuffleNetV1"]

GROUPS, STEM = 3, 24


class ShuffleUnit(nn.Module):
    """Grouped 1×1, depthwise 3×3 and grouped 1×1 convolution; returns what its closing ReLU receives.

    With a stride of 2 the averaged input is appended as channels, else it is added.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = out_channels - in_channels if stride == 2 else out_channels
        middle = branch // 4
        self.groups = 1 if in_channels == STEM else GROUPS
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, branch, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


class CifarShuffleNetV1(StagedModel):
    """Three stages of 4, 8 and 4 units, at half, quarter and eighth resolution.

    Features (32×32 input): ``stem`` 24×32×32, ``stage1`` 240×16×16, ``stage2`` 480×8×8, ``stage3`` 960×4×4,
    each stage also as ``.preact``, ``pooled`` 960, ``cam`` classes×4×4.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.
    """

    def __init__(self, *, num_classes: int = 100, in_channels: int = 3, name: str = "shufflenetv1") -> None:
        super().__init__(name, num_classes, stages=3)
        self.conv1 = nn.Conv2d(in_channels, STEM, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1 = _stage(STEM, 240, units=4)
        self.layer2 = _stage(240, 480, units=8)
        self.layer3 = _stage(480, 960, units=4)
        self.linear = nn.Linear(960, num_classes)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", F.relu(self.bn1(self.conv1(images))))
        x = self._rectified_stage("stage1", self.layer1, x, taps)
        x = self._rectified_stage("stage2", self.layer2, x, taps)
        x = self._rectified_stage("stage3", self.layer3, x, taps)
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
            "pooled": (),
        }

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return last_norm(self.layer1), last_norm(self.layer2), last_norm(self.layer3)


def _stage(in_channels: int, channels: int, *, units: int) -> nn.Sequential:
    first = ShuffleUnit(in_channels, channels, 2)
    return nn.Sequential(first, *(ShuffleUnit(channels, channels, 1) for _ in range(units - 1)))


FAMILY = {"shufflenetv1": partial(CifarShuffleNetV1, name="shufflenetv1")}
