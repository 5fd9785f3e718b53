"""MobileNetV1 for ImageNet, the student of ResNet-50 in the distillation literature; torchvision has none.

Reference:
    A. G. Howard, M. Zhu, B. Chen, D. Kalenichenko, W. Wang, T. Weyand, M. Andreetto, H. Adam. MobileNets:
    Efficient Convolutional Neural Networks for Mobile Vision Applications. 2017. [howard2017mobilenets]
Differs from:
    Shapes, initialisation (PyTorch's own) and parameter names are those of the student that distillation
    papers share (clovaai/overhaul-distillation, ImageNet/models/MobileNet.py; megvii-research/mdistiller,
    mdistiller/models/imagenet/mobilenetv1.py). Several of them call it MobileNetV2, which is another network:
    ``create_model("torchvision/mobilenet_v2", …)``. They fix the pooling to 7×7; here it is global, which is
    the same for images of 224 pixels. The paper's Table 1 prints a stride of 2 for the last block, which
    would not give the 7×7 map that it prints beside it; here, as in that code, the stride is 1.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, last_norm

__all__ = ["MobileNetV1"]

BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Channels and stride of each depthwise separable convolution; the paper's Table 1."""
STAGES = (slice(1, 4), slice(4, 6), slice(6, 12), slice(12, 14))
"""Blocks of each stage, from 56×56 on: where that code takes its features."""


class MobileNetV1(StagedModel):
    """Depthwise separable convolutions in four stages of 128, 256, 512 and 1024 channels.

    Features (224×224 input): ``stem`` 32×112×112, ``stage1`` 128×56×56, ``stage2`` 256×28×28, ``stage3``
    512×14×14, ``stage4`` 1024×7×7, each stage also as ``.preact``, ``pooled`` 1024, ``cam`` classes×7×7.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
    """

    def __init__(self, *, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__("mobilenetv1", num_classes, stages=len(STAGES))
        self.model = nn.Sequential(nn.Sequential(*_filter(in_channels, 32, stride=2)))
        channels = 32
        for out_channels, stride in BLOCKS:
            self.model.append(_separable(channels, out_channels, stride))
            channels = out_channels
        self.fc = nn.Linear(channels, num_classes)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", self.model[0](images))
        for number, place in enumerate(STAGES, start=1):
            *blocks, last = self.model[place]
            assert isinstance(last, nn.Sequential)
            for block in blocks:
                x = block(x)
            preact = taps.keep(f"stage{number}.preact", last[:-1](x))
            x = taps.keep(f"stage{number}", F.relu(preact))
        return self._classify(x, taps)

    @property
    def last_layer(self) -> nn.Linear:
        return self.fc

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        stages = {f"stage{k}": tuple(self.model[place]) for k, place in enumerate(STAGES, start=1)}
        return {"stem": (self.model[0],), **stages, "pooled": ()}

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(last_norm(self.model[place]) for place in STAGES)


def _filter(
    in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(
        in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return convolution, nn.BatchNorm2d(channels), nn.ReLU()


def _separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Filter each channel, then mix the channels; both with normalisation and ReLU."""
    depthwise = _filter(in_channels, in_channels, stride=stride, groups=in_channels)
    return nn.Sequential(*depthwise, *_filter(in_channels, channels, kernel=1))


FAMILY = {"mobilenetv1": partial(MobileNetV1)}
