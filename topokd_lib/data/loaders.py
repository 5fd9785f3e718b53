"""Batches whose order and augmentation can be repeated from three numbers: seed, epoch and rank."""

from collections.abc import Iterator

from topokd_lib.data.augment import AUGMENTATIONS, Views, crop_padding
from topokd_lib.data.image_data import ImageData, normalise
from topokd_lib.data.shares import Shares
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
        self.data = data
        self.batch_size = batch_size
        self.augment = augment
        self.shares = Shares(
            data.name, len(data.train_labels), len(data.test_labels), batch_size, seed, rank, world_size
        )

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every rank."""
        return self.shares.steps_per_epoch

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Full batches of this rank's share of epoch ``epoch``, counted from 0.

        ``extras["view"]`` is the number of each image's view, see :class:`~topokd_lib.data.augment.Views`.
        A minibatch is a point cloud, and a smaller one has another topology; so the images that do not fill
        a last batch, different ones in each epoch, are left out.

        Raises:
            ValueError: If ``epoch`` is negative.
        """
        images, labels = self.data.train_images, self.data.train_labels
        padding = crop_padding(*self.data.image_shape[1:])
        rng = self.shares.rng(epoch)
        steps = self.shares.train_steps(rng)
        views = Views.draw(len(labels), augment=self.augment, padding=padding, rng=rng).to(images.device)
        numbers = views.number(augment=self.augment, padding=padding)
        for indices in steps.to(images.device):  # once per epoch: a copy in every step would make it wait
            batch = images[indices]
            if self.augment != "none":
                batch = views.of(indices).apply(batch, padding)
            batch = normalise(batch, self.data.normalisation)
            yield Batch(batch, labels[indices], indices, {"view": numbers[indices]})

    def test_batches(self) -> Iterator[Batch]:
        """This rank's share of the test images: every image on exactly one rank, nothing twice.

        Here ``indices`` are positions in the test set.
        """
        images, labels = self.data.test_images, self.data.test_labels
        for chosen in self.shares.test_steps():
            indices = chosen.to(images.device)
            yield Batch(normalise(images[indices], self.data.normalisation), labels[indices], indices)
