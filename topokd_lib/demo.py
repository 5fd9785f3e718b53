"""The main experiment in small: does topology help a student on the digits, and does it copy the shape?

One teacher, one RipsNet, and the same student with nothing, with soft targets (KD), with TopKD as published,
and with TopKD on exact persistence images, each from several seeds. Every part is an ordinary recipe.
"""

import json
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from topokd_lib.analysis import compare
from topokd_lib.errors import CheckpointError, RecipeError
from topokd_lib.recipes import (
    Recipe,
    RipsNetRecipe,
    TeacherSpec,
    load_recipe,
    run_recipe,
    run_ripsnet_recipe,
)
from topokd_lib.topology import RipsNetArtefact

__all__ = ["METHODS", "Outcome", "run_demo"]

METHODS = {
    "none": "no teacher",
    "kd": "KD",
    "topkd": "KD + TopKD (RipsNet)",
    "topkd_exact": "KD + TopKD (exact)",
}
"""Recipes of the comparison and how the table calls them; the baseline first."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """One student.

    Args:
        method: Key of :data:`METHODS`.
        seed: Of the run.
        accuracy: On the test images after the last epoch, as a fraction.
        agreement: Fraction of test images to which student and teacher give the same class.
        image_distance: Between exact persistence images of both (:class:`~topokd_lib.analysis.Comparison`).
        death_distance: The same without scale.
    """

    method: str
    seed: int
    accuracy: float
    agreement: float
    image_distance: float
    death_distance: float


def run_demo(
    directory: Path,
    *,
    seeds: int = 5,
    epochs: int | None = None,
    clouds: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], Any] = print,
) -> list[Outcome]:
    """Run or continue the experiment; prints a table and writes a figure, a summary and all run records.

    Args:
        directory: Where everything is written; what is there already is not run again.
        seeds: Students of every method.
        epochs: Of every training, in place of the recipes'; for a look at the machinery.
        clouds: That RipsNet learns from, in place of the recipe's.
        progress: Called with (stage, done, total) during the preparation of the RipsNet.
        say: Receives the lines of the report.

    Raises:
        RecipeError: If fewer than two seeds are asked for: there would be no spread to judge by.
    """
    if seeds < 2:
        raise RecipeError(f"differences are judged by their spread over seeds: at least 2, got seeds={seeds}")
    teacher_directory = directory / "teacher"
    shorter = [] if epochs is None else ["--schedule.epochs", str(epochs)]
    recipe, text = load_recipe("digits/teacher", shorter, kind=Recipe)
    record = run_recipe(recipe, text, teacher_directory)
    say(f"teacher {recipe.student}: test accuracy {record['last']['top1']:.2%}")
    data = recipe.data.load()
    loader = recipe.data.loader(data, seed=0)
    teacher = TeacherSpec(teacher_directory).load(data)
    artefact_path = directory / "ripsnet.safetensors"
    overrides = ["--teacher.weights", str(teacher_directory), "--artefact", str(artefact_path)]
    overrides += [] if epochs is None else ["--plan.epochs", str(epochs)]
    overrides += [] if clouds is None else ["--plan.clouds", str(clouds)]
    ripsnet, _ = load_recipe("digits/ripsnet", overrides, kind=RipsNetRecipe)
    artefact = _ripsnet(ripsnet, teacher.fingerprint(), progress)
    say(f"RipsNet: R² {artefact.report['r2']:.2f} against a constant image (1 is perfect)")

    outcomes = []
    for method, title in METHODS.items():
        for seed in range(seeds):
            overrides = ["--seed", str(seed), *shorter]
            if method != "none":
                overrides += ["--teacher.weights", str(teacher_directory)]
            if method.startswith("topkd"):
                overrides += ["--terms.topology.objective.init_args.artefact", str(artefact_path)]
            recipe, text = load_recipe(f"digits/{method}", overrides, kind=Recipe)
            run = directory / method / f"seed{seed}"
            record = run_recipe(recipe, text, run)
            student = TeacherSpec(run).load(data).model
            likeness = compare(student, teacher, loader, image=artefact.image)
            outcomes.append(
                Outcome(
                    method,
                    seed,
                    record["last"]["top1"],
                    likeness.agreement,
                    likeness.image_distance,
                    likeness.death_distance,
                )
            )
            say(f"{title}, seed {seed}: test accuracy {outcomes[-1].accuracy:.2%}")
    say("")
    for line in table(outcomes):
        say(line)
    _write(directory, outcomes)
    say(f"\nfigure:  {directory / 'demo.svg'}\nnumbers: {directory / 'summary.json'}")
    say(f"runs:    {directory}/*/seed*")
    return outcomes


def table(outcomes: list[Outcome]) -> list[str]:
    """Lines of a table with mean ± standard deviation over seeds, one row per method."""
    columns = {
        "test accuracy %": ("accuracy", 100, 2),
        "agreement %": ("agreement", 100, 2),
        "image distance ×10³": ("image_distance", 1000, 1),
        "H0 distance, scaled": ("death_distance", 1, 3),
    }
    rows = [["", *columns]]
    for method, title in METHODS.items():
        chosen = [asdict(outcome) for outcome in outcomes if outcome.method == method]
        cells = []
        for field, factor, digits in columns.values():
            values = [factor * row[field] for row in chosen]
            cells.append(f"{statistics.mean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}")
        rows.append([title, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    seeds = len({outcome.seed for outcome in outcomes})
    return [
        lines[0],
        "─" * len(lines[0]),
        *lines[1:],
        f"mean ± standard deviation over {seeds} seeds; distances are to the teacher, smaller is nearer.",
        "The image distance sees shape and size of the features together, the scaled distance shape alone:",
        "a student without a teacher may have features of about the right size in the wrong shape.",
    ]


def _ripsnet(recipe: RipsNetRecipe, fingerprint: str, progress: Progress | None) -> RipsNetArtefact:
    if recipe.artefact.exists():
        with suppress(CheckpointError):  # damaged: the teacher is at hand, so it is made again
            artefact = RipsNetArtefact.load(recipe.artefact)
            if artefact.teacher_fingerprint == fingerprint:
                return artefact
    return run_ripsnet_recipe(recipe, progress=progress)


def _write(directory: Path, outcomes: list[Outcome]) -> None:
    from topokd_lib.plotting.results import plot_methods
    from topokd_lib.plotting.style import save_figure, use_house_style

    content = json.dumps([asdict(outcome) for outcome in outcomes], indent=2)
    (directory / "summary.json").write_text(content + "\n", encoding="utf-8")
    use_house_style()
    panels = {
        "test accuracy (%)": ("accuracy", 100),
        "distance of persistence images to the teacher's ×10³": ("image_distance", 1000),
        "scaled H0 distance to the teacher ×10³": ("death_distance", 1000),
    }
    values = {
        title: {
            name: [factor * getattr(outcome, field) for outcome in outcomes if outcome.method == method]
            for method, name in METHODS.items()
        }
        for title, (field, factor) in panels.items()
    }
    save_figure(plot_methods(values), directory / "demo.svg")
