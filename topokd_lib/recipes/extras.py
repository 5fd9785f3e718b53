"""What batches carry beside their images, as a recipe says it."""

from dataclasses import dataclass, replace
from pathlib import Path

from topokd_lib.data import (
    ComputedExtra,
    Extra,
    ImageData,
    SampleArrays,
    StreamedImages,
    load_prepared_images,
)
from topokd_lib.errors import ArtefactMismatch
from topokd_lib.topology import ImagePersistence
from topokd_lib.training import StudentInfo

__all__ = ["ExtraSpec", "require_trained_on"]


@dataclass
class ExtraSpec:
    """What batches carry beside their images: one of the two.

    Args:
        artefact: Arrays made beforehand, as ``topokd prepare image-persistence`` writes them.
        compute: Persistence images computed batch by batch from the images as they are seen, augmented.
    """

    artefact: Path | None = None
    compute: ImagePersistence | None = None

    def __post_init__(self) -> None:
        if (self.artefact is None) == (self.compute is None):
            raise ValueError("an extra of a batch comes from an artefact or is computed: name one of the two")

    def load(self, data: ImageData | StreamedImages) -> Extra:
        """The extra for batches of ``data``.

        Raises:
            DataError: If the artefact is not there or damaged.
            ArtefactMismatch: If it was made of other images.
        """
        if self.compute is not None:
            return ComputedExtra(self.compute, data.normalisation, data.image_shape)
        assert self.artefact is not None  # checked above
        arrays = SampleArrays.open(self.artefact)
        arrays.require(data)
        return arrays


def require_trained_on(arrays: SampleArrays, weights: Path, about: StudentInfo) -> None:
    """Make sure that a network was trained on these arrays, as images of their own.

    Args:
        arrays: What it is going to read.
        weights: Where it comes from, for the message.
        about: What its file says about it; a network that does not know its data is not refused.

    Raises:
        ArtefactMismatch: If it was trained on other images.
    """
    if about.data_fingerprint is None:
        return
    images = load_prepared_images(arrays.path)
    found = replace(images, normalisation=about.normalisation or images.normalisation).fingerprint()
    if found != about.data_fingerprint:
        raise ArtefactMismatch(
            f"the teacher {weights} was trained on {about.data} with fingerprint {about.data_fingerprint}, "
            f"and what it reads is {arrays.path} with {found}; train it on this artefact, or name the one "
            f"that it was trained on"
        )
