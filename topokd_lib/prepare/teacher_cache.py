"""What a teacher says about every view of every image, computed once and kept on disk.

A small image that is shifted by up to four pixels and mirrored has only 162 views, and a teacher in
evaluation mode says the same of a view each time. So its logits, and the vectors that enter its classifier,
are numbers that can be looked up, and that all students and seeds share.
"""

import hashlib
import json
import os
import shutil
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from topokd_lib.data import ImageData, normalise
from topokd_lib.data.augment import Views, count_views, crop_padding
from topokd_lib.errors import CheckpointError, RecipeError
from topokd_lib.files import cache_root, write_text
from topokd_lib.models import Teacher
from topokd_lib.objectives.base import Objective, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput

__all__ = ["CachedTeacher", "Outputs", "OutputsSpec", "plan_outputs"]

LOGITS, POOLED = "logits", "pooled"

FLUSH_EVERY = 16384
"""New outputs after which those on disk are declared complete; a kill loses at most so many."""

BATCH = 256
"""Images per forward pass of the teacher when outputs are made in advance."""

Precision = Literal["float32", "float16"]


@dataclass(frozen=True)
class OutputsSpec:
    """What the outputs depend on; a cache belongs to one of these.

    Args:
        teacher: Name of the network.
        fingerprint: Of its weights.
        translation: Factor and offset from the data's normalisation to the teacher's; empty if equal.
        data: Name of the data set.
        data_fingerprint: Its fingerprint.
        augment: How images are shifted and mirrored.
        padding: Pixels by which they are shifted at most.
        images: Number of training images.
        views: Number of views of each.
        widths: Numbers per view, by name: of the logits and of the pooled features.
        precision: ``float32`` keeps what the teacher computes to the last bit. ``float16`` takes half the
            room and rounds to 11 significant bits, a relative error of at most 2⁻¹¹ ≈ 0.0005.
    """

    teacher: str
    fingerprint: str
    translation: tuple[float, ...]
    data: str
    data_fingerprint: str
    augment: str
    padding: int
    images: int
    views: int
    widths: Mapping[str, int]
    precision: Precision

    @classmethod
    def of(cls, teacher: Teacher, data: ImageData, *, augment: str, precision: Precision) -> "OutputsSpec":
        """The specification for a teacher and the images that it will see.

        Raises:
            RecipeError: If the teacher's outputs depend on the rest of the batch.
        """
        if teacher.batch_statistics:
            raise RecipeError(
                "teacher.cache keeps what a teacher says about an image, and with batch_statistics that "
                "depends on the other images of the batch; drop one of the two"
            )
        blank = torch.zeros(1, *data.image_shape)
        nothing = torch.zeros(1, dtype=torch.long)
        said = teacher(Batch(blank, nothing, nothing), [POOLED])
        padding = crop_padding(*data.image_shape[1:])
        return cls(
            teacher.name,
            teacher.fingerprint(),
            (*teacher.scale.flatten().tolist(), *teacher.shift.flatten().tolist()),
            data.name,
            data.fingerprint(),
            augment,
            padding,
            len(data.train_labels),
            count_views(augment, padding),
            {LOGITS: said.logits.shape[1], POOLED: said[POOLED].shape[1]},
            precision,
        )

    @property
    def directory(self) -> Path:
        """Where the outputs are kept."""
        digest = hashlib.sha256(self.text().encode()).hexdigest()[:16]
        return cache_root() / "teachers" / f"{self.teacher.replace('/', '-')}-{self.data}-{digest}"

    @property
    def rows(self) -> int:
        """Views of all images together."""
        return self.images * self.views

    def size(self, names: Collection[str]) -> int:
        """Bytes that the outputs of these names take."""
        return sum(self.rows * (1 + self.widths[name] * np.dtype(self.precision).itemsize) for name in names)

    def describe(self, names: Collection[str]) -> str:
        """How many numbers, and how much room they take."""
        numbers = " + ".join(f"{self.widths[name]} {name}" for name in names)
        return (
            f"{self.rows:,} outputs of {self.teacher} ({self.images:,} images of {self.data} × {self.views} "
            f"views), {numbers} each, {self.size(names) / 1e9:.2f} GB as {self.precision} in {self.directory}"
        )

    def text(self) -> str:
        """All of it, in a form that can be compared."""
        return json.dumps(vars(self), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


class Outputs:
    """A teacher's outputs on disk, as far as they are known.

    For every name there are two files: the numbers, one row per view of an image, and a byte per row that
    says whether it is there. Both are sparse at first. A row is declared present after its numbers are on the
    disk, so that a kill or a power cut leaves nothing false. Several processes on one machine may fill one
    cache: they would write the same.

    Args:
        spec: What the outputs depend on.
        names: Which of them are needed, ``logits`` and ``pooled``.

    Raises:
        RecipeError: If the disk has not the room for all of them.
        CheckpointError: If the files that are there are damaged.
    """

    def __init__(self, spec: OutputsSpec, names: Sequence[str]) -> None:
        self.spec = spec
        self.names = tuple(names)
        self.directory = spec.directory
        _require_room(spec, self.names)
        self._open()
        self._present = {name: np.array(self._flags[name], dtype=bool) for name in self.names}
        self._new: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.names}
        self._count = 0
        weakref.finalize(self, _declare, self._files, self._flags, self._new)

    def present(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are known under all names."""
        known = np.ones(len(rows), dtype=bool)
        for name in self.names:
            known &= self._present[name][rows]
        return known

    def missing(self) -> NDArray[np.int64]:
        """All rows that are not known yet."""
        known = np.ones(self.spec.rows, dtype=bool)
        for name in self.names:
            known &= self._present[name]
        return np.flatnonzero(~known)

    def read(self, name: str, rows: NDArray[np.int64]) -> Tensor:
        """Rows that are known, in float32."""
        return torch.from_numpy(self._values[name][rows]).float()

    def write(self, rows: NDArray[np.int64], output: ModelOutput) -> None:
        """Keep what the teacher said.

        Raises:
            RecipeError: If a number is too large for float16, or the disk is full.
        """
        for name in self.names:
            value = output.logits if name == LOGITS else output[name]
            new = ~self._present[name][rows]
            at = rows[new]
            numbers = value.detach().to("cpu", getattr(torch, self.spec.precision)).numpy()[new]
            if not np.isfinite(numbers).all():
                raise RecipeError(
                    f"the teacher's {name} are not finite in {self.spec.precision}"
                    + ("; use teacher.cache=float32" if self.spec.precision == "float16" else "")
                )
            for start, stop in _runs(at):
                try:
                    self._files[name].seek(int(at[start]) * numbers[0].nbytes)
                    self._files[name].write(numbers[start:stop].tobytes())
                except OSError as error:
                    raise RecipeError(
                        f"cannot write to {self.directory} ({error.strerror or error}); make room, or drop "
                        f"teacher.cache. What is complete stays"
                    ) from error
            self._present[name][at] = True
            self._new[name].append(at)
        self._count += len(rows)
        if self._count >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Declare what was added complete, once it is on the disk."""
        _declare(self._files, self._flags, self._new)
        self._count = 0

    def on(self, device: torch.device) -> dict[str, Tensor] | None:
        """All outputs on a GPU, if they are complete and take less than half of its free memory."""
        if device.type != "cuda" or len(self.missing()):
            return None
        needed = sum(self._values[name].nbytes for name in self.names)
        if 2 * needed > torch.cuda.mem_get_info(device)[0]:
            return None
        return {name: torch.from_numpy(np.array(self._values[name])).to(device) for name in self.names}

    def _open(self) -> None:
        self._files: dict[str, Any] = {}
        self._values: dict[str, NDArray[Any]] = {}
        self._flags: dict[str, NDArray[np.uint8]] = {}
        about = self.directory / "about.json"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not about.exists():
                write_text(about, self.spec.text(), shared=True)
            for name in self.names:
                shape = (self.spec.rows, self.spec.widths[name])
                kind = np.dtype(self.spec.precision)
                values, flags = (self.directory / f"{name}.{part}" for part in ("values", "present"))
                _reserve(values, shape[0] * shape[1] * kind.itemsize)
                _reserve(flags, shape[0])
                self._files[name] = values.open("r+b", buffering=0)
                self._values[name] = np.memmap(values, dtype=kind, mode="r", shape=shape)
                self._flags[name] = np.memmap(flags, dtype=np.uint8, mode="r+", shape=shape[:1])
        except OSError as error:
            raise RecipeError(
                f"cannot use {self.directory} ({error.strerror or error}); name another place in the "
                f"environment variable TOPOKD_CACHE, or drop teacher.cache"
            ) from error


def _reserve(path: Path, size: int) -> None:
    """A file of that size which takes no room until it is written to."""
    if not path.exists():
        with path.open("ab") as file:
            file.truncate(size)
    elif path.stat().st_size != size:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes and should have {size}: it is damaged. Delete the "
            f"folder {path.parent}; it will be filled again"
        )


