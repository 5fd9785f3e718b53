"""Networks with named features, and the frozen teacher that wraps one."""

from collections.abc import Callable

from topokd_lib.errors import UnknownName, require_name
from topokd_lib.models import (
    cifar_mobilenetv2,
    cifar_resnet,
    cifar_resnet50,
    cifar_shufflenetv1,
    cifar_shufflenetv2,
    cifar_vgg,
    cifar_wrn,
    counting,
    torchvision_adapter,
)
from topokd_lib.models.base import FeatureModel, StageEnding, Taps
from topokd_lib.models.cifar_mobilenetv2 import CifarMobileNetV2
from topokd_lib.models.cifar_resnet import CifarResNet
from topokd_lib.models.cifar_resnet50 import CifarResNet50
from topokd_lib.models.cifar_shufflenetv1 import CifarShuffleNetV1
from topokd_lib.models.cifar_shufflenetv2 import CifarShuffleNetV2
from topokd_lib.models.cifar_vgg import CifarVGG
from topokd_lib.models.cifar_wrn import CifarWideResNet
from topokd_lib.models.counting import ModelSize, count_macs, count_parameters
from topokd_lib.models.published import translate_state
from topokd_lib.models.staged import StagedModel
from topokd_lib.models.teacher import Teacher
from topokd_lib.models.torchvision_adapter import TorchvisionModel

__all__ = [
    "BENCHMARK_NAMES",
    "MODELS",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarResNet50",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "CifarWideResNet",
    "FeatureModel",
    "ModelSize",
    "StageEnding",
    "StagedModel",
    "Taps",
    "Teacher",
    "TorchvisionModel",
    "count_macs",
    "count_parameters",
    "create_model",
    "describe",
    "table",
    "translate_state",
]

MODELS: dict[str, Callable[..., FeatureModel]] = {
    **cifar_resnet.FAMILY,
    **cifar_resnet50.FAMILY,
    **cifar_wrn.FAMILY,
    **cifar_vgg.FAMILY,
    **cifar_mobilenetv2.FAMILY,
    **cifar_shufflenetv1.FAMILY,
    **cifar_shufflenetv2.FAMILY,
    **torchvision_adapter.FAMILY,
}
"""Every model by name; each is called with ``num_classes`` and ``in_channels``."""

BENCHMARK_NAMES = {
    "MobileNetV2": "mobilenetv2_half",
    "ResNet50": "resnet50",
    "ShuffleV1": "shufflenetv1",
    "ShuffleV2": "shufflenetv2",
}
"""What the benchmark's tables call the models that have another name here; all others agree."""


def create_model(name: str, *, num_classes: int, in_channels: int = 3) -> FeatureModel:
    """Build a network by name.

    Raises:
        UnknownName: If there is no such model; the message suggests the nearest name.

    Example:
        >>> sum(p.numel() for p in create_model("resnet20", num_classes=100).parameters())
        278324
    """
    if name in BENCHMARK_NAMES:
        raise UnknownName(f"there is no model {name!r}; here it is called {BENCHMARK_NAMES[name]!r}.")
    require_name("model", name, MODELS)
    return MODELS[name](num_classes=num_classes, in_channels=in_channels)


def describe(name: str, *, num_classes: int | None = None, image_size: int | None = None) -> ModelSize:
    """Parameters, multiply-accumulates and feature shapes of a model; nothing is computed or allocated.

    Args:
        name: One of :data:`MODELS`.
        num_classes: By default 100; 1000 for models of torchvision.
        image_size: Height and width; by default 32, and 224 for models of torchvision.

    Raises:
        UnknownName: If there is no such model.
        ValueError: If the images are smaller than 8×8.

    Example:
        >>> size = describe("resnet8")
        >>> size.parameters, size.macs, size.features["stage3"]
        (83892, 12507392, (64, 8, 8))
    """
    classes, pixels = (1000, 224) if name in torchvision_adapter.FAMILY else (100, 32)
    classes = classes if num_classes is None else num_classes
    pixels = pixels if image_size is None else image_size
    if pixels < 8:
        raise ValueError(f"networks of the library halve images up to five times, got image_size={pixels}")
    return counting.measure(lambda: create_model(name, num_classes=classes), (3, pixels, pixels))


def table(*, torchvision: bool = False) -> str:
    """The library's own models with their sizes, one a line; or those of torchvision."""
    own = [name for name in MODELS if name not in torchvision_adapter.FAMILY]
    names = torchvision_adapter.FAMILY if torchvision else own
    return counting.format_table([describe(name) for name in names])
