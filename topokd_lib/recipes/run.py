"""Carry out a recipe: build what it names, check it, train, and keep the record."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lightning_fabric import Fabric

from topokd_lib.data import ImageData, LoaderWithExtras, SampleArrays, StreamedImages
from topokd_lib.errors import ArtefactMismatch, RecipeError, RunDirectoryError
from topokd_lib.files import lock
from topokd_lib.models import FeatureModel, Teacher, create_model
from topokd_lib.objectives import PathwayProcess, WeightedSum
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.prepare import (
    CachedTeacher,
    Outputs,
    hold_out,
    plan_outputs,
    prepare_attributions,
    prepare_image_persistence,
    prepare_ripsnet,
    search_pathways,
)
from topokd_lib.prepare.ripsnet import Progress
from topokd_lib.recipes.diagnostics import build_diagnostics
from topokd_lib.recipes.files import recipe_names
from topokd_lib.recipes.load import load_recipe
from topokd_lib.recipes.recipe import (
    AttributionRecipe,
    DistProRecipe,
    ImagePersistenceRecipe,
    Recipe,
    RipsNetRecipe,
    weight_file,
)
from topokd_lib.topology import RipsNetArtefact
from topokd_lib.training import (
    Diagnostics,
    EngineSpec,
    Evaluation,
    History,
    Loader,
    RunDirectory,
    evaluate,
    fit,
    load_student,
    load_weights,
    make_fabric,
    seed_all,
)
from topokd_lib.training.engine import launch, lost_processes

__all__ = [
    "Assembly",
    "FewSteps",
    "artefact_lock",
    "assemble",
    "default_directory",
    "evaluate_run",
    "occupy_artefact",
    "rehearse",
    "run_attribution_recipe",
    "run_dist_pro_recipe",
    "run_image_persistence_recipe",
    "run_recipe",
    "run_ripsnet_recipe",
    "run_teacher_cache",
]


@dataclass
class Assembly:
    """Everything that a recipe names, built and checked against each other."""

    data: ImageData | StreamedImages
    loader: Loader
    student: FeatureModel
    teacher: Teacher | None
    objective: WeightedSum
    diagnostics: Diagnostics


def assemble(recipe: Recipe, fabric: Fabric | None = None, *, keep: bool = False) -> Assembly:
    """Build data, networks and objective; whatever does not fit together fails here.

    Args:
        recipe: What it names.
        fabric: Where it will run.
        keep: Write and read the cache of the teacher's outputs, if the recipe has one; else nothing is
            written, and the teacher computes.

    Raises:
        UnknownName: If a data set or a model does not exist.
        DataError: If the files of the data set are not there or damaged.
        CheckpointError: If the teacher's weights, or those the student starts from, cannot be read.
        FeatureNotFound: If an objective reads a feature that a network does not offer.
        ArtefactMismatch: If an artefact was made for something else.
        RecipeError: If an objective does not fit the pair for another reason.
    """
    with _the_recipe_is_at_fault():
        data = recipe.data.load()
        loader = recipe.data.loader(
            data,
            seed=recipe.seed,
            rank=fabric.global_rank if fabric else 0,
            world_size=fabric.world_size if fabric else 1,
            device=fabric.device if fabric else "cpu",
        )
        extras = {name: spec.load(data) for name, spec in recipe.data.extras.items()}
        teacher = recipe.load_teacher(data, extras)
        overlaid = recipe.data.overlay.serve(loader, teacher) if recipe.data.overlay else None
        seed_all(recipe.seed)
        student = create_model(recipe.student, num_classes=data.num_classes, in_channels=data.image_shape[0])
        if recipe.initial_weights is not None:
            load_weights(weight_file(recipe.initial_weights), student)
        if recipe.neck is not None:
            recipe.neck.insert(student, teacher)
        pair = Pair.measure(
            student,
            teacher,
            image_shape=data.image_shape,
            train_labels=data.train_labels,
            batch_size=recipe.data.batch_size * (fabric.world_size if fabric and recipe.engine.gather else 1),
            extra_shapes={name: extra.shape for name, extra in extras.items()}
            | (overlaid.extra_shapes if overlaid else {}),
        )
        objective = recipe.objective(pair)
        diagnostics = build_diagnostics(recipe.diagnostics, student, teacher, objective, loader)
        for network in (student, *(teacher.networks if teacher else ())):
            recipe.engine.tune(network)
        if teacher is not None and recipe.teacher is not None and recipe.teacher.cache is not None:
            plan = plan_outputs(
                teacher,
                data,
                augment=recipe.data.augment,
                precision=recipe.teacher.cache,
                objective=objective,
            )
            teacher = CachedTeacher(teacher, Outputs(*plan)) if keep else teacher
        served: Loader = overlaid or loader
        if extras:
            served = LoaderWithExtras(served, extras)
        return Assembly(data, served, student, teacher, objective, diagnostics)


@contextmanager
def _the_recipe_is_at_fault() -> Iterator[None]:
    """While things are built, a wrong value is the recipe's; our own errors say so themselves."""
    try:
        yield
    except (ArtefactMismatch, RecipeError):
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def _launch(spec: EngineSpec) -> Fabric:
    try:
        fabric = make_fabric(spec)
    except RuntimeError as error:  # Fabric's word for an accelerator that is not there
        raise RecipeError(f"engine.accelerator={spec.accelerator} cannot be used here: {error}") from error
    launch(fabric, spec)
    return fabric