def _declare(
    files: Mapping[str, Any],
    flags: Mapping[str, NDArray[np.uint8]],
    new: Mapping[str, list[NDArray[np.int64]]],
) -> None:
    """Mark the new rows as present, after their numbers are on the disk."""
    for name, added in new.items():
        if added:
            os.fsync(files[name].fileno())
            flags[name][np.concatenate(added)] = 1
            flags[name].flush()  # type: ignore[attr-defined]
            added.clear()


def _runs(rows: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Where stretches of consecutive rows begin and end: each is written at once."""
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    return list(pairwise([0, *breaks.tolist(), len(rows)])) if len(rows) else []


def _require_room(spec: OutputsSpec, names: Sequence[str]) -> None:
    """The whole has to fit, although it is filled little by little: a full disk would end the run."""
    place = spec.directory
    taken = sum(file.stat().st_blocks * 512 for file in place.glob("*.*")) if place.is_dir() else 0
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, spec.size(names) - taken
    if needed > free:
        raise RecipeError(
            f"the outputs of {spec.teacher} on {spec.data} take up to {spec.size(names) / 1e9:.1f} GB as "
            f"{spec.precision} ({spec.images} images × {spec.views} views × "
            f"{sum(spec.widths[name] for name in names)} numbers), and {place.absolute()} has "
            f"{free / 1e9:.1f} GB free; make room, name another place in TOPOKD_CACHE"
            + (", or use teacher.cache=float16" if spec.precision == "float32" else "")
        )


class CachedTeacher(Teacher):
    """A teacher that looks up what it said before, and computes only the rest.

    It offers logits and ``pooled``. What it serves is always read from the cache, so that a run does not
    depend on what was there before, but for this: a convolution may round differently when an image stands
    in another batch, by about 10⁻⁶.

    Where all outputs are known and fit, they are kept on the GPU. Otherwise looking up makes the GPU wait in
    every step; fill the cache first (``topokd prepare teacher-cache``).

    Args:
        teacher: Computes what is missing.
        outputs: Where outputs are kept.
    """

    def __init__(self, teacher: Teacher, outputs: Outputs) -> None:
        super().__init__(teacher.model)
        self.scale, self.shift = teacher.scale, teacher.shift
        self.outputs = outputs
        self._resident: dict[str, Tensor] | None = None
        self._asked_for = torch.device("cpu")

    @torch.no_grad()
    def forward(self, batch: Batch, names: Collection[str] = ()) -> ModelOutput:
        """Logits and features of the batch, without gradient.

        Raises:
            RecipeError: If the batch does not say which views it shows, or another feature is asked for.
        """
        outputs = self.outputs
        if unknown := set(names) - set(outputs.names):
            raise RecipeError(f"the cache of {self.name} has no {', '.join(sorted(unknown))}")
        if "view" not in batch.extras:
            raise RecipeError(
                "a cached teacher needs batches that say which views they show (extras['view'])"
            )
        device = batch.images.device
        rows = batch.indices * outputs.spec.views + batch.extras["view"]
        if device != self._asked_for:
            self._resident, self._asked_for = outputs.on(device), device
        if self._resident is not None:
            found = {name: values[rows].float() for name, values in self._resident.items()}
        else:
            at = rows.cpu().numpy()
            unknown_rows = ~outputs.present(at)
            if unknown_rows.any():
                self._learn(batch, at, unknown_rows)
            found = {name: outputs.read(name, at).to(device) for name in outputs.names}
        logits = found.pop(LOGITS)
        return ModelOutput(logits, {name: found[name] for name in names})

    def _learn(self, batch: Batch, rows: NDArray[np.int64], unknown: NDArray[np.bool_]) -> None:
        chosen = torch.from_numpy(np.flatnonzero(unknown)).to(batch.images.device)
        part = Batch(batch.images[chosen], batch.labels[chosen], batch.indices[chosen])
        said = super().forward(part, [name for name in self.outputs.names if name != LOGITS])
        self.outputs.write(rows[unknown], said)

    def fill(
        self,
        data: ImageData,
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """Compute all outputs that are missing; an interrupted call continues where it stopped.

        Args:
            data: The images.
            device: Where the teacher computes.
            progress: Called with a name, how many outputs are known, and how many there are.
        """
        self.to(device)
        spec = self.outputs.spec
        missing = self.outputs.missing()
        done = spec.rows - len(missing)
        for start in range(0, len(missing), BATCH):
            rows = missing[start : start + BATCH]
            batch = _show(data, torch.from_numpy(rows), spec, torch.device(device))
            self._learn(batch, rows, np.ones(len(rows), dtype=bool))
            done += len(rows)
            if progress is not None:
                progress("teacher outputs", done, spec.rows)
        self.outputs.flush()


def _show(data: ImageData, rows: Int64[Tensor, " rows"], spec: OutputsSpec, device: torch.device) -> Batch:
    """The images of these rows, each in its view."""
    indices, numbers = rows // spec.views, rows % spec.views
    images = data.train_images[indices].to(device)
    if spec.augment != "none":
        views = Views.numbered(numbers, augment=spec.augment, padding=spec.padding)
        images = views.apply(images, spec.padding)
    labels, at = data.train_labels[indices].to(device), indices.to(device)
    return Batch(normalise(images, data.normalisation), labels, at, {"view": numbers.to(device)})


def plan_outputs(
    teacher: Teacher,
    data: Any,
    *,
    augment: str,
    precision: Precision,
    objective: WeightedSum,
) -> tuple[OutputsSpec, tuple[str, ...]]:
    """What has to be kept of a teacher for an objective: whose outputs, and which. Nothing is written.

    Args:
        teacher: The teacher.
        data: The images; they have to lie in memory.
        augment: How they are shifted and mirrored.
        precision: Of the numbers on disk.
        objective: What reads the outputs.

    Raises:
        RecipeError: If a term reads another feature than ``pooled``, images have infinitely many views, the
            teacher depends on the batch, or the disk has not the room.
    """
    for name, term in objective.terms.items():
        assert isinstance(term, Objective)
        if others := [feature for feature in term.teacher_features if feature != POOLED]:
            raise RecipeError(
                f"teacher.cache keeps the teacher's logits and {POOLED!r}, and term {name!r} reads "
                f"{', '.join(map(repr, others))}; drop teacher.cache for this objective"
            )
    if not isinstance(data, ImageData):
        raise RecipeError(
            f"teacher.cache needs images with a few views each, and those of {data.name} are cropped and "
            f"scaled in ever new ways; drop teacher.cache"
        )
    if type(teacher) is not Teacher or getattr(teacher, "reads", None) is not None:
        raise RecipeError(
            f"teacher.cache is for one teacher that sees the images themselves, and {teacher.name} is a "
            f"group, or sees something else; drop teacher.cache"
        )
    names = (LOGITS, *objective.teacher_features)
    spec = OutputsSpec.of(teacher, data, augment=augment, precision=precision)
    _require_room(spec, names)
    return spec, names
