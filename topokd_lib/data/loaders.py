"""Batches whose order and augmentation can be repeated from three numbers: seed, epoch and rank."""

from collections.abc import Iterator

import numpy as np
import torch

from topokd_lib.data.augment import AUGMENTATIONS, Views, crop_padding
from topokd_lib.data.image_data import ImageData, normalise
from topokd_lib.errors import require_name
from topokd_lib.outputs import Batch

__all__ = ["EpochLoader"]


class EpochLoader:
    """Training and test batches of a data set that lies in memory, on whichever device its tensors are.

    Every epoch has its own random order and its own view of each image; both follow from ``(seed, epoch)``,
    and the rank only chooses a share. A run that is resumed at an epoch boundary therefore sees what it would
    have seen, and two devices with batches of 64 see, step by step, the images that one device with batches
    of 128 sees.

    Args:
        data: The images.
        batch_size: Images per step and device.
        augment: ``none``, ``crop`` or ``crop-flip`` (:data:`~topokd_lib.data.augment.AUGMENTATIONS`).
        seed: Of order and views.
        rank: Which of the devices this is, from 0.
        world_size: How many devices share an epoch.

    Raises:
        UnknownName: If there is no such augmentation.
        ValueError: If an argument is out of range, or one step needs more images than there are.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        augment: str = "none",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        require_name("augmentation", augment, AUGMENTATIONS)
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one image, got batch_size={batch_size}")
        if seed < 0:
            raise ValueError(f"a seed must not be negative, got seed={seed}")
        if not 0 <= rank < world_size:
            raise ValueError(f"the rank counts devices from 0, got rank={rank} of world_size={world_size}")
        available = len(data.train_labels)
        if batch_size * world_size > available:
            raise ValueError(
                f"one step needs {batch_size * world_size} training images ({batch_size} on each of "
                f"{world_size} device(s)), {data.name} has {available}; choose a smaller batch_size"
            )
        self.data = data
        self.batch_size = batch_size
        self.augment = augment
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every rank."""
        return len(self.data.train_labels) // (self.batch_size * self.world_size)

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Full batches of this rank's share of epoch ``epoch``, counted from 0.

        A minibatch is a point cloud, and a smaller one has another topology; so the images that do not fill
        a last batch, different ones in each epoch, are left out.

        Raises:
            ValueError: If ``epoch`` is negative.
        """
        if epoch < 0:
            raise ValueError(f"epochs are counted from 0, got epoch={epoch}")
        images, labels = self.data.train_images, self.data.train_labels
        padding = crop_padding(*self.data.image_shape[1:])
        rng = np.random.default_rng((self.seed, epoch))
        order = torch.from_numpy(rng.permutation(len(labels)).astype(np.int64))
        views = Views.draw(len(labels), augment=self.augment, padding=padding, rng=rng)
        steps = order[: self.steps_per_epoch * self.batch_size * self.world_size]
        for chosen in steps.view(self.steps_per_epoch, self.world_size, self.batch_size)[:, self.rank]:
            indices = chosen.to(images.device)
            batch = images[indices]
            if self.augment != "none":
                batch = views.of(chosen).apply(batch, padding)
            yield Batch(normalise(batch, self.data.normalisation), labels[indices], indices)

    def test_batches(self) -> Iterator[Batch]:
        """This rank's share of the test images: every image on exactly one rank, nothing twice.

        Ranks may differ by one image and a share may be empty. Here ``indices`` are positions in the test
        set. Nothing is kept for gradients, so batches are four times as large as in training.
        """
        images, labels = self.data.test_images, self.data.test_labels
        share = torch.arange(len(labels), device=images.device)[self.rank :: self.world_size]
        for start in range(0, len(share), 4 * self.batch_size):
            indices = share[start : start + 4 * self.batch_size]
            yield Batch(normalise(images[indices], self.data.normalisation), labels[indices], indices)
