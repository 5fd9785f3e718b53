"""What an experiment is, as plain data: a typed tree that YAML, the command line and Python can build."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from topokd_lib.data import (
    EpochLoader,
    Extra,
    ImageData,
    SampleArrays,
    StreamedImages,
    StreamLoader,
    load_data,
)
from topokd_lib.errors import ArtefactMismatch, CheckpointError, FeatureNotFound
from topokd_lib.models import (
    FeatureModel,
    NToOneNeck,
    ProjectorNeck,
    Teacher,
    TeacherGroup,
    create_model,
    published_normalisation,
)
from topokd_lib.objectives import Objective, WeightedSum
from topokd_lib.outputs import Normalisation
from topokd_lib.pair import Pair
from topokd_lib.prepare import AttributionPlan, DistProPlan, RipsNetPlan
from topokd_lib.recipes.extras import ExtraSpec, require_trained_on
from topokd_lib.recipes.overlays import OverlaySpec
from topokd_lib.topology import ImagePersistence, ScanPersistence
from topokd_lib.training import EngineSpec, Schedule, load_student

__all__ = [
    "AttributionRecipe",
    "DataSpec",
    "DiagnosticsSpec",
    "DistProRecipe",
    "ImagePersistenceRecipe",
    "NeckSpec",
    "Recipe",
    "RipsNetRecipe",
    "TeacherSpec",
    "Term",
    "weight_file",
]


@dataclass
class DataSpec:
    """Which images, and how they are served.

    Args:
        name: A data set of :data:`topokd_lib.data.DATA`.
        options: Passed to its loader, for instance ``{size: 8}``.
        batch_size: Images per step and device; the points of a minibatch cloud.
        augment: Random changes of training images: ``crop`` and ``crop-flip`` for data sets in memory,
            ``resized-crop`` and ``resized-crop-flip`` for those read from disk.
        workers: Processes that read and decode images from disk, on each device.
        on_device: Keep a data set that lies in memory on the GPU, where it is cropped and mirrored too.
        extras: What batches carry beside images, by name. Those from an artefact belong to the images as they
            lie in the data set, and need ``augment: none``.
        overlay: Attribution maps laid over what the student sees, for IG-KD.
        normalisation: What batches are normalised with, in place of the data set's own.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    augment: Literal["none", "crop", "crop-flip", "resized-crop", "resized-crop-flip"] = "none"
    workers: int = 4
    on_device: bool = True
    extras: dict[str, ExtraSpec] = field(default_factory=dict)
    overlay: OverlaySpec | None = None
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        fixed = [name for name, spec in self.extras.items() if spec.artefact is not None]
        if fixed and self.augment != "none":
            raise ValueError(
                f"extras from an artefact ({', '.join(fixed)}) belong to the images as they are, and "
                f"augment={self.augment} shows others; take augment: none, or have them computed"
            )

    def load(self) -> ImageData | StreamedImages:
        """The images.

        Raises:
            UnknownName: If there is no such data set.
        """
        data = load_data(self.name, **self.options)
        return data if self.normalisation is None else replace(data, normalisation=self.normalisation)

    def loader(
        self,
        data: ImageData | StreamedImages,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> EpochLoader | StreamLoader:
        """Serves ``data`` in this specification's batches, from ``device`` if it may lie there."""
        if isinstance(data, StreamedImages):
            return StreamLoader(
                data,
                batch_size=self.batch_size,
                augment=self.augment,
                seed=seed,
                rank=rank,
                world_size=world_size,
                workers=self.workers,
                device=device,
            )
        return EpochLoader(
            data.to(device) if self.on_device else data,
            batch_size=self.batch_size,
            augment=self.augment,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )


@dataclass
class TeacherSpec:
    """Which network teaches.

    Args:
        weights: A run directory, or the ``student.safetensors`` in one; together with ``model`` the name of
            published weights, such as ``IMAGENET1K_V1``.
        model: A model with published weights, such as ``torchvision/resnet34``.
        batch_statistics: See :class:`~topokd_lib.models.Teacher`.
        cache: Keep what the teacher says about each view of an image on disk, and look it up from then on,
            as ``float32`` or ``float16``; for objectives that read its logits and ``pooled`` only.
        reads: Name of an extra of the batch that it sees in place of the images.
    """

    weights: Path
    model: str | None = None
    batch_statistics: bool = False
    cache: Literal["float32", "float16"] | None = None
    reads: str | None = None

    def load(self, data: ImageData | StreamedImages, extras: Mapping[str, Extra] | None = None) -> Teacher:
        """The frozen teacher, with the normalisation it was trained with.

        Args:
            data: What the batches are made of.
            extras: What they carry.

        Raises:
            CheckpointError: If there are no such weights.
            ArtefactMismatch: If the teacher was trained on another artefact than the one it reads.
            UnknownName: If there is no such model, or it has no weights of that name.
            ValueError: If published weights are for other classes than those of the data, or are to read an
                extra of the batch.
        """
        if self.model is not None:
            if self.reads is not None:
                raise ValueError(
                    f"published weights are for pictures, and this teacher reads {self.reads!r}; "
                    f"give it the directory of a run instead of model={self.model!r}"
                )
            network = create_model(self.model, num_classes=data.num_classes, weights=str(self.weights))
            return Teacher(
                network,
                normalisation=published_normalisation(self.model, str(self.weights)),
                data_normalisation=data.normalisation,
                batch_statistics=self.batch_statistics,
            )
        model, about = load_student(weight_file(self.weights))
        if self.reads is not None:
            read = (extras or {}).get(self.reads)
            if isinstance(read, SampleArrays):
                require_trained_on(read, self.weights, about)
            return Teacher(
                model,
                normalisation=about.normalisation,
                reads=self.reads,
                batch_statistics=self.batch_statistics,
            )
        known = about.normalisation is not None
        return Teacher(
            model,
            normalisation=about.normalisation,
            data_normalisation=data.normalisation if known else None,
            batch_statistics=self.batch_statistics,
        )


def weight_file(place: Path) -> Path:
    """The weights of a run, given its directory or the file itself."""
    return place / "student.safetensors" if place.is_dir() else place


@dataclass
class NeckSpec:
    """Layers between the student's last map and its classifier, for the methods that need them.

    Args:
        kind: ``n-to-one`` widens the map for NORM and is merged into the classifier after training;
            ``teacher-classifier`` puts SimKD's projector and a frozen copy of the teacher's classifier in
            place of the student's, also in the network that is kept.
        parts: Copies of the teacher's channels in a widened map.
    """

    kind: Literal["n-to-one", "teacher-classifier"]
    parts: int = 8

    def insert(self, student: FeatureModel, teacher: Teacher | None) -> None:
        """Change ``student``.

        Raises:
            ValueError: If there is no teacher, it has other classes, or the student takes no neck.
        """
        if teacher is None:
            raise ValueError(
                f"a neck of kind {self.kind!r} is made for a teacher, and this run has none; name one "
                f"(recipe field 'teacher') or drop the neck"
            )
        channels, teacher_channels = student.last_layer.in_features, teacher.model.last_layer.in_features
        if self.kind == "n-to-one":
            student.insert_neck(NToOneNeck(channels, teacher_channels, self.parts))
            return
        if teacher.num_classes != student.num_classes:
            raise ValueError(
                f"the student takes over the teacher's classifier: student {student.name} has "
                f"{student.num_classes} classes, teacher {teacher.name} has {teacher.num_classes}"
            )
        classifier = deepcopy(teacher.model.last_layer).requires_grad_(requires_grad=False)
        student.insert_neck(ProjectorNeck(channels, teacher_channels), classifier)


@dataclass
class Term:
    """One objective of the sum.

    Args:
        objective: Its class and hyper-parameters; the pair is added when the networks are there.
        weight: Its factor in the sum; 0 computes and logs it without using it.
        warmup_epochs: Epochs over which the weight grows to its full value.
    """

    objective: Callable[[Pair], Objective]
    weight: float = 1.0
    warmup_epochs: int = 0


@dataclass
class DiagnosticsSpec:
    """What the log tells of each epoch beside the losses; nothing by default.

    Args:
        gradients_every: Steps between two measurements of how hard each term pulls at the student's
            embedding, 0 for none: norm, share of the reference's, and cosine.
        reference: The term that the others are compared with; the first if none is named.
        feature: The embedding.
        shape: After every epoch, how alike the clouds of test images are in both networks, and whether each
            TopKD term is in good health.
    """

    gradients_every: int = 0
    reference: str | None = None
    feature: str = "pooled"
    shape: bool = False


@dataclass
class Recipe:
    """One training run.

    Args:
        data: Which images.
        student: Name of the network to train.
        terms: What it learns from, by name; the names appear in the log.
        teacher: Which network teaches; ``None`` for ordinary training.
        teachers: Several networks by name, in place of one.
        initial_weights: A run directory, or a weight file in one, whose weights the student starts from;
            ``None``: random ones.
        neck: Layers that the method puts before the student's classifier; ``None`` for most methods.
        schedule: Epochs, learning rate and its decay.
        engine: Devices and precision.
        diagnostics: What the log tells beside the losses.
        seed: Of initialisation, order and augmentation.
    """

    data: DataSpec
    student: str
    terms: dict[str, Term]
    teacher: TeacherSpec | None = None
    teachers: dict[str, TeacherSpec] = field(default_factory=dict)
    initial_weights: Path | None = None
    neck: NeckSpec | None = None
    schedule: Schedule = field(default_factory=Schedule)
    engine: EngineSpec = field(default_factory=EngineSpec)
    diagnostics: DiagnosticsSpec = field(default_factory=DiagnosticsSpec)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.teacher is not None and self.teachers:
            raise ValueError("a recipe has one 'teacher' or several 'teachers' by name, not both")
        if strange := [name for name in self.teachers if not name.isidentifier()]:
            raise ValueError(f"names of teachers are words, got {', '.join(map(repr, strange))}; rename them")
        readers = [spec.reads for spec in (self.teacher,) if spec and spec.reads]
        if not self.teachers and not readers:
            return
        what = f"{len(self.teachers)} teachers" if self.teachers else f"a teacher that reads {readers[0]!r}"
        if any(spec.cache for spec in (self.teacher, *self.teachers.values()) if spec):
            raise ValueError(f"what a teacher says is kept for one teacher of images, and this is {what}")
        if self.diagnostics.shape:
            raise ValueError(f"diagnostics.shape compares with one teacher of images, and this is {what}")

    def load_teacher(self, data: ImageData | StreamedImages, extras: Mapping[str, Extra]) -> Teacher | None:
        """The teacher, or the group of teachers, if there is one.

        Raises:
            CheckpointError: If there are no such weights.
            ArtefactMismatch: If a teacher was trained on another artefact than the one it reads.
        """
        if self.teachers:
            return TeacherGroup({name: spec.load(data, extras) for name, spec in self.teachers.items()})
        return self.teacher.load(data, extras) if self.teacher else None

    def objective(self, pair: Pair) -> WeightedSum:
        """All terms, built for a pair of networks.

        Raises:
            ArtefactMismatch: If a term's artefact was made for something else; messages name the term.
            CheckpointError: If a term's artefact cannot be read.
            FeatureNotFound: If a term reads a feature that a network does not offer.
            ValueError: If a term does not fit the pair for another reason, or cannot have its name.
        """
        return WeightedSum(
            {name: self._term(name, pair) for name in self.terms},
            {name: term.weight for name, term in self.terms.items()},
            {name: term.warmup_epochs for name, term in self.terms.items() if term.warmup_epochs},
        )

    def _term(self, name: str, pair: Pair) -> Objective:
        if "." in name or hasattr(nn.ModuleDict(), name):
            raise ValueError(f"a term cannot be called {name!r}: PyTorch keeps it as a module; rename it")
        try:
            return self.terms[name].objective(pair)
        except (ArtefactMismatch, CheckpointError, FeatureNotFound) as error:
            raise type(error)(f"term {name!r}: {error}") from error
        except ValueError as error:
            raise ValueError(f"term {name!r}: {error}") from error


@dataclass
class DistProRecipe:
    """How the pathway weights of DistPro are searched for a pair.

    Args:
        data: The training images, of which a part is held out.
        teacher: Which network teaches.
        student: Name of the network to teach.
        artefact: Where the result is written; while the search goes on, its state is kept beside it.
        plan: All other choices.
        engine: What to compute on, one device.
    """

    data: DataSpec
    teacher: TeacherSpec
    student: str
    artefact: Path
    plan: DistProPlan = field(default_factory=DistProPlan)
    engine: EngineSpec = field(default_factory=EngineSpec)


@dataclass
class RipsNetRecipe:
    """How a RipsNet is prepared for a teacher.

    Args:
        data: The images whose minibatches make the clouds.
        teacher: Whose features are imitated.
        artefact: Where the result is written.
        plan: All other choices.
    """

    data: DataSpec
    teacher: TeacherSpec
    artefact: Path
    plan: RipsNetPlan = field(default_factory=RipsNetPlan)


@dataclass
class ImagePersistenceRecipe:
    """How the persistence images of a data set are prepared.

    Args:
        data: The images.
        artefact: The directory that is made.
        persistence: What is computed from each image.
        shuffle: Seed of a permutation that gives every image those of another, for a control; ``None``: its
            own.
        processes: How many compute; ``None``: one on each processor.
    """

    data: DataSpec
    artefact: Path
    persistence: ImagePersistence = field(default_factory=ScanPersistence)
    shuffle: int | None = None
    processes: int | None = None


@dataclass
class AttributionRecipe:
    """How the attribution maps of a teacher are prepared.

    Args:
        data: The images, which are explained as they are.
        teacher: Whose logits are explained.
        artefact: The directory that is made.
        attributions: All other choices.
        device: Where the teacher computes: ``cpu``, ``cuda`` …
    """

    data: DataSpec
    teacher: TeacherSpec
    artefact: Path
    attributions: AttributionPlan
    device: str = "cpu"
