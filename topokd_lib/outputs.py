"""The data that flows: a batch of images, and what a network says about it.

Both are mutable dataclasses because Lightning Fabric moves them between devices field by field and
refuses frozen ones.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topokd_lib.errors import require_feature

__all__ = ["Batch", "ModelOutput", "Normalisation"]


@dataclass(frozen=True)
class Normalisation:
    """Per-channel mean and standard deviation that images were normalised with.

    Pixel values are in [0, 1] before; ``(pixel - mean) / std`` after.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0.0) <= 0:
            raise ValueError(
                f"a normalisation needs one mean and one positive standard deviation per channel, "
                f"got mean={self.mean} and std={self.std}"
            )


@dataclass
class Batch:
    """One minibatch.

    Args:
        images: Normalised with the data set's :class:`Normalisation`.
        labels: Class numbers, counted from 0.
        indices: Position of each image in the training set; contrastive memories are keyed by it.
        extras: Further tensors per image by name, such as a persistence image or an attribution map.
    """

    images: Float[Tensor, "batch channels height width"]
    labels: Int[Tensor, " batch"]
    indices: Int[Tensor, " batch"]
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.images.shape[0])

    def to(self, device: torch.device) -> "Batch":
        """The same on ``device``; what lies there already is not copied, and copies to a GPU are queued."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=device.type == "cuda")

        extras = {name: move(extra) for name, extra in self.extras.items()}
        return Batch(move(self.images), move(self.labels), move(self.indices), extras)


@dataclass
class ModelOutput:
    """Logits of a batch and the features that were asked for, by name.

    Example:
        >>> output = ModelOutput(torch.zeros(2, 10), {"pooled": torch.ones(2, 64)})
        >>> output["pooled"].shape
        torch.Size([2, 64])
        >>> output["poled"]
        Traceback (most recent call last):
        topokd_lib.errors.FeatureNotFound: this output has no feature 'poled'. Did you mean 'pooled'?
    """

    logits: Float[Tensor, "batch classes"]
    features: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.features:
            require_feature("this", "output", name, self.features)
        return self.features[name]

    def float(self) -> "ModelOutput":
        """The same in float32, whatever precision the network ran in; losses are computed on it."""
        return ModelOutput(
            self.logits.float(), {name: value.float() for name, value in self.features.items()}
        )

    @classmethod
    def untaught(cls, batch: Batch, num_classes: int) -> "ModelOutput":
        """What a batch carries when there is no teacher: logits that are not a number.

        An objective that reads them although the :class:`~topokd_lib.pair.Pair` said that there is no
        teacher makes the loss NaN, and training stops at the first step.
        """
        return cls(torch.full((len(batch), num_classes), torch.nan, device=batch.images.device))
