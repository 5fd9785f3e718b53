"""VGG networks for 32×32 images, with batch normalisation.

Reference:
    K. Simonyan, A. Zisserman. Very Deep Convolutional Networks for Large-Scale Image Recognition. ICLR 2015.
    [simonyan2015vgg]
Differs from:
    The paper's networks have three large linear layers; the benchmark's (HobbitLong/RepDistiller,
    models/vgg.py) average the last map and have one. Its fourth pooling runs for images of 64 pixels only, so
    with 32 pixels the last two stages have the same 4×4 resolution. Shapes, initialisation and parameter
    names are the benchmark's.
"""

from functools import partial

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, initialise_convolutions, last_norm

__all__ = ["CifarVGG"]

WIDTHS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Convolutions per block, by depth; the paper's configurations A, B, D and E, and the benchmark's vgg8."""


class CifarVGG(StagedModel):
    """A stem block and four stages of 3×3 convolutions; each begins with a max pooling by two.

    Features (32×32 input): ``stem`` 64×32×32, ``stage1`` 128×16×16, ``stage2`` 256×8×8, ``stage3`` 512×4×4,
    ``stage4`` 512×4×4, each stage also as ``.preact``, ``pooled`` 512, ``cam`` classes×4×4.

    Args:
        depth: 8, 11, 13, 16 or 19.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.

    Raises:
        ValueError: If there is no VGG of such a depth.
    """

    def __init__(
        self, depth: int, *, num_classes: int = 100, in_channels: int = 3, name: str | None = None
    ) -> None:
        if depth not in CONVOLUTIONS:
            raise ValueError(f"a VGG has depth {', '.join(map(str, CONVOLUTIONS))}, got {depth}")
        super().__init__(name or f"vgg{depth}", num_classes, stages=4)
        counts = CONVOLUTIONS[depth]
        self.block0 = _block(in_channels, WIDTHS[0], counts[0])
        self.block1 = _block(WIDTHS[0], WIDTHS[1], counts[1])
        self.block2 = _block(WIDTHS[1], WIDTHS[2], counts[2])
        self.block3 = _block(WIDTHS[2], WIDTHS[3], counts[3])
        self.block4 = _block(WIDTHS[3], WIDTHS[4], counts[4])
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)
        initialise_convolutions(self)

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", F.relu(self.block0(images)))
        x = self._rectified_stage("stage1", [self.block1], F.max_pool2d(x, 2), taps)
        x = self._rectified_stage("stage2", [self.block2], F.max_pool2d(x, 2), taps)
        x = self._rectified_stage("stage3", [self.block3], F.max_pool2d(x, 2), taps)
        if images.shape[2] == 64:
            x = F.max_pool2d(x, 2)
        x = self._rectified_stage("stage4", [self.block4], x, taps)
        return self._classify(x, taps)

    @property
    def last_layer(self) -> nn.Linear:
        return self.classifier

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        return {
            "stem": (self.block0,),
            "stage1": (self.block1,),
            "stage2": (self.block2,),
            "stage3": (self.block3,),
            "stage4": (self.block4,),
            "pooled": (),
        }

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(last_norm(block) for block in (self.block1, self.block2, self.block3, self.block4))


def _block(in_channels: int, channels: int, convolutions: int) -> nn.Sequential:
    """Convolutions, each with normalisation, and ReLUs between them; the closing ReLU is the network's."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        in_channels = channels
    return nn.Sequential(*layers[:-1])


FAMILY = {f"vgg{depth}": partial(CifarVGG, depth) for depth in CONVOLUTIONS}
