"""What a sweep will cost: a few steps of each kind of run are timed, and multiplied by the plan."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from topokd_lib.errors import DataError
from topokd_lib.models import create_model
from topokd_lib.prepare import hold_out, prepare_ripsnet, search_pathways
from topokd_lib.recipes import DistProRecipe, Recipe, RipsNetRecipe, load_recipe, stand_in_options
from topokd_lib.recipes.run import FewSteps, assemble
from topokd_lib.recipes.stand_ins import SIZES
from topokd_lib.sweep.plan import PlannedRun, Sweep
from topokd_lib.training import fit, make_fabric

__all__ = ["RunCost", "RunEstimate", "estimate", "measure_ripsnet", "measure_search", "measure_training"]

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
        return self.start + self.early + self.epochs * self.epoch


@dataclass(frozen=True)
class RunEstimate:
    """Runs of a sweep that differ in the seed only.

    Args:
        name: Method and networks.
        cost: Of each.
        runs: How many there are.
        left: How many of them are not done.
    """

    name: str
    cost: RunCost
    runs: int
    left: int


def estimate(
    sweep: Sweep, *, seconds: float = 5.0, progress: Callable[[str, int, int], None] | None = None
) -> list[RunEstimate]:
    """Time a few steps of each run of a sweep, one after another; seeds cost the same.

    A teacher or an artefact that the sweep has yet to make, and data that are not here, are replaced by
    stand-ins of the same shape, which cost the same.

    Args:
        sweep: The plan.
        seconds: To spend on each, about.
        progress: Called with (name, done, total).
    """
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    networks: dict[Path, str] = {}
    for run in sweep.runs:
        if not run.impossible:
            groups.setdefault((run.method, run.command, run.text), []).append(run)
            networks[run.output] = str(yaml.safe_load(run.text).get("student"))
    found = []
    for number, runs in enumerate(groups.values()):
        name = "/".join(Path(runs[0].name).parts[:-1]) if runs[0].seed is not None else runs[0].name
        if progress is not None:
            progress(name, number, len(groups))
        left = sum(not run.is_done(sweep.home) for run in runs)
        found.append(RunEstimate(name, _cost(sweep, runs[0], networks, seconds), len(runs), left))
    return found


def _cost(sweep: Sweep, run: PlannedRun, networks: dict[Path, str], seconds: float) -> RunCost:
    """Of one run, with stand-ins for what is missing."""
    words = list(run.words)
    if "--out" in words:
        place = words.index("--out")
        words[place : place + 2] = []
    weights = (yaml.safe_load(run.text).get("teacher") or {}).get("weights")
    network = networks.get(Path(weights)) if weights else None
    with (
        TemporaryDirectory() as folder,
        _data_from_here(),
        chdir(sweep.home if sweep.home.is_dir() else folder),
    ):
        try:
            more = stand_in_options(run.text, Path(folder), network=network)
            return _measure([*words, *more], run, seconds)
        except DataError:
            more = stand_in_options(run.text, Path(folder), network=network, synthetic=True)
            return _measure([*words, *more], run, seconds)


def _measure(words: list[str], run: PlannedRun, seconds: float) -> RunCost:
    source, changes = words[1], words[2:]
    planned = SIZES.get(yaml.safe_load(run.text)["data"]["name"])
    if run.command == "train":
        recipe, _ = load_recipe(source, changes, kind=Recipe)
        images = planned[2:] if planned and recipe.data.name == "noise" else None
        return measure_training(recipe, seconds=seconds, images=images)
    if run.command == "prepare dist-pro":
        search, _ = load_recipe(source, changes, kind=DistProRecipe)
        return measure_search(search, images=planned[2] if planned and search.data.name == "noise" else None)
    return measure_ripsnet(load_recipe(source, changes, kind=RipsNetRecipe)[0])


@contextmanager
def _data_from_here() -> Iterator[None]:
    """Keep the meaning of a relative ``TOPOKD_DATA`` while the working directory changes."""
    before = os.environ.get("TOPOKD_DATA")
    if before:
        os.environ["TOPOKD_DATA"] = str(Path(before).expanduser().resolve())
    try:
        yield
    finally:
        if before:
            os.environ["TOPOKD_DATA"] = before


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


def measure_ripsnet(recipe: RipsNetRecipe, *, clouds: int = 64, epochs: int = 4) -> RunCost:
    """Prepare a small RipsNet, and multiply; training that stops early makes it cheaper than that.

    Args:
        recipe: What would be prepared; nothing is written.
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


def measure_search(recipe: DistProRecipe, *, images: int | None = None) -> RunCost:
    """Search on a few images, for as many steps as there are from one update of the scores to the next.

    Args:
        recipe: What would be searched; nothing is written.
        images: Training images there would be, if the data are a stand-in.
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
    steps = int((1 - plan.held_out) * (images or len(data.train_labels))) // batch_size
    return RunCost(
        start=ticks[0] - begin,
        early=0.0,
        epoch=steps * (ticks[-1] - ticks[0]) / (len(ticks) - 1),
        epochs=plan.epochs,
        measured_steps=len(ticks) - 1,
    )
