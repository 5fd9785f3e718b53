"""Data sets too large for the memory: images stay on the disk as JPEG or PNG, and are decoded when needed."""

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from topokd_lib.errors import DataError
from topokd_lib.files import cache_root, write_text
from topokd_lib.outputs import Normalisation

__all__ = ["Damage", "EncodedImages", "ImageFiles", "StreamedImages", "decode", "find_damaged"]


@dataclass(frozen=True)
class Damage:
    """An image that cannot be read.

    Args:
        where: Its file, or its place in a shard.
        why: What the decoder says.
    """

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where} cannot be read as an image ({self.why})"


@dataclass(frozen=True, eq=False)
class EncodedImages(ABC):
    """One part, training or test, of a data set on disk.

    Args:
        names: ``class/file`` of each image in ASCII or UTF-8, in the order of ``Batch.indices``. One array of
            bytes, because a million strings would be copied into every worker process.
        sizes: Bytes of each image.
        labels: Class numbers.
    """

    names: NDArray[Any]
    sizes: NDArray[np.int64]
    labels: Int64[Tensor, " images"]

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def read(self, index: int) -> bytes:
        """The encoded image.

        Raises:
            OSError: If it cannot be read.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Where the image lies, for messages."""

    def take(self, chosen: Int64[Tensor, " chosen"]) -> "EncodedImages":
        """Some of the images, in the order of ``chosen``."""
        at = chosen.numpy()
        return replace(self, names=self.names[at], sizes=self.sizes[at], labels=self.labels[chosen])

    def without(self, left_out: Sequence[int]) -> "EncodedImages":
        """All but some of the images."""
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[list(left_out)] = False
        return self.take(kept.nonzero().flatten())


@dataclass(frozen=True, eq=False)
class ImageFiles(EncodedImages):
    """Images kept as one file each, ``root/class/file``."""

    root: Path

    def read(self, index: int) -> bytes:
        return self._path(index).read_bytes()

    def where(self, index: int) -> str:
        return str(self._path(index))

    def _path(self, index: int) -> Path:
        return self.root / str(self.names[index], "utf-8")


