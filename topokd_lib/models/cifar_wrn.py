"""Wide ResNets for 32×32 images: pre-activation blocks, so stages end in a sum and not in a ReLU.

Reference:
    S. Zagoruyko, N. Komodakis. Wide Residual Networks. BMVC 2016. [zagoruyko2016wrn]
Differs from:
    Shapes, initialisation and parameter names are those of the benchmark (HobbitLong/RepDistiller,
    models/wrn.py) without its dropout, which no published table uses. The benchmark makes a stage's
    pre-activation by applying the next stage's first batch normalisation a second time, which in training
    updates its running statistics twice; here it is the tensor on which that stage works anyway. Pooling is
    global.

    The wide ResNets of the topology-guided distillation code (jeunsom/TGD, WideResNet.py) are the same
    networks under other parameter names, and for ten classes only;
    :func:`topokd_lib.models.translate_state` renames them. Its second teacher, which sees
    persistence images, is ``create_model("wrn_16_3", num_classes=10, in_channels=6)``.
"""

from functools import partial
from itertools import chain
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, initialise_convolutions

__all__ = ["CifarWideResNet"]


class PreactivationBlock(nn.Module):
    """Normalisation and ReLU come before each convolution.

    The network applies ``bn1`` itself: its output is also the pre-activation of the stage before.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(in_channels, channels, 1, stride, bias=False) if in_channels != channels else None
        )

    def forward(self, x: Tensor, activated: Tensor) -> Tensor:
        """The next residual sum from the last one and ``activated = relu(bn1(x))``."""
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return out + shortcut


class Stage(nn.Module):
    """Some blocks in a row, under the benchmark's name ``layer``."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        inputs = (in_channels, *[channels] * (blocks - 1))
        strides = (stride, *[1] * (blocks - 1))
        self.layer = nn.ModuleList(
            PreactivationBlock(width, channels, step) for width, step in zip(inputs, strides, strict=True)
        )

    def blocks(self) -> list[PreactivationBlock]:
        """The blocks, with their type."""
        return cast("list[PreactivationBlock]", list(self.layer))


class CifarWideResNet(StagedModel):
    """Wide ResNet of depth 6·n + 4: three stages of n blocks, at full, half and quarter resolution.

    Features (32×32 input, ``widen_factor`` k): ``stem`` 16×32×32, ``stage1`` 16k×32×32, ``stage2``
    32k×16×16, ``stage3`` 64k×8×8, each stage also as ``.preact``, ``pooled`` 64k, ``cam`` classes×8×8.
    ``stem`` and stages are raw sums with negative values; see ``stage_ending`` in
    :class:`~topokd_lib.models.FeatureModel`.

    Args:
        depth: 16, 22, 28, 40 … (6·n + 4).
        widen_factor: Width of the stages in units of 16, 32, 64 channels; the stem is 16 wide.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.

    Raises:
        ValueError: If ``depth`` is not of the form 6·n + 4.
    """

    def __init__(
        self,
        depth: int,
        widen_factor: int,
        *,
        num_classes: int = 100,
        in_channels: int = 3,
        name: str | None = None,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"a CIFAR wide ResNet has depth 6·n + 4 (10, 16, 22, …), got {depth}")
        super().__init__(name or f"wrn_{depth}_{widen_factor}", num_classes, stages=3, stage_ending="sum")
        blocks = (depth - 4) // 6
        widths = (16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = Stage(16, widths[0], blocks, stride=1)
        self.block2 = Stage(widths[0], widths[1], blocks, stride=2)
        self.block3 = Stage(widths[1], widths[2], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], num_classes)
        nn.init.zeros_(self.fc.bias)
        initialise_convolutions(self)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", self.conv1(images))
        stages = {
            "stage1": self.block1.blocks(),
            "stage2": self.block2.blocks(),
            "stage3": self.block3.blocks(),
        }
        norms = iter([*(block.bn1 for block in chain(*stages.values())), self.bn1])
        preact = next(norms)(x)
        for name, blocks in stages.items():
            for block in blocks:
                x = block(x, F.relu(preact))
                preact = next(norms)(x)
            taps.keep(name, x)
            taps.keep(f"{name}.preact", preact)
        return self._classify(F.relu(preact), taps)

    @property
    def last_layer(self) -> nn.Linear:
        return self.fc

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        return {
            "stem": (self.conv1,),
            "stage1": (self.block1,),
            "stage2": (self.block2,),
            "stage3": (self.block3,),
            "pooled": (self.bn1,),
        }

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return self.block2.blocks()[0].bn1, self.block3.blocks()[0].bn1, self.bn1


FAMILY = {
    f"wrn_{depth}_{factor}": partial(CifarWideResNet, depth, factor)
    for depth, factors in {16: (1, 2, 3), 28: (1, 2, 3, 10), 40: (1, 2, 3)}.items()
    for factor in factors
}
