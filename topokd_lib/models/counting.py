"""How large a network is: parameters, multiply-accumulates, and the shapes of its features."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from topokd_lib.models.base import FeatureModel

__all__ = ["ModelSize", "count_macs", "count_parameters", "format_table", "measure"]


@dataclass(frozen=True)
class ModelSize:
    """The size of a network for images of one shape.

    Args:
        name: The model's name.
        image_shape: Channels, height and width of the images.
        parameters: Learnable numbers.
        macs: Multiply-accumulates of the convolutions and linear layers for one image.
        features: Shape of every feature without the batch axis.
    """

    name: str
    image_shape: tuple[int, int, int]
    parameters: int
    macs: int
    features: dict[str, tuple[int, ...]]


def count_parameters(model: nn.Module) -> int:
    """Numbers that training changes; running statistics are not among them."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of the convolutions and linear layers for one image.

    Counted by PyTorch's ``FlopCounterMode``, for which each is two operations.
    Normalisation, activations, pooling and biases are not counted. The model's mode and running statistics
    stay as they are.
    """
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *image_shape, device=device))
    for module, training in modes.items():
        module.training = training
    return int(counter.get_total_flops()) // 2


def measure(build: Callable[[], FeatureModel], image_shape: tuple[int, int, int]) -> ModelSize:
    """Size of the network that ``build`` makes; on PyTorch's meta device, so without memory or arithmetic."""
    with torch.device("meta"):
        model = build().eval()
        with torch.no_grad():
            output = model.extract(torch.zeros(1, *image_shape), model.feature_names)
    return ModelSize(
        name=model.name,
        image_shape=image_shape,
        parameters=count_parameters(model),
        macs=count_macs(model, image_shape),
        features={name: tuple(output[name].shape[1:]) for name in model.feature_names},
    )


def format_table(sizes: Sequence[ModelSize]) -> str:
    """One line per network: parameters, millions of multiply-accumulates, and shapes of features.

    Of the features, those are shown that most families share: stem, stages, and what enters the classifier.
    """
    deepest = max(len([name for name in size.features if re.fullmatch(r"stage\d+", name)]) for size in sizes)
    columns = ["stem", *(f"stage{number}" for number in range(1, deepest + 1)), "pooled"]
    rows = [["model", "parameters", "MMACs", *columns]]
    for size in sizes:
        shapes = ("×".join(map(str, size.features.get(name, "–"))) for name in columns)
        rows.append([size.name, f"{size.parameters:,}", f"{size.macs / 1e6:,.2f}", *shapes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    image, classes = "×".join(map(str, sizes[0].image_shape)), sizes[0].features["cam"][0]
    lines = [f"for images {image} and {classes} classes; shapes are channels×height×width"]
    for name, *others in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        lines.append("  ".join([f"{name:<{widths[0]}}", *cells]))
    return "\n".join(lines)
