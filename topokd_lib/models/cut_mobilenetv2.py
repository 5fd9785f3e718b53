"""torchvision's MobileNetV2 for 32×32 images, whole or cut short: teacher and students of IG-KD.

Reference:
    M. Sandler et al. MobileNetV2: Inverted Residuals and Linear Bottlenecks. CVPR 2018.
    [sandler2018mobilenetv2]
    D. Hernandez, J. Chang, T. Nordling. Knowledge Distillation: Enhancing Neural Network Compression with
    Integrated Gradients. 2025. [hernandez2025igkd]
Differs from:
    torchvision's network in two places: the stem and the group of 24 channels keep the resolution. That is
    the teacher of the official code (nordlinglab/ModelCompression-IntegratedGradients) with its parameter
    names. A student is what is left of it without the last 3, 5, 7 … blocks; for those that were published
    in three parts, :func:`topokd_lib.models.translate_state` renames the parameters.
"""

from collections.abc import Iterator
from functools import partial
from itertools import groupby

from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.models.base import Taps
from topokd_lib.models.staged import StagedModel, last_norm
from topokd_lib.models.torchvision_adapter import replace_first_convolution

__all__ = ["CutMobileNetV2"]

SETTING = [
    [1, 16, 1, 1],
    [6, 24, 2, 1],
    [6, 32, 3, 2],
    [6, 64, 4, 2],
    [6, 96, 3, 1],
    [6, 160, 3, 2],
    [6, 320, 1, 1],
]
"""Expansion, channels, blocks and stride of each group of blocks."""

STAGES = (0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 5)
"""The stage of every block: one for each resolution. Block 0 is the stem, the last a convolution to 1280."""

CUTS = (3, 5, 7, 9, 11, 13, 15, 17)
"""Blocks that the official students lack."""


class CutMobileNetV2(StagedModel):
    """Nineteen blocks, or the first of them, and a linear classifier on the mean of the last.

    Features (32×32 input): ``stem`` 32×32×32, ``stage1`` 24×32×32, ``stage2`` 32×16×16, ``stage3`` 96×8×8,
    ``stage4`` 320×4×4, ``pooled`` 1280, ``cam`` classes×4×4; besides, ``block1`` … ``block17`` as torchvision
    counts them, because the attention maps of IG-KD are those of ``block9`` (64×8×8) and, in students that
    are shorter, of ``block4`` or ``block2``. A cut network ends with the stage in which it is cut, and its
    ``pooled`` has the channels of its last block.

    torchvision is imported when a model is built.

    Args:
        cut: Blocks left out at the end, 0 … 17. The official students lack 3, 5 … 17, have 1.0 million …
            1,994 parameters for 10 classes, and no dropout.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        name: How messages and records call the model.

    Raises:
        ValueError: If so many blocks cannot be cut.
    """

    def __init__(
        self, cut: int = 0, *, num_classes: int = 10, in_channels: int = 3, name: str | None = None
    ) -> None:
        from torchvision.models import MobileNetV2

        if not 0 <= cut < len(STAGES) - 1:
            raise ValueError(f"a MobileNetV2 has {len(STAGES)} blocks and keeps at least two, got cut={cut}")
        blocks = len(STAGES) - cut
        super().__init__(
            name or _name(cut), num_classes, stages=STAGES[min(blocks, 18) - 1], stage_ending="linear"
        )
        network = MobileNetV2(num_classes=num_classes, inverted_residual_setting=SETTING)
        network.features[0][0].stride = (1, 1)
        if in_channels != 3:
            replace_first_convolution(network, in_channels)
        for module in network.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = False
        self.features = network.features[:blocks]
        self.classifier = network.classifier
        if cut:
            channels = last_norm(self.features[-1]).num_features
            self.classifier = nn.Sequential(nn.Identity(), nn.Linear(channels, num_classes))
        stages = {f"stage{stage}": [f"block{i}" for i in numbers] for stage, numbers in self._stages()}
        names = (name for stage, blocks in stages.items() for name in (*blocks, f"{stage}.preact", stage))
        self.feature_names = ("stem", *names, "pooled", "cam")

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = taps.keep("stem", self.features[0](images))
        for stage, numbers in self._stages():
            for number in numbers:
                x = taps.keep(f"block{number}", self.features[number](x))
            taps.keep(f"stage{stage}.preact", x)
            taps.keep(f"stage{stage}", x)
        for module in self._tail():
            x = module(x)
        return self._classify(x, taps, self.classifier[0])

    @property
    def last_layer(self) -> nn.Linear:
        layer = self.classifier[1]
        assert isinstance(layer, nn.Linear)
        return layer

    def modules_up_to(self, name: str) -> tuple[nn.Module, ...]:
        if name.startswith("block") and name in self.feature_names:
            return tuple(self.features[: int(name.removeprefix("block")) + 1])
        return super().modules_up_to(name)

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        stages = {f"stage{k}": tuple(self.features[i] for i in numbers) for k, numbers in self._stages()}
        return {"stem": (self.features[0],), **stages, "pooled": self._tail()}

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        return tuple(last_norm(self.features[numbers[-1]]) for _, numbers in self._stages())

    def _stages(self) -> Iterator[tuple[int, list[int]]]:
        """Numbers of the blocks of every stage that is there, without the stem and the tail."""
        kept = range(1, min(len(self.features), 18))
        return ((stage, list(numbers)) for stage, numbers in groupby(kept, STAGES.__getitem__))

    def _tail(self) -> tuple[nn.Module, ...]:
        return tuple(self.features[18:])


def _name(cut: int) -> str:
    return f"igkd_mobilenetv2_cut{cut}" if cut else "igkd_mobilenetv2"


FAMILY = {_name(cut): partial(CutMobileNetV2, cut) for cut in (0, *CUTS)}
