"""Carry out a recipe: build what it names, check it, train, and keep the record."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from lightning_fabric import Fabric

from topokd_lib.data import EpochLoader, ImageData, StreamedImages, StreamLoader
from topokd_lib.errors import ArtefactMismatch, RecipeError, RunDirectoryError
from topokd_lib.models import FeatureModel, Teacher, create_model
from topokd_lib.objectives import WeightedSum
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.prepare import CachedTeacher, Outputs, plan_outputs, prepare_ripsnet
from topokd_lib.prepare.ripsnet import Progress
from topokd_lib.recipes.diagnostics import build_diagnostics
from topokd_lib.recipes.files import recipe_names
from topokd_lib.recipes.load import load_recipe
from topokd_lib.recipes.recipe import Recipe, RipsNetRecipe
from topokd_lib.topology import RipsNetArtefact
from topokd_lib.training import (
    Diagnostics,
    EngineSpec,
    Evaluation,
    History,
    RunDirectory,
    evaluate,
    fit,
    load_student,
    make_fabric,
    seed_all,
)

__all__ = [
    "Assembly",
    "FewSteps",
    "assemble",
    "default_directory",
    "evaluate_run",
    "rehearse",
    "run_recipe",
    "run_ripsnet_recipe",
    "run_teacher_cache",
]


@dataclass
class Assembly:
    """Everything that a recipe names, built and checked against each other."""

    data: ImageData | StreamedImages
    loader: EpochLoader | StreamLoader
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
        CheckpointError: If the teacher's weights cannot be read.
        FeatureNotFound: If an objective reads a feature that a network does not offer.
        ArtefactMismatch: If an objective's artefact was made for something else.
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
        teacher = recipe.teacher.load(data) if recipe.teacher else None
        seed_all(recipe.seed)
        student = create_model(recipe.student, num_classes=data.num_classes)
        pair = Pair.measure(
            student,
            teacher,
            image_shape=data.image_shape,
            train_labels=data.train_labels,
            batch_size=recipe.data.batch_size,
        )
        objective = recipe.objective(pair)
        diagnostics = build_diagnostics(recipe.diagnostics, student, teacher, objective, loader)
        for network in (student, *([teacher.model] if teacher else [])):
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
        return Assembly(data, loader, student, teacher, objective, diagnostics)


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
    fabric.launch()
    return fabric


def run_recipe(recipe: Recipe, text: str, directory: Path, *, progress: bool = True) -> dict[str, Any]:
    """Train as the recipe says, or continue a run that was interrupted, and return its record.

    Args:
        recipe: What to do.
        text: The recipe as YAML; a directory belongs to one text.
        directory: Created if needed; everything about the run is written there.
        progress: Whether to show a progress line.

    Raises:
        RecipeError: If parts of the recipe do not fit together; see :func:`assemble` for other errors.
        RunDirectoryError: If the directory holds another run or cannot be written.
        CheckpointError: If the directory holds a checkpoint that cannot be read.
        TrainingDiverged: If the loss stops being a finite number.
    """
    fabric = _launch(recipe.engine)
    parts = assemble(recipe, fabric, keep=True)
    with fabric.rank_zero_first():
        run = RunDirectory.open(
            directory, recipe=text, seed=recipe.seed, data=parts.data, teacher=parts.teacher
        )
    with run.occupy() if fabric.is_global_zero else nullcontext():
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

    def __init__(self, loader: EpochLoader | StreamLoader, steps: int) -> None:
        self.data, self.batch_size = loader.data, loader.batch_size
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
    loader = FewSteps(parts.loader, steps)
    return fit(
        fabric,
        parts.student,
        parts.teacher,
        parts.objective,
        loader,
        schedule,
        None,
        seed=recipe.seed,
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
    with _the_recipe_is_at_fault():
        data = recipe.data.load()
        teacher = recipe.teacher.load(data)
        loader = recipe.data.loader(data, seed=recipe.plan.seed)
        artefact = prepare_ripsnet(teacher, loader, recipe.plan, progress=progress, work=work)
    artefact.save(recipe.artefact)
    shutil.rmtree(work)
    return artefact


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
