"""What the networks of the library share: a stem, stages, and a linear classifier on the mean of a map."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.errors import require_feature
from topokd_lib.models.base import FeatureModel, StageEnding, Taps
from topokd_lib.models.neck import Neck

__all__ = ["StagedModel", "channel_shuffle", "initialise_convolutions", "last_norm"]


class StagedModel(FeatureModel):
    """A feature model that says which modules lead to which feature; the rest of the contract follows.

    Args:
        name: The model's name.
        num_classes: Number of logits.
        stages: Number of stages.
        stage_ending: How they end; see :class:`FeatureModel`.
    """

    def __init__(
        self, name: str, num_classes: int, *, stages: int, stage_ending: StageEnding = "relu"
    ) -> None:
        super().__init__()
        self.name = name
        self.num_classes = num_classes
        self.stage_ending = stage_ending
        order = ("{}", "{}.preact") if stage_ending == "sum" else ("{}.preact", "{}")
        names = (pattern.format(f"stage{k}") for k in range(1, stages + 1) for pattern in order)
        self.feature_names = ("stem", *names, "last_map", "pooled", "cam")

    @abstractmethod
    def steps(self) -> Mapping[str, tuple[nn.Module, ...]]:
        """``stem``, ``stage1`` … and ``pooled``, each with the modules between it and the one before."""

    @abstractmethod
    def stage_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        """The batch normalisation that yields ``stageK.preact``, stage by stage; ``None`` if none does."""

    def modules_up_to(self, name: str) -> tuple[nn.Module, ...]:
        require_feature("model", self.name, name, self.feature_names)
        steps = dict(self.steps())
        steps[""] = steps.pop("pooled")  # what stands between the last stage and the neck
        steps |= {"last_map": ()} if self.neck is None else self.neck.steps()
        steps["pooled"] = ()
        last = "pooled" if name == "cam" else name.removesuffix(".preact")
        reached = list(steps).index(last) + 1
        modules = tuple(module for step in list(steps.values())[:reached] for module in step)
        if name == "cam":
            return (*modules, self.last_layer)
        if name.endswith(".preact") and self.stage_ending == "sum":
            return (*modules, self.norm_before(name))
        return modules

    def norm_before(self, name: str) -> nn.BatchNorm2d:
        require_feature("model", self.name, name, self.feature_names)
        if not name.endswith(".preact"):
            offered = ", ".join(repr(n) for n in self.feature_names if n.endswith(".preact"))
            raise ValueError(
                f"{self.name}: {name!r} is not a batch normalisation's output; ask for one of {offered}"
            )
        norm = self.stage_norms()[int(name[len("stage") : -len(".preact")]) - 1]
        if norm is None:
            raise ValueError(
                f"{self.name}: no single batch normalisation yields all channels of {name!r}; "
                f"a method that reads its statistics cannot use this network as a teacher"
            )
        return norm

    def insert_neck(self, neck: Neck, last_layer: nn.Linear | None = None) -> None:
        if self.neck is not None:
            raise ValueError(f"{self.name} has a neck already; build another network")
        if "last_map" not in self.feature_names:
            raise ValueError(
                f"a neck stands behind the last map, and {self.name} offers no 'last_map' "
                f"(it offers {', '.join(self.feature_names)}); choose another student"
            )
        self.neck = neck
        place = self.feature_names.index("last_map")
        self.feature_names = (*self.feature_names[:place], *neck.steps(), "pooled", "cam")
        if last_layer is not None:
            self._replace_last_layer(last_layer)

    def merge_neck(self) -> None:
        if self.neck is not None and self.neck.merges:
            self._replace_last_layer(self.neck.merge(self.last_layer))
            gone = set(self.neck.steps()) - {"last_map"}
            self.feature_names = tuple(name for name in self.feature_names if name not in gone)
            self.neck = None

    def _replace_last_layer(self, layer: nn.Linear) -> None:
        path = next(path for path, module in self.named_modules() if module is self.last_layer)
        parent, _, child = path.rpartition(".")
        setattr(self.get_submodule(parent), child, layer)

    def _rectified_stage(self, name: str, blocks: Iterable[nn.Module], x: Tensor, taps: Taps) -> Tensor:
        """Blocks that return what their closing ReLU receives, with that ReLU after each."""
        for block in blocks:
            preact = block(x)
            x = F.relu(preact)
        taps.keep(f"{name}.preact", preact)
        return taps.keep(name, x)

    def _classify(self, x: Tensor, taps: Taps, dropout: nn.Module | None = None) -> Tensor:
        """Logits from the last map, by way of its mean."""
        if self.neck is not None:
            x = self.neck(x, taps)
        taps.keep("last_map", x)
        pooled = taps.keep("pooled", x.mean(dim=(2, 3)))
        if "cam" in taps:
            taps.keep("cam", F.conv2d(x, self.last_layer.weight[:, :, None, None], self.last_layer.bias))
        return torch.as_tensor(self.last_layer(pooled if dropout is None else dropout(pooled)))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels 0, 1, … of every group in turn, so that the next grouped convolution mixes the groups.

    Example:
        >>> channel_shuffle(torch.arange(6.0).view(1, 6, 1, 1), 2).flatten()
        tensor([0., 3., 1., 4., 2., 5.])
    """
    batch, channels, height, width = x.shape
    grouped = x.reshape(batch, groups, channels // groups, height, width)
    return grouped.transpose(1, 2).reshape(batch, channels, height, width)


def last_norm(module: nn.Module) -> nn.BatchNorm2d:
    """The last batch normalisation that was registered in a module."""
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)][-1]


def initialise_convolutions(model: nn.Module) -> None:
    """Normal weights of variance 2 / (outgoing connections), and no bias; [he2015delving], backward case."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
