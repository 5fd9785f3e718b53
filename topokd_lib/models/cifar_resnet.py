"""ResNets for 32×32 images, with the shapes and parameter names of the distillation benchmark.

Reference:
    K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, §4.2.
    [he2016resnet]
Differs from:
    The paper's CIFAR networks shorten the identity by padding with zeros and are 16, 32, 64 wide without a
    wider stem; the benchmark (HobbitLong/RepDistiller, models/resnet.py) uses a 1×1 convolution with batch
    normalisation. Parameter names equal the benchmark's, so its checkpoints load. The benchmark pools over a
    fixed 8×8 window; here the pooling is global, which is the same on 32×32 images and allows other sizes.

    The official code of graph-based distillation (cadurosar/graph_kd) calls its networks WRN-28-w, but they
    are ResNets of this family with four blocks per stage. Here they are ``gkd_wrn_28_w``, and
    :func:`topokd_lib.models.translate_state` renames their parameters.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, initialise_convolutions

__all__ = ["CifarResNet"]


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; returns the sum *before* the closing ReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride != 1 or in_channels != channels
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return out + shortcut


class CifarResNet(StagedModel):
    """ResNet of depth 6·n + 2: three stages of n blocks, at full, half and quarter resolution.

    Features (32×32 input, default widths): ``stem`` 16×32×32, ``stage1`` 16×32×32, ``stage2`` 32×16×16,
    ``stage3`` 64×8×8, each stage also as ``.preact``, ``pooled`` 64, ``cam`` classes×8×8.

    Args:
        depth: 8, 14, 20, 32, 44, 56, 110 … (6·n + 2).
        widths: Channels of the stem and of the three stages.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.

    Raises:
        ValueError: If ``depth`` is not of the form 6·n + 2.
    """

    def __init__(
        self,
        depth: int,
        *,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
        name: str | None = None,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6·n + 2 (8, 14, 20, …), got {depth}")
        super().__init__(name or f"resnet{depth}", num_classes, stages=3)
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise_convolutions(self)

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
        return self.fc

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        return {
            "stem": (self.conv1, self.bn1),
            "stage1": (self.layer1,),
            "stage2": (self.layer2,),
            "stage3": (self.layer3,),
            "pooled": (),
        }

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(_closing_norm(stage) for stage in (self.layer1, self.layer2, self.layer3))


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _closing_norm(stage: nn.Sequential) -> nn.BatchNorm2d:
    last = stage[-1]
    assert isinstance(last, BasicBlock)
    return last.bn2


def _scaled(depth: int, factor: float) -> "partial[CifarResNet]":
    """All widths times ``factor``; the factor 4 widens the stem to 32 only, as in the benchmark."""
    stem = 32 if factor == 4 else int(16 * factor)
    widths = (stem, int(16 * factor), int(32 * factor), int(64 * factor))
    return partial(CifarResNet, depth, widths=widths, name=f"resnet{depth}x{factor:g}")


def _graph_kd(factor: float) -> "partial[CifarResNet]":
    """The networks of graph_kd: the stem is 16 wide whatever the factor."""
    widths = (16, int(16 * factor), int(32 * factor), int(64 * factor))
    return partial(CifarResNet, 26, widths=widths, name=f"gkd_wrn_28_{factor:g}")


FAMILY = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": _scaled(depth, 4.0) for depth in (8, 32)},
    **{f"resnet8x{factor:g}": _scaled(8, factor) for factor in (0.25, 0.5)},
    **{f"gkd_wrn_28_{factor:g}": _graph_kd(factor) for factor in (0.5, 1.0, 10.0)},
}
