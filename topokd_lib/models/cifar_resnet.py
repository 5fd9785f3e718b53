"""ResNets for 32×32 images, with the shapes and parameter names of the distillation benchmark.

Reference:
    K. He, X. Zhang, S. Ren, J. Sun. Deep Residual Learning for Image Recognition. CVPR 2016, §4.2.
    [he2016resnet]
Differs from:
    The paper's CIFAR networks shorten the identity by padding with zeros and are 16, 32, 64 wide without a
    wider stem; the benchmark (HobbitLong/RepDistiller, models/resnet.py) uses a 1×1 convolution with batch
    normalisation. Parameter names equal the benchmark's, so its checkpoints load. The benchmark pools over a
    fixed 8×8 window; here the pooling is global, which is the same on 32×32 images and allows other sizes.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import require_feature
from topokd_lib.models.base import FeatureModel, Taps

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


class CifarResNet(FeatureModel):
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

    feature_names = (
        "stem",
        "stage1.preact",
        "stage1",
        "stage2.preact",
        "stage2",
        "stage3.preact",
        "stage3",
        "pooled",
        "cam",
    )

    def __init__(
        self,
        depth: int,
        *,
        widths: tuple[int, int, int, int] = (16, 16, 32, 64),
        num_classes: int = 100,
        in_channels: int = 3,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has depth 6·n + 2 (8, 14, 20, …), got {depth}")
        self.name = name or f"resnet{depth}"
        self.num_classes = num_classes
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = _stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = _stage(widths[2], widths[3], blocks, stride=2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", F.relu(self.bn1(self.conv1(images))))
        for name, blocks in zip(("stage1", "stage2", "stage3"), self._stages(), strict=True):
            for block in blocks:
                preact = block(x)
                x = F.relu(preact)
            taps.keep(f"{name}.preact", preact)
            taps.keep(name, x)
        if "cam" in taps:
            taps.keep("cam", F.conv2d(x, self.fc.weight[:, :, None, None], self.fc.bias))
        pooled = taps.keep("pooled", x.mean(dim=(2, 3)))
        return torch.as_tensor(self.fc(pooled))

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    def modules_up_to(self, name: str) -> tuple[nn.Module, ...]:
        require_feature("model", self.name, name, self.feature_names)
        order = ("stem", "stage1", "stage2", "stage3")
        stage = name.removesuffix(".preact")
        reached = order.index(stage) if stage in order else 3
        modules = (self.conv1, self.bn1, *self._stages()[:reached])
        return (*modules, self.fc) if name == "cam" else modules

    def norm_before(self, name: str) -> nn.BatchNorm2d:
        require_feature("model", self.name, name, self.feature_names)
        if not name.endswith(".preact"):
            raise ValueError(
                f"{self.name}: {name!r} is not a batch normalisation's output; "
                f"ask for 'stage1.preact', 'stage2.preact' or 'stage3.preact'"
            )
        last = self._stages()[int(name[len("stage")]) - 1][-1]
        assert isinstance(last, BasicBlock)
        return last.bn2

    def _stages(self) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
        return self.layer1, self.layer2, self.layer3


def _stage(in_channels: int, channels: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


def _scaled(depth: int, factor: float) -> "partial[CifarResNet]":
    """All widths times ``factor``; the factor 4 widens the stem to 32 only, as in the benchmark."""
    stem = 32 if factor == 4 else int(16 * factor)
    widths = (stem, int(16 * factor), int(32 * factor), int(64 * factor))
    return partial(CifarResNet, depth, widths=widths, name=f"resnet{depth}x{factor:g}")


FAMILY = {
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": _scaled(depth, 4.0) for depth in (8, 32)},
    **{f"resnet8x{factor:g}": _scaled(8, factor) for factor in (0.25, 0.5)},
}