@dataclass(frozen=True, eq=False)
class StreamedImages:
    """A data set that is decoded as it is read; :class:`~topokd_lib.data.StreamLoader` serves it.

    Args:
        name: For messages and records.
        train: Training images.
        test: Test images.
        classes: Name of each class.
        normalisation: What batches are normalised with.
        image_size: Height and width of what the networks see.
        resize: Shorter side to which a test image is scaled before its middle is cut out.
        skipped: Images that were left out because they are damaged.

    Raises:
        ValueError: If a size is not positive, ``resize`` is below ``image_size``, or a part has no images.
    """

    name: str
    train: EncodedImages
    test: EncodedImages
    classes: tuple[str, ...]
    normalisation: Normalisation
    image_size: int = 224
    resize: int = 256
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= self.resize:
            raise ValueError(
                f"images of {self.name} are scaled to resize pixels and cropped to image_size, so that must "
                f"be positive and not larger; got image_size={self.image_size} and resize={self.resize}"
            )
        for part, images in (("training", self.train), ("test", self.test)):
            if not len(images):
                raise ValueError(f"{self.name} has no {part} images")

    @property
    def train_labels(self) -> Int64[Tensor, " train"]:
        """Class numbers of the training images."""
        return self.train.labels

    @property
    def test_labels(self) -> Int64[Tensor, " test"]:
        """Class numbers of the test images."""
        return self.test.labels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the networks see."""
        return len(self.normalisation.mean), self.image_size, self.image_size

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any name, size in bytes, label or setting.

        The pixels are not read: that would take as long as an epoch. An image that was replaced by another
        of the same name and length goes unnoticed. Folder and shards of the same images agree.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            digest.update(repr(len(part)).encode())
            digest.update(b"\n".join(part.names.tolist()))
            for numbers in (part.sizes, part.labels.numpy()):
                digest.update(np.ascontiguousarray(numbers, dtype="<i8").data)
        settings = (self.classes, self.normalisation, self.image_size, self.resize)
        digest.update(repr(settings).encode())
        return digest.hexdigest()[:16]

    def without_damaged(
        self, *, workers: int = 4, progress: Callable[[str, int, int], None] | None = None
    ) -> "StreamedImages":
        """Leave out the images that cannot be decoded; they are named in ``skipped``.

        The first time, every image is decoded; what was found is kept in the cache.
        """
        kept_in = cache_root() / "damaged" / f"{self.fingerprint()}.json"
        try:
            damaged = json.loads(kept_in.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            damaged = {
                part: [
                    [index, str(damage)]
                    for index, damage in find_damaged(images, workers=workers, progress=progress)
                ]
                for part, images in (("train", self.train), ("test", self.test))
            }
            kept_in.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept_in, json.dumps(damaged), shared=True)
        skipped = [why for part in damaged.values() for _, why in part]
        return replace(
            self,
            train=self.train.without([index for index, _ in damaged["train"]]),
            test=self.test.without([index for index, _ in damaged["test"]]),
            skipped=(*self.skipped, *skipped),
        )


def decode(encoded: bytes) -> UInt8[Tensor, "3 height width"]:
    """The pixels of a JPEG, PNG, GIF or WebP file in RGB, whatever its name says.

    Raises:
        ValueError: If the file is damaged, not complete, or of another kind.
    """
    if not encoded:
        raise ValueError("it is empty")
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:  # torchvision has announced that it will go
        return _decode_with_pillow(encoded)
    try:
        image = decode_image(torch.frombuffer(bytearray(encoded), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except RuntimeError as error:  # "function, file.cpp:line, what is wrong", and a C++ trace below it
        first = str(error).splitlines()[0]
        raise ValueError(first.rpartition(".cpp:")[2].partition(", ")[2] or first) from None
    return torch.as_tensor(image)


def _decode_with_pillow(encoded: bytes) -> UInt8[Tensor, "3 height width"]:
    """The same pixels in two to three times the time."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, SyntaxError) as error:  # it depends on where Pillow gives up
        raise ValueError(str(error)) from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


# ------------------------------------------------------------------------------------- a look at them all


class _Checked(Dataset[Any]):
    """Tells of each image whether it can be decoded."""

    def __init__(self, images: EncodedImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Damage | None:
        try:
            decode(self.images.read(index))
        except (OSError, ValueError) as error:
            return Damage(self.images.where(index), reason(error))
        return None


def find_damaged(
    images: EncodedImages, *, workers: int = 4, progress: Callable[[str, int, int], None] | None = None
) -> Iterator[tuple[int, Damage]]:
    """Decode all images, and yield position and description of those that cannot be.

    Args:
        images: What to look at.
        workers: Processes that decode; 0 decodes here.
        progress: Called with a name, how many are done, and how many there are.
    """
    loader = DataLoader(
        _Checked(images),
        batch_size=64,
        num_workers=min(workers, processors()),
        collate_fn=_as_list,
        generator=torch.Generator(),  # the global one is not touched
    )
    done = 0
    for found in loader:
        yield from ((done + offset, damage) for offset, damage in enumerate(found) if damage is not None)
        done += len(found)
        if progress is not None:
            progress("reading images", done, len(images))


def _as_list(found: Sequence[Any]) -> list[Any]:
    return list(found)


def processors() -> int:
    """Those that this process may use; more workers than that only get in each other's way."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def reason(error: Exception) -> str:
    """Why a file cannot be read, in a few words."""
    return str((isinstance(error, OSError) and error.strerror) or error)


def way_out(damage: Damage) -> DataError:
    """The error about an image that was met in training, and what to do."""
    return DataError(
        f"{damage}; copy it again, or leave such images out, listed in the run's record: "
        f"data.options.damaged=skip"
    )
