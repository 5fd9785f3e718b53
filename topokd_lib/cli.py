"""The command ``topokd``: a file describes a run, the command line names it and changes a few values."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from tqdm import tqdm

from topokd_lib import __version__, errors

__all__ = ["main"]

MISTAKES = (
    ArgumentError,
    errors.ArtefactMismatch,
    errors.CheckpointError,
    errors.FeatureNotFound,
    errors.InvalidPoints,
    errors.RecipeError,
    errors.RunDirectoryError,
    errors.TrainingDiverged,
    errors.UnknownName,
)
"""What a user can cause and is told in a sentence; anything else is a defect and keeps its traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2 for a mistake in what was asked."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(words)
    except MISTAKES as error:
        print(f"topokd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntopokd: stopped; the same command continues after the last epoch", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _run(words: list[str]) -> None:
    parser = _new_parser("Topological knowledge distillation: train, prepare, evaluate.")
    parser.add_argument("--version", action="version", version=f"topokd {__version__}")
    commands = parser.add_subcommands(dest="command", required=True)

    train = _new_parser("Train a network as a recipe says, or continue a run that was interrupted.")
    train.add_argument("--out", type=Path | None, help="run directory; else runs/<recipe>/<student>/seed<k>")
    train.add_argument("--dry-run", action="store_true", help="build all, train two steps, write nothing")
    commands.add_subcommand("train", train, help="train a network as a recipe says")

    prepare = _new_parser("Compute what a method needs before training.")
    commands.add_subcommand("prepare", prepare, help="compute what a method needs before training")
    prepared = prepare.add_subcommands(dest="what", required=True)
    ripsnet = _new_parser("Train a RipsNet on the minibatch clouds of a teacher.")
    prepared.add_subcommand("ripsnet", ripsnet, help="train a RipsNet on a teacher's clouds")

    evaluate = _new_parser("Test accuracy of a run.")
    evaluate.add_argument("run", type=Path, help="a run directory")
    evaluate.add_argument("--best", action="store_true", help="the best epoch's weights, not the last's")
    commands.add_subcommand("evaluate", evaluate, help="test accuracy of a run")

    recipes = _new_parser("List recipes, models and objectives.")
    commands.add_subcommand("recipes", recipes, help="list what can be run")

    demo = _new_parser("Teacher, RipsNet and students with and without topology, on the 8×8 digits.")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything is written")
    demo.add_argument("--seeds", type=int, default=5, help="runs of every method")
    commands.add_subcommand("demo", demo, help="the main experiment, in three minutes")

    match words:
        case ["train", *_]:
            _train(train, parser, words)
        case ["prepare", "ripsnet", *_]:
            _prepare_ripsnet(ripsnet, parser, words)
        case _:
            options = parser.parse_args(words)
            {"evaluate": _evaluate, "recipes": _recipes, "demo": _demo}[options.command](options)


def _train(train: ArgumentParser, parser: ArgumentParser, words: list[str]) -> None:
    from topokd_lib.recipes import Recipe, default_directory, rehearse, run_recipe
    from topokd_lib.recipes.load import add_recipe_options, build_recipe, resolve_config

    add_recipe_options(train, Recipe)
    options = parser.parse_args(resolve_config(words)).train
    recipe, text = build_recipe(train, options, Recipe)
    if options.dry_run:
        history = rehearse(recipe)
        print(f"dry run: all parts fit; loss of the first steps {history.last.loss:.4f}")
        return
    source = words[words.index("--config") + 1] if "--config" in words else recipe.data.name
    directory = options.out or default_directory(source, recipe)
    record = run_recipe(recipe, text, directory)
    last, best = record["last"], record["best"]
    print(
        f"{directory}: test accuracy {last['top1']:.2%} after epoch {last['epoch']} "
        f"(best {best['top1']:.2%} after epoch {best['epoch']}), {record['wall_time_seconds']:.0f} s"
    )


def _prepare_ripsnet(ripsnet: ArgumentParser, parser: ArgumentParser, words: list[str]) -> None:
    from topokd_lib.recipes import RipsNetRecipe, run_ripsnet_recipe
    from topokd_lib.recipes.load import add_recipe_options, build_recipe, resolve_config

    add_recipe_options(ripsnet, RipsNetRecipe)
    options = parser.parse_args(resolve_config(words)).prepare.ripsnet
    recipe, _ = build_recipe(ripsnet, options, RipsNetRecipe)
    with closing(Stages()) as stages:
        artefact = run_ripsnet_recipe(recipe, progress=stages.show)
    report = artefact.report
    print(
        f"{recipe.artefact}: RipsNet for {artefact.teacher} {artefact.feature!r}, clouds of "
        f"{artefact.cloud_size} points\n"
        f"validation error {report['validation_mse']:.5f}, of a constant {report['constant_mse']:.5f}, "
        f"R² {report['r2']:.3f}"
    )


def _evaluate(options: Namespace) -> None:
    from topokd_lib.recipes import evaluate_run

    found = evaluate_run(options.evaluate.run, best=options.evaluate.best)
    print(
        f"{options.evaluate.run}: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, "
        f"cross-entropy {found.loss:.4f} on {found.count} test images"
    )


def _recipes(_: Namespace) -> None:
    from topokd_lib import objectives
    from topokd_lib.models import MODELS
    from topokd_lib.recipes import find_recipe, recipe_names, recipe_title

    print("recipes (topokd train --config NAME):")
    width = max(len(name) for name in recipe_names())
    for name in recipe_names():
        print(f"  {name:<{width}}  {recipe_title(find_recipe(name))}")
    print(f"models: {', '.join(MODELS)}")
    print(f"objectives: {', '.join(objectives.objective_names())}")


def _demo(options: Namespace) -> None:
    from topokd_lib.demo import run_demo

    with closing(Stages()) as stages:
        run_demo(options.demo.out, seeds=options.demo.seeds, progress=stages.show)


def _new_parser(description: str) -> ArgumentParser:
    return ArgumentParser(prog="topokd", description=description, exit_on_error=False, allow_abbrev=False)


class Stages:
    """A progress bar for each stage of a preparation, drawn on terminals only."""

    def __init__(self) -> None:
        self._bar: tqdm[None] | None = None
        self._name = ""

    def show(self, name: str, done: int, total: int) -> None:
        """Draw the bar of a stage; a new name begins a new bar."""
        if self._bar is None or name != self._name:
            self.close()
            self._name, self._bar = name, tqdm(desc=name, total=total, disable=None, leave=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
