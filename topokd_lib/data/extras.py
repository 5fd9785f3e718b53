"""What a batch carries beside its images: arrays made beforehand, one for each image, or computed on the way.

An artefact is a directory. Its arrays stay on disk and are mapped into memory, so that those of CIFAR-10, a
gigabyte of persistence images, cost as much memory as the system has to spare.

==============================  ===================================================================
``train.npy``, ``test.npy``     one array per image, in the order of the data set
``train_labels.npy``, …         their labels, so that the arrays can be taught as images of their own
``about.json``                  of which data, how they were made, shape and normalisation
==============================  ===================================================================
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from topokd_lib.data.encoded import StreamedImages
from topokd_lib.data.image_data import ImageData
from topokd_lib.errors import ArtefactMismatch, DataError
from topokd_lib.outputs import Batch, Normalisation

__all__ = [
    "FORMAT",
    "TGD_NORMALISATION",
    "BatchSource",
    "ComputedExtra",
    "Extra",
    "LoaderWithExtras",
    "SampleArrays",
    "load_prepared_images",
    "pixels",
]

FORMAT = "topokd-extra-1"

TGD_NORMALISATION = Normalisation(
    (0.05165074, 0.05487815, 0.06697452) * 2, (0.12468914, 0.12733056, 0.13768335) * 2
)
"""What jeunsom/TGD normalises persistence images of CIFAR-10 with. The numbers are those of the scan by
columns and stand for both scans; rows measure about 0.057, 0.061, 0.074 and 0.129, 0.132, 0.141."""

Part = Literal["train", "test"]


@runtime_checkable
class Extra(Protocol):
    """One further tensor for each image of a batch."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor of one image."""

    def __call__(self, batch: Batch, part: Part) -> Tensor:
        """The tensors of a batch of training or test images."""


@dataclass(frozen=True, eq=False)
class SampleArrays:
    """Arrays made beforehand, one for each training and each test image of a data set.

    Args:
        path: The artefact; see the module.
        about: What ``about.json`` says.
        train: Arrays of the training images.
        test: Arrays of the test images.
    """

    path: Path
    about: Mapping[str, Any]
    train: npt.NDArray[np.generic]
    test: npt.NDArray[np.generic]

    @classmethod
    def open(cls, path: Path | str) -> "SampleArrays":
        """Map an artefact into memory.

        Raises:
            DataError: If there is none, it is not finished, or it is damaged.
        """
        path = Path(path)
        if not path.is_dir():
            begun = path.with_name(f"{path.name}.partial")
            state = f"is not finished ({begun} is its beginning)" if begun.exists() else "is not there"
            raise DataError(f"the artefact {path} {state}; `topokd prepare` makes it: see the recipe")
        try:
            about = json.loads((path / "about.json").read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")  # noqa: TRY301
            train, test = (np.load(path / f"{part}.npy", mmap_mode="c") for part in ("train", "test"))
            if train.shape[1:] != test.shape[1:]:
                raise ValueError(f"shapes {train.shape} and {test.shape}")  # noqa: TRY301
        except (KeyError, OSError, TypeError, ValueError) as error:
            raise DataError(
                f"the artefact {path} is damaged ({error}); delete it and prepare it again"
            ) from None
        return cls(path, about, train, test)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    def require(self, data: ImageData | StreamedImages) -> None:
        """Make sure that these arrays belong to the images of ``data``.

        Raises:
            ArtefactMismatch: If they were made of others.
        """
        fingerprint = data.fingerprint()
        if self.about["data_fingerprint"] != fingerprint:
            raise ArtefactMismatch(
                f"{self.path} was made of the data {self.about['data']} with fingerprint "
                f"{self.about['data_fingerprint']}, not of {data.name} with {fingerprint}; prepare it again "
                f"for these images"
            )

    def __call__(self, batch: Batch, part: Part) -> Tensor:
        arrays = self.train if part == "train" else self.test
        return torch.from_numpy(arrays[batch.indices.cpu().numpy()]).to(batch.images.device)


@dataclass(frozen=True, eq=False)
class ComputedExtra:
    """Tensors computed from the images of a batch as they are seen, after cropping and flipping.

    Args:
        compute: From pixels 0 … 255 to the tensors.
        normalisation: What the images of batches are normalised with.
        image_shape: Channels, height and width of an image.
    """

    compute: Callable[[UInt8[Tensor, "batch channels height width"]], Tensor]
    normalisation: Normalisation
    image_shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.compute(torch.zeros(1, *self.image_shape, dtype=torch.uint8)).shape[1:])

    def __call__(self, batch: Batch, part: Part) -> Tensor:
        return self.compute(pixels(batch.images, self.normalisation))


