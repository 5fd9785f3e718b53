"""``topokd recipes`` and ``topokd models``: what there is."""

from collections import Counter
from pathlib import Path

from topokd_lib.cli.parser import new_parser

__all__ = ["models", "recipes"]


def recipes(words: list[str]) -> None:
    """List everything that a recipe can name."""
    from topokd_lib import objectives
    from topokd_lib.data import DATA
    from topokd_lib.models import MODELS
    from topokd_lib.recipes import benchmark_pairs, find_recipe, recipe_names, recipe_title

    parser = new_parser("recipes", "[--results DIRECTORY]")
    parser.add_argument("--results", default="results", help="folder of records, which say what was run")
    counts = _recorded(Path(parser.parse_args(words).results))
    print("recipes (topokd train --config NAME):")
    width = max(len(name) for name in recipe_names())
    for name in recipe_names():
        ran = f" [recorded runs: {counts[name]}]" if counts[name] else ""
        print(f"  {name:<{width}}  {recipe_title(find_recipe(name))}{ran}")
    print(f"pairs:      {', '.join(benchmark_pairs(None))}")
    print(f"data sets:  {', '.join(DATA)}")
    print(f"models:     {', '.join(MODELS)}")
    print(f"objectives: {', '.join(objectives.objective_names())}")


def _recorded(results: Path) -> Counter[str]:
    """How many runs of each recipe are in a folder of records; the folders are named after the recipes."""
    from topokd_lib.analysis import read_runs
    from topokd_lib.errors import RunDirectoryError

    try:
        return Counter(run.method for run in read_runs(results))
    except RunDirectoryError:
        return Counter()  # nothing was recorded here


def models(words: list[str]) -> None:
    """List models with what they cost and offer."""
    from topokd_lib.models import table

    parser = new_parser("models", "[--imagenet]")
    parser.add_argument("--imagenet", action="store_true", help="those for ImageNet, for 224×224 images")
    print(table(imagenet=parser.parse_args(words).imagenet))
