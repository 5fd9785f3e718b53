"""``topokd train`` and ``topokd evaluate``."""

from pathlib import Path
from tempfile import TemporaryDirectory

from topokd_lib.cli.parser import new_parser, say
from topokd_lib.recipes import (
    Recipe,
    benchmark_pairs,
    default_directory,
    evaluate_run,
    rehearse,
    run_recipe,
    stand_in_options,
)
from topokd_lib.recipes.load import add_recipe_options, build_recipe, parse_recipe

__all__ = ["evaluate", "train"]


def train(words: list[str]) -> None:
    """Train as a recipe says, or go on."""
    parser = new_parser(
        "train",
        "[--config RECIPE] [--pair PAIR] [--out DIRECTORY] [--dry-run [--synthetic]] [--FIELD VALUE ...]",
    )
    parser.add_argument("--out", help="run directory; else runs/<recipe>/<student or pair>/seed<k>")
    parser.add_argument("--dry-run", action="store_true", help="build all, train two steps, write nothing")
    parser.add_argument(
        "--synthetic", action="store_true", help="a dry run that needs neither data, teacher nor artefacts"
    )
    parser.add_argument(
        "--print-recipe", action="store_true", help="print all fields, defaults too, and stop"
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="also store the state every so many minutes of an epoch"
    )
    parser.add_argument(
        "--keep-every", type=int, default=0, help="keep the checkpoint of every so many epochs for good"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard too")
    add_recipe_options(parser, Recipe)
    options, source = parse_recipe(parser, words)
    recipe, text = build_recipe(parser, options, Recipe)
    if options.print_recipe:
        print(text, end="")
        return
    if options.synthetic:
        with TemporaryDirectory() as folder:
            named = options.pair and benchmark_pairs(None)[options.pair].teacher
            more = stand_in_options(text, Path(folder), synthetic=True, network=named)
            options, _ = parse_recipe(parser, [*words, *more])
            history = rehearse(build_recipe(parser, options, Recipe)[0])
        say(f"dry run on noise: all parts fit; loss of the first steps {history.last.loss:.4f}")
        return
    if options.dry_run:
        history = rehearse(recipe)
        say(f"dry run: all parts fit; loss of the first steps {history.last.loss:.4f}")
        return
    usual = default_directory(source or recipe.data.name, recipe, options.pair)
    directory = Path(options.out) if options.out else usual
    record = run_recipe(
        recipe,
        text,
        directory,
        minutes=options.minutes,
        keep_every=options.keep_every,
        tensorboard=options.tensorboard,
    )
    last, best = record["last"], record["best"]
    say(
        f"{directory}: test accuracy {last['top1']:.2%} after epoch {last['epoch']} "
        f"(best {best['top1']:.2%} after epoch {best['epoch']}), {record['wall_time_seconds']:.0f} s"
    )


def evaluate(words: list[str]) -> None:
    """Test a run's network again."""
    parser = new_parser("evaluate", "RUN [--best]")
    parser.add_argument("run", help="a run directory, as `topokd train` prints it")
    parser.add_argument("--best", action="store_true", help="the best epoch's weights, not the last's")
    options = parser.parse_args(words)
    found = evaluate_run(Path(options.run), best=options.best)
    say(
        f"{options.run}: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}, "
        f"cross-entropy {found.loss:.4f} on {found.count} test images"
    )
