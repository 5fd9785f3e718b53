"""From a YAML file and overrides to a recipe, checked before anything runs.

The constructors' signatures are the schema: an objective's hyper-parameters are the arguments of its class,
and a misspelt one is refused here. With ``cli.py``, this is the only place that knows jsonargparse.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from topokd_lib.errors import RecipeError
from topokd_lib.recipes.files import check_recipe_names, find_recipe
from topokd_lib.recipes.recipe import Recipe, RipsNetRecipe

__all__ = ["add_recipe_options", "build_recipe", "load_recipe", "resolve_config"]

AnyRecipe = TypeVar("AnyRecipe", Recipe, RipsNetRecipe)


def add_recipe_options(parser: ArgumentParser, kind: type[Recipe] | type[RipsNetRecipe]) -> None:
    """Give a parser ``--config`` and an option for every field of a recipe."""
    parser.add_argument("--config", action="config", help="name or file of a recipe")
    parser.add_class_arguments(kind, nested_key=None)


def resolve_config(arguments: Sequence[str]) -> list[str]:
    """The arguments with the recipe's name after ``--config`` replaced by its file, which is looked at.

    Raises:
        UnknownName: If there is no such recipe, or it names an unknown objective.
        RecipeError: If the file is not a mapping in YAML.
    """
    resolved: list[str] = []
    expects_name = False
    for argument in arguments:
        if expects_name or argument.startswith("--config="):
            path = find_recipe(argument.removeprefix("--config="))
            check_recipe_names(path)
            resolved += [str(path)] if expects_name else ["--config", str(path)]
        else:
            resolved.append(argument)
        expects_name = argument == "--config"
    return resolved


def build_recipe(parser: ArgumentParser, options: Namespace, kind: type[AnyRecipe]) -> tuple[AnyRecipe, str]:
    """The recipe in ``options``, and its text with every default written out."""
    names = [field.name for field in fields(kind)]
    writer = ArgumentParser(exit_on_error=False)
    writer.add_class_arguments(kind, nested_key=None)
    text = writer.dump(Namespace(**{name: options[name] for name in names}))
    built = parser.instantiate(options)
    return kind(**{name: built[name] for name in names}), text


def load_recipe(
    source: str, overrides: Sequence[str] = (), *, kind: type[AnyRecipe]
) -> tuple[AnyRecipe, str]:
    """Read a recipe.

    Args:
        source: Name of a recipe of the library, or a path.
        overrides: As on the command line: ``["--schedule.epochs", "2"]``.
        kind: :class:`Recipe` or :class:`RipsNetRecipe`.

    Returns:
        The recipe, and its text with every default written out.

    Raises:
        UnknownName: If there is no such recipe, or it names an unknown objective.
        RecipeError: If a field is missing, unknown or of the wrong type.

    Example:
        >>> recipe, text = load_recipe("digits/kd", ["--seed", "3"], kind=Recipe)
        >>> recipe.student, recipe.seed, list(recipe.terms)
        ('resnet8', 3, ['ce', 'kd'])
    """
    parser = ArgumentParser(exit_on_error=False)
    add_recipe_options(parser, kind)
    try:
        options = parser.parse_args(resolve_config(["--config", source, *overrides]))
    except ArgumentError as error:
        raise RecipeError(f"recipe {source}: {error}") from error
    return build_recipe(parser, options, kind)
