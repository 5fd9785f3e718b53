"""MobileNetV2 for 32×32 images: stages end in linear bottlenecks, which no ReLU follows.

Reference:
    M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L.-C. Chen. MobileNetV2: Inverted Residuals and Linear
    Bottlenecks. CVPR 2018. [sandler2018mobilenetv2]
Differs from:
    Shapes, initialisation and parameter names are those of the benchmark's student of half width
    (HobbitLong/RepDistiller, models/mobilenetv2.py, ``MobileNetV2``): ReLU instead of ReLU6, widths that are
    rounded down instead of to multiples of 8, an expanding convolution also where the factor is 1, and a
    stride of 1 where the paper's second group of blocks has 2. The benchmark fixes the pooling to its image
    size; here it is global.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, initialise_convolutions, last_norm

__all__ = ["CifarMobileNetV2"]

SETTING = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks and stride of each group of blocks; the paper's Table 2 for small images."""


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project without ReLU; a shortcut where shapes allow."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.use_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.use_shortcut else out


class CifarMobileNetV2(StagedModel):
    """Seven groups of inverted residuals; a stage ends where the benchmark takes a feature.

    Features (32×32 input, half width): ``stem`` 16×16×16, ``stage1`` 12×16×16, ``stage2`` 16×8×8, ``stage3``
    48×4×4, ``stage4`` 160×2×2, ``pooled`` 1280, ``cam`` classes×2×2. ``stageK.preact`` is ``stageK``: no ReLU
    closes a stage.

    Args:
        width: Factor of all widths but the last layer's 1280.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.
    """

    def __init__(
        self,
        width: float = 0.5,
        *,
        num_classes: int = 100,
        in_channels: int = 3,
        name: str | None = None,
    ) -> None:
        super().__init__(name or f"mobilenetv2x{width:g}", num_classes, stages=4, stage_ending="linear")
        channels = int(32 * width)
        self.conv1 = _conv_norm_relu(in_channels, channels, kernel=3, stride=2)
        self.blocks = nn.ModuleList()
        for expansion, wide, count, stride in SETTING:
            group = nn.Sequential()
            for index in range(count):
                out_channels = int(wide * width)
                step = stride if index == 0 else 1
                group.append(InvertedResidual(channels, out_channels, step, expansion))
                channels = out_channels
            self.blocks.append(group)
        last = max(1280, int(1280 * width))
        self.conv2 = _conv_norm_relu(channels, last, kernel=1, stride=1)
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        nn.init.normal_(self.last_layer.weight, std=0.01)
        nn.init.zeros_(self.last_layer.bias)
        initialise_convolutions(self)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", self.conv1(images))
        for name, groups in self._stages().items():
            for group in groups:
                x = group(x)
            taps.keep(f"{name}.preact", x)
            taps.keep(name, x)
        return self._classify(self.conv2(x), taps)

    @property
    def last_layer(self) -> nn.Linear:
        layer = self.classifier[0]
        assert isinstance(layer, nn.Linear)
        return layer

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        return {"stem": (self.conv1,), **self._stages(), "pooled": (self.conv2,)}

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(last_norm(groups[-1]) for groups in self._stages().values())

    def _stages(self) -> dict[str, tuple[nn.Module, ...]]:
        groups = tuple(self.blocks)
        return {"stage1": groups[:2], "stage2": groups[2:3], "stage3": groups[3:5], "stage4": groups[5:]}


def _conv_norm_relu(in_channels: int, channels: int, *, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())


FAMILY = {"mobilenetv2_half": partial(CifarMobileNetV2, 0.5, name="mobilenetv2_half")}
