"""The command ``topokd``: a file describes a run, the command line names it and changes a few values."""

import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter
from tqdm import tqdm

from topokd_lib import __version__, errors

__all__ = ["main"]

MISTAKES = (
    ArgumentError,
    errors.ArtefactMismatch,
    errors.CheckpointError,
    errors.DataError,
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
        return _run(words)
    except MISTAKES as error:
        text = " ".join(str(error).split()) if isinstance(error, ArgumentError) else str(error)
        print(f"topokd: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ntopokd: stopped; the same command goes on from what is complete", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    match words:
        case ["--version"]:
            print(f"topokd {__version__}")
        case ["-h" | "--help"]:
            print(_overview())
        case ["prepare", "ripsnet", *rest]:
            _prepare_ripsnet(rest)
        case [("train" | "evaluate" | "recipes" | "models" | "demo") as command, *rest]:
            {
                "train": _train,
                "evaluate": _evaluate,
                "recipes": _recipes,
                "models": _models,
                "demo": _demo,
            }[command](rest)
        case []:
            print(_overview(), file=sys.stderr)
            return 2
        case _:
            asked = " ".join(words[:2]) if words[0] == "prepare" else words[0]
            errors.require_name("command", asked, COMMANDS)
    return 0


COMMANDS = {
    "train": "train a network as a recipe says, or continue a run that was interrupted",
    "prepare ripsnet": "train a RipsNet on a teacher's clouds, which TopKD needs",
    "evaluate": "measure the test accuracy of a finished run",
    "recipes": "list recipes, models and objectives",
    "models": "list models with their parameters, multiply-accumulates and feature shapes",
    "demo": "the main experiment in small: what topology adds, on the 8×8 digits",
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {does}" for name, does in COMMANDS.items()]
    return "\n".join(
        [
            "usage: topokd COMMAND [options]",
            "",
            "Topological knowledge distillation: train, prepare, evaluate.",
            "",
            "commands:",
            *lines,
            "",
            "`topokd COMMAND --help` explains one of them; `topokd --version` tells the version.",
        ]
    )


def _train(words: list[str]) -> None:
    from topokd_lib.recipes import Recipe, default_directory, rehearse, run_recipe
    from topokd_lib.recipes.load import add_recipe_options, build_recipe, parse_recipe

    parser = _new_parser(
        "train", "[--config RECIPE] [--pair PAIR] [--out DIRECTORY] [--dry-run] [--FIELD VALUE ...]"
    )
    parser.add_argument("--out", help="run directory; else runs/<recipe>/<student or pair>/seed<k>")
    parser.add_argument("--dry-run", action="store_true", help="build all, train two steps, write nothing")
    parser.add_argument(
        "--print-recipe", action="store_true", help="print all fields, defaults too, and stop"
    )
    add_recipe_options(parser, Recipe)
    options, source = parse_recipe(parser, words)
    recipe, text = build_recipe(parser, options, Recipe)
    if options.print_recipe:
        print(text, end="")
        return
    if options.dry_run:
        history = rehearse(recipe)
        _say(f"dry run: all parts fit; loss of the first steps {history.last.loss:.4f}")
        return
    usual = default_directory(source or recipe.data.name, recipe, options.pair)
    directory = Path(options.out) if options.out else usual
    record = run_recipe(recipe, text, directory)
    last, best = record["last"], record["best"]
    _say(
        f"{directory}: test accuracy {last['top1']:.2%} after epoch {last['epoch']} "
        f"(best {best['top1']:.2%} after epoch {best['epoch']}), {record['wall_time_seconds']:.0f} s"
    )


def _prepare_ripsnet(words: list[str]) -> None:
    from topokd_lib.recipes import RipsNetRecipe, run_ripsnet_recipe
    from topokd_lib.recipes.load import add_recipe_options, build_recipe, parse_recipe

    parser = _new_parser("prepare ripsnet", "[--config RECIPE] [--pair PAIR] [--FIELD VALUE ...]")
    add_recipe_options(parser, RipsNetRecipe)
    recipe, _ = build_recipe(parser, parse_recipe(parser, words)[0], RipsNetRecipe)
    with closing(Stages()) as stages:
        artefact = run_ripsnet_recipe(recipe, progress=stages.show)
    report = artefact.report
    print(
        f"{recipe.artefact}: RipsNet for {artefact.teacher} {artefact.feature!r}, clouds of "
        f"{artefact.cloud_size} points\n"
        f"validation error {report['validation_mse']:.5f}, of a constant image "
        f"{report['constant_mse']:.5f}, R² {report['r2']:.3f}"
    )


def _evaluate(words: list[str]) -> None:
    from topokd_lib.recipes import evaluate_run

    parser = _new_parser("evaluate", "RUN [--best]")
    parser.add_argument("run", help="a run directory, as `topokd train` prints it")
    parser.add_argument("--best", action="store_true", help="the best epoch's weights, not the last's")
    options = parser.parse_args(words)
    found = evaluate_run(Path(options.run), best=options.best)
    _say(
        f"{options.run}: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, "
        f"cross-entropy {found.loss:.4f} on {found.count} test images"
    )


def _recipes(words: list[str]) -> None:
    from topokd_lib import objectives
    from topokd_lib.data import DATA
    from topokd_lib.models import MODELS
    from topokd_lib.recipes import benchmark_pairs, find_recipe, recipe_names, recipe_title

    _new_parser("recipes", "").parse_args(words)
    print("recipes (topokd train --config NAME):")
    width = max(len(name) for name in recipe_names())
    for name in recipe_names():
        print(f"  {name:<{width}}  {recipe_title(find_recipe(name))}")
    print(f"pairs:      {', '.join(benchmark_pairs())}")
    print(f"data sets:  {', '.join(DATA)}")
    print(f"models:     {', '.join(MODELS)}")
    print(f"objectives: {', '.join(objectives.objective_names())}")


def _models(words: list[str]) -> None:
    from topokd_lib import models

    parser = _new_parser("models", "[--imagenet]")
    parser.add_argument("--imagenet", action="store_true", help="those for ImageNet, for 224×224 images")
    print(models.table(imagenet=parser.parse_args(words).imagenet))


def _demo(words: list[str]) -> None:
    from topokd_lib.demo import run_demo

    parser = _new_parser("demo", "[--out DIRECTORY] [--seeds N]")
    parser.add_argument("--out", default="runs/demo", help="where everything is written")
    parser.add_argument("--seeds", type=int, default=5, help="students of every method, at least 2")
    options = parser.parse_args(words)
    with closing(Stages()) as stages:
        run_demo(Path(options.out), seeds=options.seeds, progress=stages.show)


def _say(text: str) -> None:
    """Print a result once, however many processes have it; Fabric numbers those that it starts."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(text)


class _HelpFormatter(DefaultHelpFormatter):
    """Docstrings are the help; their mark-up is for the web pages."""

    def format_help(self) -> str:
        text = re.sub(r"<class\s+'(\w+)'>", r"\1", super().format_help())
        return re.sub(r"(?::\w+:)?`+~?([^`]+)`+", r"\1", text)


def _new_parser(command: str, usage: str) -> ArgumentParser:
    return ArgumentParser(
        prog=f"topokd {command}",
        usage=f"topokd {command} {usage}".rstrip(),
        description=f"{COMMANDS[command][0].upper()}{COMMANDS[command][1:]}.",
        formatter_class=_HelpFormatter,
        print_config=None,
        exit_on_error=False,
        allow_abbrev=False,
    )


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
