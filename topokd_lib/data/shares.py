"""Which images a device sees in which step: a function of seed, epoch and rank, and of nothing else."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["Shares"]


@dataclass(frozen=True)
class Shares:
    """The shares that devices have in a data set.

    Args:
        name: Of the data set, for messages.
        train: Number of training images.
        test: Number of test images.
        batch_size: Training images per step and device.
        seed: Of the order.
        rank: Which of the devices this is, from 0.
        world_size: How many devices share an epoch.

    Raises:
        ValueError: If an argument is out of range, or one step needs more images than there are.
    """

    name: str
    train: int
    test: int
    batch_size: int
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"a batch holds at least one image, got batch_size={self.batch_size}")
        if self.seed < 0:
            raise ValueError(f"a seed must not be negative, got seed={self.seed}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"the rank counts devices from 0, got rank={self.rank} of world_size={self.world_size}"
            )
        if self.batch_size * self.world_size > self.train:
            raise ValueError(
                f"one step needs {self.batch_size * self.world_size} training images ({self.batch_size} on "
                f"each of {self.world_size} device(s)), {self.name} has {self.train}; choose a smaller "
                f"batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every rank."""
        return self.train // (self.batch_size * self.world_size)

    def rng(self, epoch: int) -> np.random.Generator:
        """What everything random in an epoch is drawn from, the order first.

        Raises:
            ValueError: If ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epochs are counted from 0, got epoch={epoch}")
        return np.random.default_rng((self.seed, epoch))

    def train_steps(self, rng: np.random.Generator) -> Int64[Tensor, "steps batch"]:
        """Positions of this rank's training images in each step; what fills no last batch is left out."""
        order = torch.from_numpy(rng.permutation(self.train).astype(np.int64))
        kept = order[: self.steps_per_epoch * self.batch_size * self.world_size]
        return kept.view(self.steps_per_epoch, self.world_size, self.batch_size)[:, self.rank]

    def test_steps(self) -> list[Int64[Tensor, " batch"]]:
        """Positions of the test images of this rank: every image on exactly one rank, nothing twice.

        Ranks may differ by one image and a share may be empty. Nothing is kept for gradients, so batches are
        four times as large as in training.
        """
        share = torch.arange(self.test)[self.rank :: self.world_size]
        return list(share.split(4 * self.batch_size)) if len(share) else []
