"""How long a run of each kind takes, concluded from a small part of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from topokd_lib.data import ImageData, StreamedImages
from topokd_lib.data.encoded import processors
from topokd_lib.errors import RecipeError
from topokd_lib.models import create_model
from topokd_lib.prepare import (
    hold_out,
    prepare_attributions,
    prepare_image_persistence,
    prepare_ripsnet,
    search_pathways,
)
from topokd_lib.recipes import (
    AttributionRecipe,
    DistProRecipe,
    ImagePersistenceRecipe,
    Recipe,
    RipsNetRecipe,
)
from topokd_lib.recipes.run import FewSteps, assemble
from topokd_lib.training import fit, make_fabric

__all__ = [
    "MEASURES",
    "RunCost",
    "measure_attributions",
    "measure_image_persistence",
    "measure_ripsnet",
    "measure_search",
    "measure_training",
]

WARM_UP = 2
"""Steps that are not timed; the first ones compile, choose algorithms and allocate."""


@dataclass(frozen=True)
class RunCost:
    """What one run takes on this machine, in seconds.

    Args:
        start: Until the first step: reading data, building networks.
        epoch: Training and testing, for one epoch of the main stage.
        epochs: Of the main stage.
        early: All stages before it.
        measured_steps: How many steps this was concluded from.
    """

    start: float
    epoch: float
    epochs: int
    early: float = 0.0
    measured_steps: int = 0

    @property
    def total(self) -> float:
        """The whole run."""
        return self.after(0)

    def after(self, epochs: int) -> float:
        """What is left when so many epochs of the main stage are done."""
        return self.start + (0.0 if epochs else self.early) + max(self.epochs - epochs, 0) * self.epoch


def measure_training(
    recipe: Recipe, *, seconds: float = 5.0, images: tuple[int, int] | None = None
) -> RunCost:
    """Time some steps of a recipe in this process, the stages before the main one included.

    Args:
        recipe: What would be run; nothing is written.
        seconds: To spend, about.
        images: Training and test images there would be, if the data are a stand-in.
    """
    begin = time.perf_counter()
    processes = recipe.engine.processes
    fabric = make_fabric(replace(recipe.engine, devices=1, num_nodes=1))
    parts = assemble(recipe, fabric)
    start = time.perf_counter() - begin
    train, test = images or (len(parts.data.train_labels), len(parts.data.test_labels))
    steps = train // (recipe.data.batch_size * processes)
    once = replace(recipe.schedule, epochs=1, milestones=(), warmup_epochs=0)
    stages = parts.objective.init_stages(parts.student)
    lengths = {stage.name: stage.epochs for stage in stages}
    short = tuple(replace(stage, epochs=1) for stage in stages)
    parts.objective.init_stages = lambda _: short  # type: ignore[method-assign,assignment]

    def train_few(count: int) -> tuple[list[tuple[str, float]], float, int]:
        """Seconds of a step in each stage, seconds of testing an image, and steps that were made."""
        loader = FewSteps(parts.loader, count)
        history = fit(
            fabric,
            parts.student,
            parts.teacher,
            parts.objective,
            loader,
            once,
            seed=recipe.seed,
            progress=False,
        )
        per_step = [
            (record.stage, recipe.data.batch_size / record.images_per_second) for record in history.records
        ]
        last = history.last
        assert last.test is not None  # the main stage tests
        trained = loader.steps_per_epoch * recipe.data.batch_size / last.images_per_second
        return per_step, max(last.seconds - trained, 0.0) / last.test.count, loader.steps_per_epoch

    per_step, _, _ = train_few(WARM_UP)
    count = max(WARM_UP, min(steps, int(seconds / sum(step for _, step in per_step))))
    per_step, per_test_image, count = train_few(count)
    times = dict(per_step)
    return RunCost(
        start=start,
        epoch=steps * times["main"] + test / processes * per_test_image,
        epochs=recipe.schedule.epochs,
        early=sum((lengths[name] * steps * times[name] for name in lengths), start=0.0),
        measured_steps=count * len(times),
    )


def measure_ripsnet(
    recipe: RipsNetRecipe,
    *,
    seconds: float = 5.0,  # noqa: ARG001 (the numbers of clouds and epochs say how long)
    images: tuple[int, int] | None = None,  # noqa: ARG001 (its clouds are counted, not its images)
    clouds: int = 64,
    epochs: int = 4,
) -> RunCost:
    """Prepare a small RipsNet, and multiply; training that stops early makes it cheaper than that.

    Args:
        recipe: What would be prepared; nothing is written.
        seconds: Without meaning.
        images: Likewise.
        clouds: To make for the measurement.
        epochs: To train for the measurement, at least 2.
    """
    begin = time.perf_counter()
    data = recipe.data.load()
    teacher = recipe.teacher.load(data)
    loader = recipe.data.loader(data, seed=recipe.plan.seed)
    clouds = min(clouds, recipe.plan.clouds)
    ticks: list[tuple[str, float]] = [("start", time.perf_counter())]
    small = replace(recipe.plan, clouds=clouds, epochs=epochs)
    prepare_ripsnet(
        teacher, loader, small, progress=lambda name, *_: ticks.append((name, time.perf_counter()))
    )
    trained = [tick for name, tick in ticks if name == "training"]
    epoch = (trained[-1] - trained[0]) / (len(trained) - 1)
    factor = recipe.plan.clouds / clouds
    return RunCost(
        start=ticks[0][1] - begin,
        early=factor * (trained[0] - epoch - ticks[0][1]),
        epoch=factor * epoch,
        epochs=recipe.plan.epochs,
        measured_steps=clouds,
    )


def measure_search(
    recipe: DistProRecipe,
    *,
    seconds: float = 5.0,  # noqa: ARG001 (there must be an update of the scores)
    images: tuple[int, int] | None = None,
) -> RunCost:
    """Search on a few images, for as many steps as there are from one update of the scores to the next.

    Args:
        recipe: What would be searched; nothing is written.
        seconds: Without meaning.
        images: Training and test images there would be, if the data are a stand-in.
    """
    begin = time.perf_counter()
    fabric = make_fabric(recipe.engine)
    data, plan, batch_size = recipe.data.load(), recipe.plan, recipe.data.batch_size
    teacher = recipe.teacher.load(data)
    student = create_model(recipe.student, num_classes=data.num_classes)
    training, held_out = (
        FewSteps(recipe.data.loader(part, seed=plan.seed), plan.every)
        for part in hold_out(data, plan.held_out, plan.seed)
    )
    ticks = [time.perf_counter()]
    search_pathways(
        student,
        teacher,
        training,
        held_out,
        replace(plan, epochs=1),
        fabric=fabric,
        progress=lambda *_: ticks.append(time.perf_counter()),
    )
    train = images[0] if images else len(data.train_labels)
    steps = int((1 - plan.held_out) * train) // batch_size
    return RunCost(
        start=ticks[0] - begin,
        early=0.0,
        epoch=steps * (ticks[-1] - ticks[0]) / (len(ticks) - 1),
        epochs=plan.epochs,
        measured_steps=len(ticks) - 1,
    )


def measure_image_persistence(
    recipe: ImagePersistenceRecipe, *, seconds: float = 5.0, images: tuple[int, int] | None = None
) -> RunCost:
    """Prepare the persistence images of a few images in this process, and multiply.

    Args:
        recipe: What would be prepared; nothing is kept.
        seconds: To spend, about.
        images: Training and test images there would be, if the data are a stand-in.
    """
    begin = time.perf_counter()
    data = _in_memory(recipe.data.load())
    processes = recipe.processes or processors()
    start = time.perf_counter() - begin

    def prepare(few: ImageData, place: Path) -> object:
        return prepare_image_persistence(few, recipe.persistence, place, shuffle=recipe.shuffle, processes=1)

    per_image, count = _per_image(data, prepare, seconds)
    total = sum(images or (len(data.train_labels), len(data.test_labels)))
    return RunCost(start, epoch=total * per_image / processes, epochs=1, measured_steps=count)


def measure_attributions(
    recipe: AttributionRecipe, *, seconds: float = 5.0, images: tuple[int, int] | None = None
) -> RunCost:
    """Prepare the attribution maps of a few images, and multiply.

    Args:
        recipe: What would be prepared; nothing is kept.
        seconds: To spend, about.
        images: Training and test images there would be, if the data are a stand-in.

    Raises:
        RecipeError: If captum is not installed.
    """
    begin = time.perf_counter()
    data = _in_memory(recipe.data.load())
    teacher = recipe.teacher.load(data).to(recipe.device)
    start = time.perf_counter() - begin
    plan = recipe.attributions
    try:
        per_image, count = _per_image(
            data, lambda few, place: prepare_attributions(teacher, few, plan, place), seconds, plan.batch_size
        )
    except ImportError as error:
        raise RecipeError(str(error)) from error
    total = sum(images or (len(data.train_labels), len(data.test_labels)))
    return RunCost(start, epoch=total * per_image, epochs=1, measured_steps=count)


MEASURES: dict[type[Any], Callable[..., RunCost]] = {
    Recipe: measure_training,
    RipsNetRecipe: measure_ripsnet,
    DistProRecipe: measure_search,
    ImagePersistenceRecipe: measure_image_persistence,
    AttributionRecipe: measure_attributions,
}
"""How the cost of each kind of recipe is measured."""


def _per_image(
    data: ImageData, prepare: Callable[[ImageData, Path], object], seconds: float, first: int = 8
) -> tuple[float, int]:
    """Seconds that an image takes, and how many were prepared to find out: ``first``, then more."""
    spent, count = 0.0, 0
    with TemporaryDirectory() as folder:
        for wanted in (first, 0):
            train = torch.arange(len(data.train_labels))[: wanted or max(first, int(first * seconds / spent))]
            test = torch.arange(1)
            few = ImageData(
                data.name,
                data.train_images[train],
                data.train_labels[train],
                data.test_images[test],
                data.test_labels[test],
                data.classes,
                data.normalisation,
            )
            begin = time.perf_counter()
            prepare(few, Path(folder, str(wanted)))
            spent, count = time.perf_counter() - begin, len(train) + len(test)
    return spent / count, count


def _in_memory(data: ImageData | StreamedImages) -> ImageData:
    if not isinstance(data, ImageData):
        raise RecipeError(
            f"this is prepared for data sets that lie in memory, and {data.name} is read from disk"
        )
    return data
