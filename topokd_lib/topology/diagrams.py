"""Persistence diagrams of a whole batch in one tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["PersistenceDiagrams"]


@dataclass(frozen=True, eq=False)
class PersistenceDiagrams:
    """One persistence diagram per cloud, padded to the same number of bars.

    Args:
        pairs: Birth and death of every bar, in filtration units; an essential bar dies at infinity. Where
            ``mask`` is false the row is padding and holds 0. Padding may stand anywhere.
        mask: True where a bar is real.
        dimension: Homology dimension: 0 components, 1 loops, 2 voids.

    Raises:
        ValueError: If the shapes do not belong together, or the dimension is negative.

    Example:
        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0], [0.0, 3.0]], [[0.0, 2.0]]], dimension=0)
        >>> len(diagrams), diagrams.counts.tolist(), diagrams.persistence.tolist()
        (2, [2, 1], [[1.0, 3.0], [2.0, 0.0]])
        >>> diagrams[1]
        tensor([[0., 2.]])
    """

    pairs: Float[Tensor, "batch bars 2"]
    mask: Bool[Tensor, "batch bars"]
    dimension: int

    def __post_init__(self) -> None:
        if self.pairs.ndim != 3 or self.pairs.shape[2] != 2 or self.mask.shape != self.pairs.shape[:2]:
            raise ValueError(
                f"diagrams are pairs of shape (batch, bars, 2) and a mask of shape (batch, bars), got "
                f"{tuple(self.pairs.shape)} and {tuple(self.mask.shape)}; "
                f"PersistenceDiagrams.from_list pads diagrams of different size"
            )
        if self.dimension < 0:
            raise ValueError(f"homology dimensions are counted from 0, got {self.dimension}")

    @property
    def births(self) -> Float[Tensor, "batch bars"]:
        """Filtration value at which each bar begins; 0 in padding."""
        return self.pairs[..., 0]

    @property
    def deaths(self) -> Float[Tensor, "batch bars"]:
        """Filtration value at which each bar ends, infinity for an essential one; 0 in padding."""
        return self.pairs[..., 1]

    @property
    def persistence(self) -> Float[Tensor, "batch bars"]:
        """Length of each bar, death minus birth; 0 in padding."""
        return self.deaths - self.births

    @property
    def counts(self) -> Int[Tensor, " batch"]:
        """Number of real bars in each diagram."""
        return self.mask.sum(dim=1)

    def __len__(self) -> int:
        return int(self.pairs.shape[0])

    def __getitem__(self, index: int) -> Float[Tensor, "bars 2"]:
        """One diagram without its padding."""
        return self.pairs[index][self.mask[index]]

    def to_list(self) -> list[Tensor]:
        """Every diagram without its padding; the inverse of :meth:`from_list`."""
        return [self[index] for index in range(len(self))]

    def flat(self) -> Float[Tensor, "bars 2"]:
        """The real bars of all diagrams, one diagram after the other."""
        return self.pairs[self.mask]

    @classmethod
    def from_list(cls, diagrams: Sequence[Any], dimension: int) -> "PersistenceDiagrams":
        """Pad diagrams of different size, given as tensors, arrays or nested lists of (birth, death).

        Gradients flow through tensors. An empty diagram may be given as ``[]``.

        Raises:
            ValueError: If there is no diagram, or one is not of shape (bars, 2), or has a bar that is not a
                number or dies before it is born.
        """
        if len(diagrams) == 0:
            raise ValueError("a batch holds at least one diagram, got an empty list")
        tensors = [_diagram(index, diagram) for index, diagram in enumerate(diagrams)]
        dtype = max((tensor.dtype for tensor in tensors), key=lambda dtype: torch.finfo(dtype).bits)
        pairs = pad_sequence([tensor.to(dtype) for tensor in tensors], batch_first=True)
        counts = torch.tensor([len(tensor) for tensor in tensors], device=pairs.device)
        mask = torch.arange(pairs.shape[1], device=pairs.device) < counts[:, None]
        return cls(pairs, mask, dimension)


def _diagram(index: int, diagram: Any) -> Tensor:
    tensor = diagram if isinstance(diagram, Tensor) else torch.as_tensor(np.asarray(diagram))
    if isinstance(diagram, (list, tuple)) or not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    if tensor.numel() == 0:
        tensor = tensor.reshape(0, 2)
    if tensor.ndim != 2 or tensor.shape[1] != 2:
        raise ValueError(f"diagram {index} must have the shape (bars, 2), got {tuple(tensor.shape)}")
    wrong = ~(tensor.detach()[:, 1] >= tensor.detach()[:, 0])
    if wrong.any():
        bar = int(wrong.nonzero()[0])
        raise ValueError(
            f"diagram {index}, bar {bar} is (birth, death) = {tuple(tensor[bar].tolist())}; "
            f"a bar dies no earlier than it is born, and both are numbers"
        )
    return tensor
