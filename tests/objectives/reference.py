"""What tests of feature objectives share: official values as tensors, and the benchmark's thirteen pairs."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from topokd_lib.models import Teacher, create_model, describe
from topokd_lib.pair import Pair

SAME_STYLE = (
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("resnet56", "resnet20"),
    ("resnet110", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("vgg13", "vgg8"),
)
CROSS_STYLE = (
    ("vgg13", "mobilenetv2_half"),
    ("resnet50", "mobilenetv2_half"),
    ("resnet50", "vgg8"),
    ("resnet32x4", "shufflenetv1"),
    ("resnet32x4", "shufflenetv2"),
    ("wrn_40_2", "shufflenetv1"),
)


def leaf(array: np.ndarray) -> Tensor:
    """A float64 tensor that collects a gradient."""
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def state(values: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    """The part of the official module's state whose keys begin with ``prefix``."""
    return {k.removeprefix(prefix): torch.tensor(v) for k, v in values.items() if k.startswith(prefix)}


def assert_gradient(found: Tensor, values: dict[str, np.ndarray], name: str, label: str = "grad") -> None:
    """Norm and first entries agree with those of the official code."""
    assert found.grad is not None
    norm = values[f"{label}.{name}.norm"]
    np.testing.assert_allclose(found.grad.norm(), norm, rtol=1e-6)
    head = values[f"{label}.{name}.head"]
    np.testing.assert_allclose(found.grad.flatten()[: len(head)], head, rtol=1e-4, atol=1e-6 * norm)


def assert_modern_gradient(found: Tensor, values: dict[str, np.ndarray], name: str) -> None:
    """The same for the golden values of the modern methods."""
    assert found.grad is not None, name
    norm = values[f"gnorm__{name}"]
    np.testing.assert_allclose(found.grad.norm(), norm, rtol=1e-5, atol=1e-8)
    head = values[f"g16__{name}"]
    np.testing.assert_allclose(found.grad.flatten()[: len(head)], head, rtol=1e-5, atol=1e-8)


@cache
def benchmark_pair(teacher: str, student: str) -> Pair:
    """A pair for 32×32 images of 100 classes without weights in memory; objectives can be built on it."""
    with torch.device("meta"):
        networks = [create_model(name, num_classes=100) for name in (student, teacher)]
        shapes = [
            {name: torch.Size(shape) for name, shape in describe(model).features.items()}
            for model in (student, teacher)
        ]
        frozen = Teacher(networks[1])
    return Pair(networks[0], frozen, *shapes, train_labels=torch.arange(100), batch_size=64)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