@runtime_checkable
class BatchSource(Protocol):
    """Anything that gives batches as :class:`~topokd_lib.data.EpochLoader` does."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch."""

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Training batches of an epoch, counted from 0."""

    def test_batches(self) -> Iterator[Batch]:
        """Test batches."""


class LoaderWithExtras:
    """A loader whose batches carry extras, training and test batches alike.

    Args:
        loader: Gives the batches.
        extras: What they carry, by name.
    """

    def __init__(self, loader: BatchSource, extras: Mapping[str, Extra]) -> None:
        self._loader = loader
        self._extras = dict(extras)

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every rank."""
        return self._loader.steps_per_epoch

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """The loader's training batches with their extras."""
        return self._with_extras(self._loader.train_batches(epoch), "train")

    def test_batches(self) -> Iterator[Batch]:
        """The loader's test batches with their extras."""
        return self._with_extras(self._loader.test_batches(), "test")

    def _with_extras(self, batches: Iterator[Batch], part: Part) -> Iterator[Batch]:
        for batch in batches:
            batch.extras |= {name: extra(batch, part) for name, extra in self._extras.items()}
            yield batch


def pixels(
    images: Float[Tensor, "batch channels height width"], normalisation: Normalisation
) -> UInt8[Tensor, "batch channels height width"]:
    """Grey levels 0 … 255 of normalised images: the inverse of :func:`~topokd_lib.data.normalise`.

    Example:
        >>> white = torch.full((1, 1, 1, 1), 2.0)
        >>> pixels(white, Normalisation((0.5,), (0.25,))).item()
        255
    """
    mean = torch.tensor(normalisation.mean, device=images.device)[:, None, None]
    std = torch.tensor(normalisation.std, device=images.device)[:, None, None]
    return (images * std).add_(mean).mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def load_prepared_images(
    artefact: Path | str, *, statistics: Literal["measured", "tgd"] = "measured"
) -> ImageData:
    """The arrays of an artefact as images of their own, with the labels of the images they were made of.

    A teacher that reads persistence images is trained on these like any other network.

    Args:
        artefact: As :func:`~topokd_lib.prepare.prepare_image_persistence` writes it.
        statistics: What they are normalised with: mean and standard deviation as measured on the training
            images, or :data:`TGD_NORMALISATION`.

    Raises:
        DataError: If the artefact is not there or damaged.
        ValueError: If the statistics are unknown, or are TGD's and there are not six channels.
    """
    if statistics not in ("measured", "tgd"):
        raise ValueError(f"statistics are 'measured' or 'tgd', got {statistics!r}")
    arrays = SampleArrays.open(artefact)
    about = arrays.about
    try:
        labels = [np.load(arrays.path / f"{part}_labels.npy") for part in ("train", "test")]
        measured = Normalisation(*(tuple(about["normalisation"][name]) for name in ("mean", "std")))
        classes, name = tuple(about["classes"]), f"{arrays.path.name} of {about['data']}"
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise DataError(f"the artefact {artefact} holds no images with labels ({error})") from None
    return ImageData(
        name,
        torch.from_numpy(arrays.train),
        torch.from_numpy(labels[0]),
        torch.from_numpy(arrays.test),
        torch.from_numpy(labels[1]),
        classes,
        TGD_NORMALISATION if statistics == "tgd" else measured,
    )
