"""What contrastive objectives remember: a vector of every training image, and which ones come next.

Reference:
    The memory is that of Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020,
    §3.4 [tian2020crd], in the form of the benchmark (HobbitLong/RepDistiller, crd/memory.py).
Explained in:
    book/reference/objectives.md
"""

from math import sqrt

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from topokd_lib.objectives.connectors import unit_rows
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair

__all__ = ["MemoryBank", "NegativeSampler", "Normaliser", "gather_rows", "mean_over_processes"]


class MemoryBank(nn.Module):
    r"""One vector per training image: a running mean of its embeddings, of length 1.

    .. math:: m_i \leftarrow \frac{m}{\lVert m \rVert_2}, \qquad m = \mu \, m_i + (1 - \mu) \, v_i

    All processes hold the whole bank and write what all of them have seen, so that their banks stay equal,
    and equal to the bank of one process that sees all the images by itself.

    Args:
        samples: Number of training images.
        dim: Width of the embeddings.
        momentum: :math:`\mu`, the part that is kept.
        unit: Begin with vectors of length 1. The benchmark's CRD does not: its numbers are uniform in
            :math:`\pm \sqrt{3 / d}`, so that lengths are 1 on average only.

    Raises:
        ValueError: If a size is not positive, or the momentum not in [0, 1).

    Attributes:
        rows: The memory, a persistent buffer.
    """

    rows: Float[Tensor, "samples dim"]

    def __init__(self, samples: int, dim: int, *, momentum: float = 0.5, unit: bool = False) -> None:
        super().__init__()
        if samples < 1 or dim < 1:
            raise ValueError(
                f"a memory bank has at least one row and one column, got samples={samples} and dim={dim}"
            )
        if not 0 <= momentum < 1:
            raise ValueError(
                f"the momentum is the part of a memory that is kept, at least 0 and below 1, got {momentum}"
            )
        self.momentum = momentum
        rows = (2 * torch.rand(samples, dim) - 1) * sqrt(3 / dim)
        self.register_buffer("rows", unit_rows(rows) if unit else rows)

    @torch.no_grad()
    def update(self, indices: Int[Tensor, " batch"], embeddings: Float[Tensor, "batch dim"]) -> None:
        """Move the rows of the images of all processes towards their embeddings.

        An image must not occur twice in a step; which embedding would count is not defined.
        """
        everyone, seen = gather_rows(indices), gather_rows(embeddings.detach())
        self.rows[everyone] = unit_rows(
            self.momentum * self.rows[everyone] + (1 - self.momentum) * seen.to(self.rows)
        )


class Normaliser(nn.Module):
    r"""Divides scores by a constant, which is fixed by the first scores that it sees.

    .. math:: p = o / Z, \qquad Z = N \cdot \operatorname{mean}(o)

    The mean is over the first batch of all processes, without gradient.

    Args:
        samples: :math:`N`, the number of training images.

    Attributes:
        value: :math:`Z`, a persistent buffer; 0 until it is fixed.
    """

    value: Float[Tensor, ""]

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.register_buffer("value", torch.zeros(()))

    def forward(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        if self.value == 0:
            self.value.copy_(self.samples * mean_over_processes(scores.detach().mean()))
        return scores / self.value


class NegativeSampler(nn.Module):
    """Draws the images that a batch is contrasted with: for every image, others of other classes.

    Each step shuffles the training set; the negatives of an image are the first of other classes in that
    order. They are a random subset without repetition, and images of one class share theirs. Because all
    come from one pool of little more than ``negatives`` rows, their scores are one matrix product.

    The order is a function of a seed, which construction takes from torch's generator, and of the number of
    draws so far. Both are in the checkpoint, and the rank is not involved: an interrupted run continues with
    the same negatives, and two processes draw what one would for the same images.

    Args:
        pair: Its labels say which images are of other classes.
        negatives: How many for each image. If a class has not as many images outside of it, all classes get
            the number that the largest one can have.
        objective: Who asks, for messages.

    Raises:
        ValueError: If ``negatives`` is not positive, or all training images are of one class.

    Attributes:
        negatives: The number that is drawn.
    """

    labels: Int[Tensor, " samples"]
    state: Int[Tensor, "2"]

    def __init__(self, pair: Pair, negatives: int, *, objective: str) -> None:
        super().__init__()
        if negatives < 1:
            raise ValueError(f"{objective} needs at least one negative per image, got negatives={negatives}")
        samples, largest = len(pair.train_labels), int(pair.train_labels.bincount().max())
        if largest == samples:
            raise ValueError(
                f"{objective} contrasts an image with images of other classes, and all {samples} training "
                f"images are of one class; use data with at least 2"
            )
        self.objective = objective
        self.negatives = min(negatives, samples - largest)
        self.window = min(samples, self.negatives + largest)
        self.register_buffer("labels", pair.train_labels.clone(), persistent=False)
        self.register_buffer("state", torch.stack([torch.randint(2**62, ()), torch.tensor(0)]))

    def forward(self, batch: Batch) -> tuple[Int[Tensor, " pool"], Int[Tensor, "batch contrasts"]]:
        """The pool and, for every image, the places in it of itself (first) and of its negatives.

        Raises:
            ValueError: If the indices of the batch are not those of its images in the training set.
        """
        self._check(batch)
        seed, step = self.state.tolist()
        self.state[1] += 1
        order = np.random.default_rng((seed, step)).choice(len(self.labels), self.window, replace=False)
        window = torch.from_numpy(order).to(batch.indices)
        other = self.labels[window] != batch.labels[:, None]
        first = other & (other.cumsum(dim=1) <= self.negatives)
        places = first.nonzero()[:, 1].view(len(batch), self.negatives)
        itself = torch.arange(len(batch), device=places.device) + self.window
        return torch.cat([window, batch.indices]), torch.cat([itself[:, None], places], dim=1)

    def _check(self, batch: Batch) -> None:
        samples = len(self.labels)
        known = self.labels[batch.indices.clamp(0, samples - 1)]
        inside = (batch.indices >= 0) & (batch.indices < samples)
        wrong = (~inside | (known != batch.labels)).nonzero().flatten().tolist()
        if wrong:
            index, label = int(batch.indices[wrong[0]]), int(batch.labels[wrong[0]])
            reason = (
                f"there its label is {int(self.labels[index])}"
                if 0 <= index < samples
                else f"there are {samples} training images"
            )
            raise ValueError(
                f"{self.objective} remembers every training image by its index: image {wrong[0]} of the "
                f"batch has index {index} and label {label}, but {reason}; the loader must set "
                f"Batch.indices to positions in Pair.train_labels"
            )


def gather_rows(rows: Float[Tensor, "batch ..."] | Int[Tensor, "batch ..."]) -> Tensor:
    """The rows of all processes, in the order of their ranks; of one process, its own.

    Every process must have equally many, as :class:`~topokd_lib.data.EpochLoader` gives them.
    """
    if not _several_processes():
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def mean_over_processes(value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The mean of a number that every process has computed on as many images."""
    if not _several_processes():
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
