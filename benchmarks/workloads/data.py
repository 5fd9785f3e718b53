"""Batches of CIFAR with crops and mirrors, next to the usual pipeline on one image after the other."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as transform

from benchmarks.measure import Case, Contender
from topokd_lib.data import EpochLoader, ImageData
from topokd_lib.data.augment import Views
from topokd_lib.data.cifar import NORMALISATION

TITLE = "A training batch of 64: crop of the padded image, mirror, normalise; per image"

BATCH, PADDING = 64, 4


def cases(quick: bool) -> Iterator[Case]:
    """As many images as CIFAR-100 has, of noise."""
    yield _case(5_000 if quick else 50_000)


class _OneByOne(Dataset[Any]):
    """torchvision's functions on Pillow images, with the offsets that our loader draws."""

    def __init__(self, data: ImageData, views: Views) -> None:
        self.images = data.train_images.permute(0, 2, 3, 1).numpy()
        self.labels = data.train_labels.tolist()
        self.places = list(zip(views.rows.tolist(), views.columns.tolist(), strict=True))
        self.mirrored = views.mirrored.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = transform.pad(Image.fromarray(self.images[index]), [PADDING])
        image = transform.crop(image, *self.places[index], 32, 32)
        if self.mirrored[index]:
            image = transform.hflip(image)
        scale = NORMALISATION["cifar100"]
        pixels = transform.normalize(transform.to_tensor(image), list(scale.mean), list(scale.std))
        return pixels, self.labels[index]


def _case(count: int) -> Case:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    images, labels = torch.from_numpy(pixels), torch.arange(count) % 100
    names = tuple(map(str, range(100)))
    data = ImageData("noise", images, labels, images[:100], labels[:100], names, NORMALISATION["cifar100"])
    loader = EpochLoader(data, batch_size=BATCH, augment="crop-flip")
    rng = loader.shares.rng(0)
    order = loader.shares.train_steps(rng).flatten().tolist()
    views = Views.draw(count, augment="crop-flip", padding=PADDING, rng=rng)
    usual = DataLoader(_OneByOne(data, views), batch_size=BATCH, sampler=order)

    def first(batches: Iterator[torch.Tensor], items: int) -> np.ndarray:
        seen = [batch for batch, _ in zip(batches, range(-(-items // BATCH)), strict=False)]
        return seen[0][:4].numpy()

    return Case(
        f"{count} images",
        (
            Contender(
                "torchvision on Pillow, DataLoader",
                lambda items: first((images for images, _ in usual), items),
                items=5 * BATCH,
            ),
            Contender(
                "ours",
                lambda items: first((batch.images for batch in loader.train_batches(0)), items),
                items=100 * BATCH if count > 10_000 else 50 * BATCH,
            ),
        ),
        tolerance=1e-6,
    )
