"""What every network of the library offers: logits like any other model, and features by name."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.errors import require_feature
from topokd_lib.outputs import ModelOutput

if TYPE_CHECKING:
    from topokd_lib.models.neck import Neck

__all__ = ["FeatureModel", "StageEnding", "Taps"]

StageEnding = Literal["relu", "sum", "linear"]
"""How the stages of a network end; see :class:`FeatureModel`."""


class Taps:
    """Keeps the intermediate tensors that were asked for, and lets all others go."""

    def __init__(self, wanted: Collection[str] = ()) -> None:
        self.wanted = frozenset(wanted)
        self.features: dict[str, Tensor] = {}

    def keep(self, name: str, value: Tensor) -> Tensor:
        """Remember ``value`` if ``name`` was asked for; return it unchanged either way."""
        if name in self.wanted:
            self.features[name] = value
        return value

    def __contains__(self, name: str) -> bool:
        return name in self.wanted


class FeatureModel(nn.Module, ABC):
    """A classifier whose intermediate features have names.

    The names mean the same in every family:

    ========================  ========================================================
    ``stem``                  what enters the first stage
    ``stage1`` … ``stageK``   what leaves a stage and enters the next
    ``stageK.preact``         the same just before its ReLU
    ``last_map``              the map whose mean is ``pooled``: the last stage, or what follows it
    ``pooled``                the vector that enters the classifier
    ``cam``                   class activation maps; their spatial mean is the logits
    ========================  ========================================================

    How the two tensors of a stage are related depends on where the family puts its ReLUs, so a model
    declares it as ``stage_ending``:

    - ``"relu"``: the stage ends in a ReLU (ResNet, VGG, ShuffleNets), ``stageK = relu(stageK.preact)``.
    - ``"sum"``: the stage ends in a residual sum and the next begins with batch normalisation and ReLU (wide
      ResNets), ``stageK.preact = norm_before("stageK.preact")(stageK)``. It is the tensor that the network
      computes anyway, so no running statistics are touched twice.
    - ``"linear"``: the stage ends in a linear bottleneck (MobileNetV2), ``stageK.preact = stageK``.

    A subclass writes its forward pass once, in :meth:`compute`, in plain PyTorch with
    ``x = taps.keep("stage1", relu(x))`` where a feature appears. Nothing is hooked, so what a feature
    is can be read where it is made.

    Attributes:
        name: The model's name, for messages and records.
        feature_names: The names it offers, in the order in which they appear.
        num_classes: Number of logits.
        stage_ending: How ``stageK`` and ``stageK.preact`` are related.
        compiled: Whether ``torch.compile`` translates the forward pass at its first use. The numbers are the
            same but for rounding.
        neck: Layers that a method has put before the classifier; see :meth:`insert_neck`.
    """

    name: str
    feature_names: tuple[str, ...]
    num_classes: int
    stage_ending: StageEnding = "relu"
    compiled: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.neck: Neck | None = None  # no class attribute: it would hide the module of that name

    @abstractmethod
    def compute(
        self, images: Float[Tensor, "batch channels height width"], taps: Taps
    ) -> Float[Tensor, "batch classes"]:
        """Logits of ``images``; intermediate features are offered to ``taps`` on the way."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Linear:
        """From ``pooled`` to logits; known as ``fc``, ``linear`` or ``classifier`` in other collections."""

    @abstractmethod
    def modules_up_to(self, name: str) -> tuple[nn.Module, ...]:
        """The modules that the feature ``name`` depends on; what a hint stage trains."""

    @abstractmethod
    def norm_before(self, name: str) -> nn.BatchNorm2d:
        """The batch normalisation whose output is ``name``, a ``stageK.preact`` feature.

        Raises:
            FeatureNotFound: If the model offers no such feature.
            ValueError: If no single batch normalisation yields all of the feature's channels.
        """

    def insert_neck(self, neck: "Neck", last_layer: nn.Linear | None = None) -> None:
        """Put layers between the last map and the classifier, and perhaps another classifier behind them.

        Their features are offered from now on; ``last_map`` is what comes out of them.

        Raises:
            ValueError: If the network has no place for a neck, or has one already.
        """
        raise ValueError(f"{self.name} has no place for a neck; use a network of the library")

    def merge_neck(self) -> None:
        """Merge a neck that only training needs into the classifier; any other network stays as it is."""

    def extract(
        self, images: Float[Tensor, "batch channels height width"], names: Collection[str] = ()
    ) -> ModelOutput:
        """Logits and the named features of ``images``; other features are not kept in memory.

        Raises:
            FeatureNotFound: If the model offers no feature of such a name.
        """
        for name in names:
            require_feature("model", self.name, name, self.feature_names)
        taps = Taps(names)
        logits = self._run(images, taps)
        return ModelOutput(logits, taps.features)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        return self._run(images, Taps())

    def _run(self, images: Tensor, taps: Taps) -> Tensor:
        return _compiled(type(self))(self, images, taps) if self.compiled else self.compute(images, taps)


@cache
def _compiled(family: type[FeatureModel]) -> Callable[[FeatureModel, Tensor, Taps], Tensor]:
    """Not kept on the network: a copy of the network would run the original's weights."""
    return torch.compile(family.compute)
