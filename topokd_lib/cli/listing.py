"""``topokd recipes`` and ``topokd models``: what there is."""

from topokd_lib.cli.parser import new_parser

__all__ = ["models", "recipes"]


def recipes(words: list[str]) -> None:
    """List everything that a recipe can name."""
    from topokd_lib import objectives
    from topokd_lib.data import DATA
    from topokd_lib.models import MODELS
    from topokd_lib.recipes import benchmark_pairs, find_recipe, recipe_names, recipe_title

    new_parser("recipes", "").parse_args(words)
    print("recipes (topokd train --config NAME):")
    width = max(len(name) for name in recipe_names())
    for name in recipe_names():
        print(f"  {name:<{width}}  {recipe_title(find_recipe(name))}")
    print(f"pairs:      {', '.join(benchmark_pairs(None))}")
    print(f"data sets:  {', '.join(DATA)}")
    print(f"models:     {', '.join(MODELS)}")
    print(f"objectives: {', '.join(objectives.objective_names())}")


def models(words: list[str]) -> None:
    """List models with what they cost and offer."""
    from topokd_lib.models import table

    parser = new_parser("models", "[--imagenet]")
    parser.add_argument("--imagenet", action="store_true", help="those for ImageNet, for 224×224 images")
    print(table(imagenet=parser.parse_args(words).imagenet))
