"""What a sweep will cost: a few steps of each kind of run are timed, and multiplied by the plan."""

import os
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from topokd_lib import errors
from topokd_lib.errors import DataError
from topokd_lib.recipes import load_recipe, stand_in_options
from topokd_lib.recipes.load import KINDS
from topokd_lib.recipes.stand_ins import SIZES
from topokd_lib.sweep.measure import MEASURES, RunCost
from topokd_lib.sweep.plan import PlannedRun, Sweep

__all__ = ["RunEstimate", "estimate"]


@dataclass(frozen=True)
class RunEstimate:
    """Runs of a sweep that differ in the seed only.

    Args:
        name: Method and networks.
        cost: Of each; ``None`` if it cannot be measured.
        runs: How many there are.
        left: How many of them are not done.
        epochs: Of the main stage, done by each of those that are left.
        error: Why it cannot be measured.
    """

    name: str
    cost: RunCost | None
    runs: int
    left: int
    epochs: tuple[int, ...] = ()
    error: str = ""

    @property
    def seconds(self) -> float:
        """What is left of all of them, one after another, as far as it is known."""
        return sum(self.cost.after(done) for done in self.epochs) if self.cost else 0.0


def estimate(
    sweep: Sweep, *, seconds: float = 5.0, progress: Callable[[str, int, int], None] | None = None
) -> list[RunEstimate]:
    """Time a few steps of each run of a sweep that is left, one after another; seeds cost the same.

    A run that was interrupted counts with the epochs that are left of it. One that cannot be measured will
    not run either, and is told with its reason.

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
            networks[run.output] = str(yaml.safe_load(run.text).get("student"))
            groups.setdefault((run.method, run.command, run.text), []).append(run)
    groups = {key: runs for key, runs in groups.items() if not all(run.is_done(sweep.home) for run in runs)}
    found = []
    for number, runs in enumerate(groups.values()):
        name = "/".join(Path(runs[0].name).parts[:-1]) if runs[0].seed is not None else runs[0].name
        if progress is not None:
            progress(name, number, len(groups))
        epochs = tuple(run.epochs_done(sweep.home) for run in runs if not run.is_done(sweep.home))
        cost, error = None, ""
        try:
            cost = _cost(sweep, runs[0], networks, seconds)
        except MISTAKES as mistake:
            error = str(mistake).partition("\n")[0]
        found.append(RunEstimate(name, cost, len(runs), len(epochs), epochs, error))
    return found


MISTAKES = (
    errors.ArtefactMismatch,
    errors.CheckpointError,
    errors.DataError,
    errors.FeatureNotFound,
    errors.RecipeError,
    errors.TrainingDiverged,
    errors.UnknownName,
    ValueError,
)
"""What is wrong with a recipe; it must not hide what the others cost."""


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
    kind = KINDS[run.command]
    recipe, _ = load_recipe(words[1], words[2:], kind=kind)
    planned = SIZES.get(yaml.safe_load(run.text)["data"]["name"])
    images = planned[2:] if planned and recipe.data.name == "noise" else None
    return MEASURES[kind](recipe, seconds=seconds, images=images)


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
