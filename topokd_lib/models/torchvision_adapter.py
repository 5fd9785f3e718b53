"""Networks of torchvision with named features, and with torchvision's parameter names.

Differs from:
    torchvision's ReLUs work in place, so that a pre-activation that is kept would be overwritten by the
    activation. Here in-place operation is switched off; logits and weights are torchvision's.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import CheckpointError, UnknownName, require_name
from topokd_lib.models.base import StageEnding, Taps
from topokd_lib.models.staged import StagedModel, last_norm
from topokd_lib.outputs import Normalisation

__all__ = ["TorchvisionModel", "published_normalisation", "replace_first_convolution"]

PREFIX = "torchvision/"
NAMES = ("resnet18", "resnet34", "resnet50", "mobilenet_v2")


@dataclass(frozen=True)
class Layout:
    """Where a family of torchvision keeps its parts; names are those of modules."""

    stem: tuple[str, ...]
    stages: tuple[tuple[str, ...], ...]
    tail: tuple[str, ...]
    dropout: str | None
    last_layer: str
    ending: StageEnding


class TorchvisionModel(StagedModel):
    """A ResNet (also wide ResNet, ResNeXt) or MobileNetV2 of torchvision.

    Features of ResNets (224×224 input): ``stem`` 64×56×56, which is behind the max pooling; ``stage1`` …
    ``stage4`` at 56, 28, 14 and 7; each stage also as ``.preact``; ``pooled``; ``cam``. The stages of
    MobileNetV2 are those of :class:`~topokd_lib.models.CifarMobileNetV2` and end in linear bottlenecks.

    torchvision is imported when a model is built. The state dictionary's keys are torchvision's.

    Args:
        name: As torchvision calls it, such as ``"resnet18"``.
        num_classes: Number of logits; by default 1000.
        in_channels: Channels of the images.
        weights: One of torchvision's weights for that model, such as ``"IMAGENET1K_V1"``, which torchvision
            downloads on first use; ``None`` for random ones.

    Raises:
        UnknownName: If torchvision has no such model or weights, or the model is of another family.
        ValueError: If weights are asked for together with other classes or channels than they have.
        CheckpointError: If the weights are not there and cannot be downloaded.
    """

    def __init__(
        self, name: str, *, num_classes: int = 1000, in_channels: int = 3, weights: str | None = None
    ) -> None:
        network = _build(name, num_classes, in_channels, weights)
        layout = _layout(name, network)
        super().__init__(PREFIX + name, num_classes, stages=len(layout.stages), stage_ending=layout.ending)
        self._layout = layout
        for key, child in network.named_children():
            self.add_module(key, child)
        for module in self.modules():
            if isinstance(module, nn.ReLU | nn.ReLU6):
                module.inplace = False

    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        x = images
        for module in self._parts(self._layout.stem):
            x = module(x)
        taps.keep("stem", x)
        for number, names in enumerate(self._layout.stages, start=1):
            *blocks, last = self._parts(names)
            for block in blocks:
                x = block(x)
            if self.stage_ending == "relu":
                preact = _residual_sum(last, x)
                x = F.relu(preact)
            else:
                preact = x = last(x)
            taps.keep(f"stage{number}.preact", preact)
            taps.keep(f"stage{number}", x)
        for module in self._parts(self._layout.tail):
            x = module(x)
        dropout = self._layout.dropout
        return self._classify(x, taps, None if dropout is None else self.get_submodule(dropout))

    @property
    def last_layer(self) -> nn.Linear:
        layer = self.get_submodule(self._layout.last_layer)
        assert isinstance(layer, nn.Linear)
        return layer

    def steps(self) -> dict[str, tuple[nn.Module, ...]]:
        stages = {f"stage{k}": self._parts(names) for k, names in enumerate(self._layout.stages, start=1)}
        return {"stem": self._parts(self._layout.stem), **stages, "pooled": self._parts(self._layout.tail)}

    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        last = (self._parts(names)[-1] for names in self._layout.stages)
        if self.stage_ending == "relu":
            return tuple(_norms(block)[-1] for block in last)
        return tuple(last_norm(block) for block in last)

    def _parts(self, names: tuple[str, ...]) -> tuple[nn.Module, ...]:
        return tuple(self.get_submodule(name) for name in names)


def published_normalisation(name: str, weights: str) -> Normalisation:
    """What torchvision normalises images with for one of its weights.

    Args:
        name: With or without ``torchvision/`` in front.
        weights: Their name.

    Raises:
        UnknownName: If there is no such model or no such weights.

    Example:
        >>> published_normalisation("torchvision/resnet34", "IMAGENET1K_V1").mean
        (0.485, 0.456, 0.406)
    """
    from torchvision import models

    short = name.removeprefix(PREFIX)
    require_name("torchvision model", short, models.list_models(module=models))
    known = models.get_model_weights(short).__members__
    require_name(f"set of weights for torchvision's {short}", weights, known)
    transforms = known[weights].transforms()
    return Normalisation(tuple(transforms.mean), tuple(transforms.std))


def _build(name: str, num_classes: int, in_channels: int, weights: str | None) -> nn.Module:
    from torchvision import models

    require_name("torchvision model", name, models.list_models(module=models))
    known: Any = {}
    if weights is not None:
        known = models.get_model_weights(name).__members__
        require_name(f"set of weights for torchvision's {name}", weights, known)
        classes = len(known[weights].meta["categories"])
        if (num_classes, in_channels) != (classes, 3):
            raise ValueError(
                f"weights {weights} of torchvision's {name} are for {classes} classes and 3 channels, "
                f"asked for {num_classes} classes and {in_channels} channels; build it without weights, "
                f"or with those classes and channels"
            )
    try:
        network: nn.Module = models.get_model(name, weights=weights, num_classes=num_classes)
    except (OSError, RuntimeError) as error:  # no connection, no room; a file with another checksum
        if weights is None:
            raise
        url = str(known[weights].url)
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
        raise CheckpointError(
            f"cannot get weights {weights} of torchvision's {name} ({error}); fetch {url} and put it at "
            f"{place}"
        ) from error
    if in_channels != 3:
        replace_first_convolution(network, in_channels)
    return network


def _layout(name: str, network: nn.Module) -> Layout:
    from torchvision import models

    if isinstance(network, models.ResNet):
        blocks = {layer: len(getattr(network, layer)) for layer in ("layer1", "layer2", "layer3", "layer4")}
        return Layout(
            stem=("conv1", "bn1", "relu", "maxpool"),
            stages=tuple(tuple(f"{layer}.{i}" for i in range(count)) for layer, count in blocks.items()),
            tail=(),
            dropout=None,
            last_layer="fc",
            ending="relu",
        )
    if isinstance(network, models.MobileNetV2):
        ends = (1, 4, 7, 14, 18)
        return Layout(
            stem=("features.0",),
            stages=tuple(tuple(f"features.{i}" for i in range(start, end)) for start, end in pairwise(ends)),
            tail=("features.18",),
            dropout="classifier.0",
            last_layer="classifier.1",
            ending="linear",
        )
    raise UnknownName(
        f"torchvision's {name} is a {type(network).__name__}, whose stages have no names here yet. "
        f"Known: ResNets (also wide ones and ResNeXt) and mobilenet_v2."
    )


def _residual_sum(block: Any, x: Tensor) -> Tensor:
    """What the closing ReLU of torchvision's BasicBlock or Bottleneck receives."""
    *inner, last = zip(_convolutions(block), _norms(block), strict=True)
    out = x
    for convolution, norm in inner:
        out = F.relu(norm(convolution(out)))
    convolution, norm = last
    shortcut = x if block.downsample is None else block.downsample(x)
    return torch.as_tensor(norm(convolution(out)) + shortcut)


def _convolutions(block: Any) -> tuple[nn.Module, ...]:
    return (block.conv1, block.conv2, block.conv3) if hasattr(block, "conv3") else (block.conv1, block.conv2)


def _norms(block: Any) -> tuple[nn.BatchNorm2d, ...]:
    return (block.bn1, block.bn2, block.bn3) if hasattr(block, "conv3") else (block.bn1, block.bn2)


def replace_first_convolution(network: nn.Module, in_channels: int) -> None:
    """Let a network take images of other channels; the weights of its first layer are new."""
    path = next(key for key, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, child = path.rpartition(".")
    old: Any = network.get_submodule(path)
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(network.get_submodule(parent), child, new)


FAMILY = {PREFIX + name: partial(TorchvisionModel, name) for name in NAMES}
