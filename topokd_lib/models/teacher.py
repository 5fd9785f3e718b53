"""The teacher: a frozen network that sees the batch and is never trained."""

import hashlib
from collections.abc import Collection
from copy import deepcopy

import torch
from torch import Tensor, nn

from topokd_lib.models.base import FeatureModel
from topokd_lib.outputs import Batch, ModelOutput, Normalisation

__all__ = ["Teacher"]


class Teacher(nn.Module):
    """A network that is frozen, in evaluation mode, and normalises images as it was trained to.

    Calling ``train()`` on it, or on a module that contains it, changes nothing: a teacher that silently
    normalises by batch statistics is the commonest slip in published distillation code.

    Args:
        model: The network. Its parameters stop requiring gradients.
        normalisation: What the network was trained with; ``None`` means the same as the data.
        data_normalisation: What the batches are normalised with.
        batch_statistics: Normalise by the statistics of the batch instead of the running ones (the official
            code of OFD does so, and TopKD's when it makes point clouds). Running statistics stay untouched.

    Raises:
        ValueError: If only one of the two normalisations is given.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: FeatureModel,
        *,
        normalisation: Normalisation | None = None,
        data_normalisation: Normalisation | None = None,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        if (normalisation is None) != (data_normalisation is None):
            raise ValueError(
                "to translate images into the teacher's normalisation both are needed: the teacher's "
                f"(got {normalisation}) and the data's (got {data_normalisation})"
            )
        self.model = model.requires_grad_(requires_grad=False)
        self.batch_statistics = False
        scale, shift = _translation(normalisation, data_normalisation)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.train()
        if batch_statistics:
            self._use_batch_statistics()

    @property
    def name(self) -> str:
        """The network's name."""
        return self.model.name

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.model.num_classes

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The features that can be asked for."""
        return self.model.feature_names

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any weight; artefacts carry those of their teacher."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def with_batch_statistics(self) -> "Teacher":
        """A copy that normalises by the statistics of each batch; this one stays as it is."""
        other = deepcopy(self)
        other._use_batch_statistics()
        return other

    def _use_batch_statistics(self) -> None:
        self.batch_statistics = True
        for module in self.model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = 0.0  # running statistics are not what changes here
        self.train()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode, whatever ``mode`` says."""
        super().train(mode=False)
        if self.batch_statistics:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
        return self

    @torch.no_grad()
    def forward(self, batch: Batch, names: Collection[str] = ()) -> ModelOutput:
        """Logits and named features of the batch, without gradient.

        Raises:
            FeatureNotFound: If the network offers no such feature.
        """
        images = batch.images
        if self.scale.numel():
            images = images * self.scale + self.shift
        return self.model.extract(images, names)


def _translation(own: Normalisation | None, data: Normalisation | None) -> tuple[Tensor, Tensor]:
    """Factor and offset that turn the data's normalised pixels into the teacher's."""
    if own is None or data is None or own == data:
        return torch.empty(0), torch.empty(0)
    own_mean, own_std = torch.tensor(own.mean), torch.tensor(own.std)
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    return (std / own_std)[:, None, None], ((mean - own_mean) / own_std)[:, None, None]
