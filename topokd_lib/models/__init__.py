"""Networks with named features, and the frozen teacher that wraps one."""

from collections.abc import Callable

from topokd_lib.errors import require_name
from topokd_lib.models import cifar_resnet
from topokd_lib.models.base import FeatureModel, Taps
from topokd_lib.models.cifar_resnet import CifarResNet
from topokd_lib.models.teacher import Teacher

__all__ = ["MODELS", "CifarResNet", "FeatureModel", "Taps", "Teacher", "create_model"]

MODELS: dict[str, Callable[..., FeatureModel]] = {**cifar_resnet.FAMILY}
"""Every model by name; each is called with ``num_classes`` and ``in_channels``."""


def create_model(name: str, *, num_classes: int, in_channels: int = 3) -> FeatureModel:
    """Build a network by name.

    Raises:
        UnknownName: If there is no such model; the message suggests the nearest name.

    Example:
        >>> sum(p.numel() for p in create_model("resnet20", num_classes=100).parameters())
        278324
    """
    require_name("model", name, MODELS)
    return MODELS[name](num_classes=num_classes, in_channels=in_channels)
