"""Attribution maps over a student's images, as a recipe names them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from topokd_lib.data import EpochLoader, OverlayLoader, SampleArrays
from topokd_lib.errors import ArtefactMismatch
from topokd_lib.models import Teacher

__all__ = ["OverlaySpec"]


@dataclass
class OverlaySpec:
    """Attribution maps that are laid over a student's images; see :class:`~topokd_lib.data.OverlayLoader`.

    Args:
        artefact: Maps as ``topokd prepare attributions`` writes them; ``None``: none are laid over.
        probability: Of an overlay.
        exponents: Smallest and largest exponent of a map.
        strength: Share of the map in a mixed image.
        aligned_maps: Whether an image gets its own map. ``False``: another's, as in the official code.
        aligned_teacher: Whether a teacher with ``reads: clean`` sees the image that the student sees.
            ``False``: another one, as in the official code.
    """

    artefact: Path | None = None
    probability: float = 0.1
    exponents: tuple[float, float] = (1.0, 2.0)
    strength: float = 0.5
    aligned_maps: bool = True
    aligned_teacher: bool = True

    def serve(self, loader: object, teacher: Teacher | None) -> OverlayLoader:
        """Overlays for the batches of a loader.

        Raises:
            DataError: If the artefact is not there or damaged.
            ArtefactMismatch: If it was made of other images, or explains another teacher than the one given.
            TypeError: If the images are not in memory.
            ValueError: If a number is out of range.
        """
        if not isinstance(loader, EpochLoader):
            raise TypeError(
                f"overlays are for data sets that lie in memory, and these batches come from a "
                f"{type(loader).__name__}; leave out data.overlay"
            )
        maps = None
        if self.artefact is not None:
            arrays = SampleArrays.open(self.artefact)
            arrays.require(loader.data)
            explained = arrays.about.get("teacher_fingerprint")
            if teacher is not None and explained != teacher.fingerprint():
                raise ArtefactMismatch(
                    f"{self.artefact} explains the teacher {arrays.about.get('teacher')} with fingerprint "
                    f"{explained}, not {teacher.name} with {teacher.fingerprint()}; prepare attributions of "
                    f"this teacher"
                )
            maps = torch.from_numpy(arrays.train).to(loader.data.train_images.device)
        return OverlayLoader(
            loader,
            maps,
            probability=self.probability,
            exponents=self.exponents,
            strength=self.strength,
            aligned_maps=self.aligned_maps,
            aligned_teacher=self.aligned_teacher,
        )
