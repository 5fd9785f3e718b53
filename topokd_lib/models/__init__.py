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
    cut_mobilenetv2,
    imagenet_mobilenetv1,
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
from topokd_lib.models.cut_mobilenetv2 import CutMobileNetV2
from topokd_lib.models.imagenet_mobilenetv1 import MobileNetV1
from topokd_lib.models.neck import Neck, NToOneNeck, ProjectorNeck
from topokd_lib.models.published import translate_state
from topokd_lib.models.staged import StagedModel
from topokd_lib.models.teacher import Teacher, TeacherGroup
from topokd_lib.models.torchvision_adapter import TorchvisionModel, published_normalisation

__all__ = [
    "BENCHMARK_NAMES",
    "IMAGENET_MODELS",
    "MODELS",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarResNet50",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "CifarWideResNet",
    "CutMobileNetV2",
    "FeatureModel",
    "MobileNetV1",
    "ModelSize",
    "NToOneNeck",
    "Neck",
    "ProjectorNeck",
    "StageEnding",
    "StagedModel",
    "Taps",
    "Teacher",
    "TeacherGroup",
    "TorchvisionModel",
    "count_macs",
    "count_parameters",
    "create_model",
    "describe",
    "published_normalisation",
    "table",
    "translate_state",
]

IMAGENET_MODELS: dict[str, Callable[..., FeatureModel]] = {
    **imagenet_mobilenetv1.FAMILY,
    **torchvision_adapter.FAMILY,
}
"""Those made for images of 224 pixels; each also takes smaller ones."""

MODELS: dict[str, Callable[..., FeatureModel]] = {
    **cifar_resnet.FAMILY,
    **cifar_resnet50.FAMILY,
    **cifar_wrn.FAMILY,
    **cifar_vgg.FAMILY,
    **cifar_mobilenetv2.FAMILY,
    **cut_mobilenetv2.FAMILY,
    **cifar_shufflenetv1.FAMILY,
    **cifar_shufflenetv2.FAMILY,
    **IMAGENET_MODELS,
}
"""Every model by name; each is called with ``num_classes`` and ``in_channels``."""

BENCHMARK_NAMES = {
    "MobileNetV2": "mobilenetv2_half",
    "ResNet50": "resnet50",
    "ShuffleV1": "shufflenetv1",
    "ShuffleV2": "shufflenetv2",
}
"""What the benchmark's tables call the models that have another name here; all others agree."""


def create_model(
    name: str, *, num_classes: int, in_channels: int = 3, weights: str | None = None
) -> FeatureModel:
    """Build a network by name.

    Args:
        name: One of :data:`MODELS`.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        weights: Published weights by name, such as ``"IMAGENET1K_V1"`` of ``"torchvision/resnet34"``;
            ``None`` for random ones.

    Raises:
        UnknownName: If there is no such model or no such weights; the message suggests the nearest name.
        ValueError: If weights are asked for that do not fit, or of a model that has none by name.
        CheckpointError: If the weights are not there and cannot be downloaded.

    Example:
        >>> sum(p.numel() for p in create_model("resnet20", num_classes=100).parameters())
        278324
    """
    if name in BENCHMARK_NAMES:
        raise UnknownName(f"there is no model {name!r}; here it is called {BENCHMARK_NAMES[name]!r}.")
    require_name("model", name, MODELS)
    if weights is None:
        return MODELS[name](num_classes=num_classes, in_channels=in_channels)
    if name not in torchvision_adapter.FAMILY:
        raise ValueError(
            f"only models of torchvision have weights by name; asked for {weights!r} of {name!r}. "
            f"Build it without weights, and give it those of a file with load_state_dict"
        )
    return MODELS[name](num_classes=num_classes, in_channels=in_channels, weights=weights)


def describe(name: str, *, num_classes: int | None = None, image_size: int | None = None) -> ModelSize:
    """Parameters, multiply-accumulates and feature shapes of a model; nothing is computed or allocated.

    Args:
        name: One of :data:`MODELS`.
        num_classes: By default 100; 1000 for :data:`IMAGENET_MODELS`.
        image_size: Height and width; by default 32; 224 for :data:`IMAGENET_MODELS`.

    Raises:
        UnknownName: If there is no such model.
        ValueError: If the images are smaller than 8×8.

    Example:
        >>> size = describe("resnet8")
        >>> size.parameters, size.macs, size.features["stage3"]
        (83892, 12507392, (64, 8, 8))
    """
    classes, pixels = (1000, 224) if name in IMAGENET_MODELS else (100, 32)
    classes = classes if num_classes is None else num_classes
    pixels = pixels if image_size is None else image_size
    if pixels < 8:
        raise ValueError(f"networks of the library halve images up to five times, got image_size={pixels}")
    return counting.measure(lambda: create_model(name, num_classes=classes), (3, pixels, pixels))


def table(*, imagenet: bool = False) -> str:
    """The networks for small images with their sizes, one a line; or those for ImageNet."""
    names = [name for name in MODELS if (name in IMAGENET_MODELS) == imagenet]
    return counting.format_table([describe(name) for name in names])