def run_recipe(
    recipe: Recipe,
    text: str,
    directory: Path,
    *,
    progress: bool = True,
    minutes: float = 0.0,
    keep_every: int = 0,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train as the recipe says, or continue a run that was interrupted, and return its record.

    Args:
        recipe: What to do.
        text: The recipe as YAML; a directory belongs to one text.
        directory: Created if needed; everything about the run is written there.
        progress: Whether to show a progress line.
        minutes: See :class:`~topokd_lib.training.RunDirectory`.
        keep_every: Likewise.
        tensorboard: Likewise.

    Raises:
        RecipeError: If parts of the recipe do not fit together; see :func:`assemble` for other errors.
        RunDirectoryError: If the directory holds another run or cannot be written.
        CheckpointError: If the directory holds a checkpoint that cannot be read.
        TrainingDiverged: If the loss stops being a finite number.
        Interrupted: If it was asked to stop, or another process of the run has ended.
    """
    fabric = _launch(recipe.engine)
    parts = assemble(recipe, fabric, keep=True)
    with fabric.rank_zero_first(), _the_recipe_is_at_fault():
        run = RunDirectory.open(
            directory,
            recipe=text,
            seed=recipe.seed,
            data=parts.data,
            teacher=parts.teacher,
            initial_weights=weight_file(recipe.initial_weights) if recipe.initial_weights else None,
            minutes=minutes,
            keep_every=keep_every,
            tensorboard=tensorboard,
        )
    with run.occupy() if fabric.is_global_zero else nullcontext(), lost_processes(fabric):
        if run.record is None:
            fit(
                fabric,
                parts.student,
                parts.teacher,
                parts.objective,
                parts.loader,
                recipe.schedule,
                run,
                seed=recipe.seed,
                accumulate=recipe.engine.accumulate,
                gather=recipe.engine.gather,
                progress=progress,
                diagnostics=parts.diagnostics,
            )
    record = run.record
    assert record is not None  # fit writes it last
    return record


class FewSteps:
    """The first batches of a loader, for a rehearsal.

    Args:
        loader: Of the whole data.
        steps: Training batches to give in an epoch; of test batches there is one.
    """

    def __init__(self, loader: Loader, steps: int) -> None:
        self.data: Any = getattr(loader, "data", None)  # what a search takes the fingerprint of
        self.batch_size: int = getattr(loader, "batch_size", 0)
        self.augment: str = getattr(loader, "augment", "none")
        self.steps_per_epoch = min(steps, loader.steps_per_epoch)
        self._loader = loader

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        return islice(self._loader.train_batches(epoch), self.steps_per_epoch)

    def test_batches(self) -> Iterator[Batch]:
        return islice(self._loader.test_batches(), 1)


def rehearse(recipe: Recipe, *, steps: int = 2) -> History:
    """Build everything and train a few steps, without writing a file."""
    fabric = _launch(recipe.engine)
    parts = assemble(recipe, fabric)
    schedule = replace(recipe.schedule, epochs=1, milestones=(), warmup_epochs=0)
    loader = FewSteps(parts.loader, steps * recipe.engine.accumulate)
    return fit(
        fabric,
        parts.student,
        parts.teacher,
        parts.objective,
        loader,
        schedule,
        None,
        seed=recipe.seed,
        accumulate=recipe.engine.accumulate,
        gather=recipe.engine.gather,
        progress=False,
        diagnostics=parts.diagnostics,
    )


def run_ripsnet_recipe(recipe: RipsNetRecipe, *, progress: Progress | None = None) -> RipsNetArtefact:
    """Prepare a RipsNet as the recipe says, and write its artefact.

    Until it is finished, what is done lies beside the artefact in a folder with the ending ``.unfinished``;
    after an interruption the same call goes on from there.

    Raises:
        UnknownName: If the data set does not exist.
        CheckpointError: If the teacher's weights cannot be read, or the folder is that of another recipe.
        RecipeError: If the plan cannot be carried out, or the artefact could not be written.
    """
    _require_writable(recipe.artefact)
    work = recipe.artefact.with_name(f"{recipe.artefact.name}.unfinished")
    with occupy_artefact(recipe.artefact), _the_recipe_is_at_fault():
        data = recipe.data.load()
        teacher = recipe.teacher.load(data)
        loader = recipe.data.loader(data, seed=recipe.plan.seed)
        artefact = prepare_ripsnet(teacher, loader, recipe.plan, progress=progress, work=work)
        artefact.save(recipe.artefact)
        shutil.rmtree(work)
    return artefact


def run_image_persistence_recipe(
    recipe: ImagePersistenceRecipe, *, progress: Progress | None = None
) -> SampleArrays:
    """Prepare persistence images as the recipe says, or go on with what an earlier call began.

    Raises:
        UnknownName: If the data set does not exist.
        DataError: If its files are not there, or the artefact cannot be written.
        ArtefactMismatch: If the artefact is there and was made otherwise.
        RecipeError: If a number is out of range, or the data do not lie in memory.
    """
    with occupy_artefact(recipe.artefact), _the_recipe_is_at_fault():
        data = recipe.data.load()
        if not isinstance(data, ImageData):
            raise RecipeError(
                f"persistence images are prepared for data sets that lie in memory, and {data.name} is read "
                f"from disk; have them computed from the batches (data.extras.NAME.compute)"
            )
        return prepare_image_persistence(
            data,
            recipe.persistence,
            recipe.artefact,
            shuffle=recipe.shuffle,
            processes=recipe.processes,
            progress=progress,
        )


def run_teacher_cache(
    recipe: Recipe, *, tell: Callable[[str], None], progress: Progress | None = None
) -> CachedTeacher:
    """Compute all outputs of a recipe's teacher that its objective reads, or those that are still missing.

    Args:
        recipe: What is going to be trained. If it does not name a precision, float32 is meant.
        tell: Called with a sentence about number and size of the outputs, before work starts.
        progress: Called with (stage, done, total).

    Raises:
        RecipeError: If the outputs cannot be kept; see :func:`~topokd_lib.prepare.plan_outputs`.
    """
    if recipe.teacher is None:
        raise RecipeError(
            "this recipe has no teacher whose outputs could be kept; name one with teacher.weights"
        )
    fabric = _launch(recipe.engine)
    spec = replace(recipe.teacher, cache=recipe.teacher.cache or "float32")
    parts = assemble(replace(recipe, teacher=spec), fabric, keep=True)
    assert isinstance(parts.teacher, CachedTeacher)
    assert isinstance(parts.data, ImageData)
    outputs = parts.teacher.outputs
    tell(f"{outputs.spec.describe(outputs.names)}; {len(outputs.missing()):,} are missing")
    parts.teacher.fill(parts.data, device=fabric.device, progress=progress)
    return parts.teacher


def run_attribution_recipe(recipe: AttributionRecipe, *, progress: Progress | None = None) -> SampleArrays:
    """Prepare attribution maps as the recipe says, or go on with what an earlier call began.

    Raises:
        UnknownName: If the data set does not exist.
        DataError: If its files are not there, or the artefact cannot be written.
        CheckpointError: If the teacher's weights cannot be read.
        ArtefactMismatch: If the artefact is there and was made otherwise.
        RecipeError: If the teacher does not fit the data, captum is not installed, or the device is not
            there.
    """
    with occupy_artefact(recipe.artefact), _the_recipe_is_at_fault():
        data = recipe.data.load()
        if not isinstance(data, ImageData):
            raise RecipeError(
                f"attributions are prepared for data sets that lie in memory, which {data.name} does not"
            )
        teacher = recipe.teacher.load(data)
        try:
            teacher.to(recipe.device)
        except (AssertionError, RuntimeError) as error:  # PyTorch's words for a device that is not there
            raise RecipeError(f"device={recipe.device} cannot be used here: {error}") from error
        try:
            made = prepare_attributions(
                teacher, data, recipe.attributions, recipe.artefact, progress=progress
            )
        except ImportError as error:
            raise RecipeError(str(error)) from error
    return SampleArrays.open(made)


def run_dist_pro_recipe(recipe: DistProRecipe, *, progress: Progress | None = None) -> PathwayProcess:
    """Search pathway weights as the recipe says, or continue a search, and write its artefact.

    Raises:
        UnknownName: If the data set or the student does not exist.
        CheckpointError: If the teacher's weights or the state of an earlier search cannot be read.
        RecipeError: If the plan cannot be carried out, or the artefact could not be written.
        TrainingDiverged: If a loss stops being a finite number.
    """
    if recipe.engine.processes > 1:
        raise RecipeError(
            f"a search runs on one device, engine asks for {recipe.engine.processes}; set engine.devices: 1"
        )
    _require_writable(recipe.artefact)
    fabric = _launch(recipe.engine)
    with occupy_artefact(recipe.artefact), _the_recipe_is_at_fault():
        data = recipe.data.load()
        teacher = recipe.teacher.load(data)
        seed_all(recipe.plan.seed)
        student = create_model(recipe.student, num_classes=data.num_classes)
        training, held_out = (
            recipe.data.loader(part, seed=recipe.plan.seed)
            for part in hold_out(data, recipe.plan.held_out, recipe.plan.seed)
        )
        process = search_pathways(
            student,
            teacher,
            training,
            held_out,
            recipe.plan,
            state=recipe.artefact.with_name(f"{recipe.artefact.name}.search"),
            fabric=fabric,
            progress=progress,
        )
        process.save(recipe.artefact)
    return process


@contextmanager
def occupy_artefact(path: Path) -> Iterator[None]:
    """Keep other processes from preparing ``path`` until the block, or the process, ends.

    Raises:
        RecipeError: If another process is preparing it, or nothing can be written beside it.
    """
    place = artefact_lock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = place.open("a", encoding="utf-8")
    except OSError as error:
        raise RecipeError(
            f"cannot write the artefact {path} ({error.strerror or error}); choose another path"
        ) from error
    with file:
        # The one before takes its file away at the end: a lock on that one is worth nothing.
        if (
            not lock(file)
            or not place.exists()
            or not os.path.samestat(os.fstat(file.fileno()), place.stat())
        ):
            raise RecipeError(f"another process is preparing {path}; wait until it has finished, or stop it")
        try:
            yield
        finally:
            with suppress(PermissionError):  # Windows keeps what is open; the file is empty
                place.unlink(missing_ok=True)


def artefact_lock(path: Path) -> Path:
    """The file whose lock says that an artefact is being prepared."""
    return path.with_name(f"{path.name}.lock")


def _require_writable(path: Path) -> None:
    """Find out before the work, not after it."""
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a directory")
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise RecipeError(
            f"cannot write the artefact {path} ({error.strerror or error}); choose another path"
        ) from error


def evaluate_run(directory: Path, *, best: bool = False) -> Evaluation:
    """Test a run's network again, on the data that its recipe names.

    Raises:
        RunDirectoryError: If the directory holds no run.
        CheckpointError: If its weights are missing or damaged.
    """
    source = directory / "recipe.yaml"
    if not source.is_file():
        raise RunDirectoryError(
            f"{directory} holds no run: there is no recipe.yaml in it; give the directory that "
            f"`topokd train` printed"
        )
    weights = directory / ("best.safetensors" if best else "student.safetensors")
    if not weights.exists():
        raise RunDirectoryError(
            f"{directory} is not finished: there is no {weights.name} in it yet; the command that started "
            f"the run continues it"
        )
    recipe, _ = load_recipe(str(source), kind=Recipe)
    fabric = _launch(recipe.engine)
    model, _ = load_student(weights)
    with _the_recipe_is_at_fault():
        data = recipe.data.load()
        loader = recipe.data.loader(
            data, seed=recipe.seed, rank=fabric.global_rank, world_size=fabric.world_size
        )
    return evaluate(fabric, model, loader.test_batches())


def default_directory(source: str, recipe: Recipe, pair: str | None = None) -> Path:
    """Where a run goes unless told otherwise: ``runs/<recipe>/<student>/seed<seed>``.

    Args:
        source: Name of a recipe of the library, or the path of another, of which the file's name counts.
        recipe: What will run.
        pair: Name of the pair it was adapted to, if any. With a teacher it stands in place of the student,
            who may have more than one.

    Example:
        >>> from topokd_lib.recipes.recipe import DataSpec
        >>> recipe = Recipe(DataSpec("digits"), "resnet8", {}, seed=1)
        >>> default_directory("digits/kd", recipe).as_posix()
        'runs/digits/kd/resnet8/seed1'
        >>> default_directory("/home/me/mine.yaml", recipe).as_posix()
        'runs/mine/resnet8/seed1'
    """
    name = source.removesuffix(".yaml")
    who = pair if pair and recipe.teacher else recipe.student
    return Path("runs", name if name in recipe_names() else Path(name).name, who, f"seed{recipe.seed}")
