"""Batches of a data set that does not fit in memory: worker processes decode, crop and mirror."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from topokd_lib.data.encoded import Damage, EncodedImages, StreamedImages, decode, processors, reason, way_out
from topokd_lib.data.image_data import normalise
from topokd_lib.data.shares import Shares
from topokd_lib.errors import UnknownName, require_name
from topokd_lib.outputs import Batch

__all__ = ["STREAM_AUGMENTATIONS", "StreamLoader", "centre_view", "random_view"]

STREAM_AUGMENTATIONS = ("none", "resized-crop", "resized-crop-flip")
"""What training images may be put through: a random part of them, scaled, and mirrored half of the time."""

PREFETCH = 4
"""Batches that each worker prepares ahead."""


def random_view(
    image: UInt8[Tensor, "channels height width"], size: int, *, flip: bool, seed: tuple[int, ...]
) -> UInt8[Tensor, "channels size size"]:
    """A random part of the image, 8 % to 100 % of its area and 3:4 to 4:3 in shape, scaled to a square.

    The part is drawn by torchvision's ``RandomResizedCrop`` and scaled bilinearly with antialiasing. It
    depends on ``seed`` and the image's size alone; the global generators are neither read nor moved.
    """
    from torchvision.transforms import RandomResizedCrop
    from torchvision.transforms.v2 import functional as transform

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1)
        top, left, height, width = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        mirrored = flip and bool(torch.rand(()) < 0.5)
    view = transform.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return torch.as_tensor(view.flip(2) if mirrored else view)


def centre_view(
    image: UInt8[Tensor, "channels height width"], size: int, *, resize: int
) -> UInt8[Tensor, "channels size size"]:
    """The middle square of the image after its shorter side is scaled to ``resize``."""
    from torchvision.transforms.v2 import functional as transform

    scaled = transform.resize(image, [resize], antialias=True)
    return torch.as_tensor(transform.center_crop(scaled, [size]))


class StreamLoader:
    """Training and test batches of images that are decoded as they are needed.

    Order and views follow from ``(seed, epoch)`` and the image; the number of workers changes nothing, and
    the rank only chooses a share, exactly as in :class:`~topokd_lib.data.EpochLoader`.

    Args:
        data: The images.
        batch_size: Images per step and device.
        augment: One of :data:`STREAM_AUGMENTATIONS`; ``none`` shows the middle, as in the test.
        seed: Of order and views.
        rank: Which of the devices this is, from 0.
        world_size: How many devices share an epoch.
        workers: Processes that read and decode, at most one on each processor; 0 does it in this process.
        device: Where batches are normalised; bytes travel there, a quarter of the numbers.

    Raises:
        UnknownName: If there is no such augmentation.
        ValueError: If an argument is out of range, or one step needs more images than there are.
    """

    def __init__(
        self,
        data: StreamedImages,
        *,
        batch_size: int,
        augment: str = "none",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 4,
        device: torch.device | str = "cpu",
    ) -> None:
        if augment in ("crop", "crop-flip"):
            raise UnknownName(
                f"augment={augment!r} pads and shifts small images that lie in memory; {data.name} is read "
                f"from disk and takes {', '.join(STREAM_AUGMENTATIONS)}"
            )
        require_name("augmentation", augment, STREAM_AUGMENTATIONS)
        if workers < 0:
            raise ValueError(f"the number of workers must not be negative, got workers={workers}")
        self.data = data
        self.batch_size = batch_size
        self.augment = augment
        self.workers = workers
        self.device = torch.device(device)
        self.shares = Shares(data.name, len(data.train), len(data.test), batch_size, seed, rank, world_size)
        views = _Views(augment, data.image_size, data.resize, seed)
        self._train = self._serving(data.train, views, persistent=True)
        self._test = self._serving(data.test, _Views("none", data.image_size, data.resize, seed))

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every rank."""
        return self.shares.steps_per_epoch

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Full batches of this rank's share of epoch ``epoch``, counted from 0.

        Raises:
            DataError: If an image cannot be read; the message names it.
            ValueError: If ``epoch`` is negative.
        """
        yield from self._batches(self._train, self.shares.train_steps(self.shares.rng(epoch)).tolist(), epoch)

    def test_batches(self) -> Iterator[Batch]:
        """This rank's share of the test images: every image on exactly one rank, nothing twice.

        Raises:
            DataError: If an image cannot be read; the message names it.
        """
        yield from self._batches(self._test, [step.tolist() for step in self.shares.test_steps()], epoch=0)

    def _batches(
        self, serving: "DataLoader[Any]", steps: Sequence[Sequence[int]], epoch: int
    ) -> Iterator[Batch]:
        order = serving.batch_sampler
        assert isinstance(order, _Order)
        order.steps = [[(index, epoch) for index in step] for step in steps]
        for served in serving:
            if isinstance(served, Damage):
                raise way_out(served)
            images, labels, indices = (part.to(self.device, non_blocking=True) for part in served)
            yield Batch(normalise(images, self.data.normalisation), labels, indices)

    def _serving(
        self, images: EncodedImages, views: "_Views", *, persistent: bool = False
    ) -> "DataLoader[Any]":
        parallel: dict[str, Any] = {}
        if self.workers:
            parallel = {"prefetch_factor": PREFETCH, "persistent_workers": persistent}
        return DataLoader(
            _Decoded(images, views),
            batch_sampler=_Order(),
            num_workers=min(self.workers, processors()),
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # the global one is not touched
            **parallel,
        )


# ------------------------------------------------------------------------------------------ in the workers


@dataclass(frozen=True)
class _Views:
    """What an image is put through."""

    augment: str
    size: int
    resize: int
    seed: int

    def of(self, image: Tensor, index: int, epoch: int) -> Tensor:
        if self.augment == "none":
            return centre_view(image, self.size, resize=self.resize)
        flip = self.augment == "resized-crop-flip"
        return random_view(image, self.size, flip=flip, seed=(self.seed, epoch, index))


class _Order(Sampler[list[tuple[int, int]]]):
    """Positions and epochs of the images of every step; a new epoch brings new ones to the same workers."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Decoded(Dataset[Any]):
    def __init__(self, images: EncodedImages, views: _Views) -> None:
        self.images = images
        self.views = views

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int, int] | Damage:
        index, epoch = place
        try:
            image = decode(self.images.read(index))
        except (OSError, ValueError) as error:
            return Damage(self.images.where(index), reason(error))
        return self.views.of(image, index, epoch), int(self.images.labels[index]), index


def _collate(items: Sequence[Any]) -> tuple[Tensor, Tensor, Tensor] | Damage:
    """A batch, or the first damage in it: an error that is raised in a worker would arrive as a trace."""
    for item in items:
        if isinstance(item, Damage):
            return item
    images, labels, indices = zip(*items, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(indices)
