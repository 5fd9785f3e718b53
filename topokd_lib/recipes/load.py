"""From a YAML file and overrides to a recipe, checked before anything runs.

The constructors' signatures are the schema: an objective's hyper-parameters are the arguments of its class,
and a misspelt one is refused here. With ``cli``, this is the only place that knows jsonargparse.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from topokd_lib import objectives
from topokd_lib.errors import RecipeError, UnknownName, did_you_mean, require_name
from topokd_lib.recipes.files import check_recipe_file, find_recipe
from topokd_lib.recipes.pairs import insert_pair
from topokd_lib.recipes.recipe import (
    AttributionRecipe,
    DistProRecipe,
    ImagePersistenceRecipe,
    Recipe,
    RipsNetRecipe,
    TeacherSpec,
    Term,
)

__all__ = ["KINDS", "add_recipe_options", "build_recipe", "command_for", "load_recipe", "parse_recipe"]

AnyRecipe = TypeVar(
    "AnyRecipe", Recipe, RipsNetRecipe, DistProRecipe, ImagePersistenceRecipe, AttributionRecipe
)


KINDS: dict[str, type[Any]] = {
    "train": Recipe,
    "prepare ripsnet": RipsNetRecipe,
    "prepare dist-pro": DistProRecipe,
    "prepare image-persistence": ImagePersistenceRecipe,
    "prepare attributions": AttributionRecipe,
}
"""Commands that take recipes, and which."""


def command_for(content: Mapping[str, Any]) -> str:
    """The command, one of :data:`KINDS`, that a recipe with these fields is for.

    Example:
        >>> command_for({"data": {}, "teacher": {}, "artefact": "ripsnet.safetensors"})
        'prepare ripsnet'
    """
    if "artefact" not in content:
        return "train"
    if "attributions" in content:
        return "prepare attributions"
    if "student" in content:
        return "prepare dist-pro"
    return "prepare ripsnet" if "teacher" in content else "prepare image-persistence"


def add_recipe_options(parser: ArgumentParser, kind: type[AnyRecipe]) -> None:
    """Give a parser ``--config``, ``--pair``, and an option for every field of a recipe."""
    parser.add_argument("--config", action="config", help="name or file of a recipe")
    parser.add_argument("--pair", help="teacher and student of the benchmark, as `topokd recipes` lists them")
    parser.add_class_arguments(kind, nested_key=None)


def parse_recipe(parser: ArgumentParser, arguments: Sequence[str]) -> tuple[Namespace, str | None]:
    """Parse arguments in which ``--config`` may name a recipe of the library, and ``--pair`` adapt it.

    Returns:
        The options, and the name or path of the recipe as it was given.

    Raises:
        UnknownName: If there is no such recipe or pair, or it names an unknown objective.
        RecipeError: If a field is missing, unknown or of the wrong type; the message names it.
    """
    resolved: list[str] = []
    source = None
    for argument in arguments:
        name, is_assignment, value = argument.partition("=")
        if resolved[-1:] == ["--config"]:
            source = argument
        elif name == "--config" and is_assignment:
            resolved.append(name)
            source = value
        else:
            resolved.append(argument)
            continue
        path = find_recipe(source)
        check_recipe_file(path)
        resolved.append(str(path))
    try:
        return parser.parse_args(insert_pair(resolved, source)), source
    except ArgumentError as error:
        raise _in_our_words(str(error), parser) from error


def build_recipe(parser: ArgumentParser, options: Namespace, kind: type[AnyRecipe]) -> tuple[AnyRecipe, str]:
    """The recipe in ``options``, and its text with every default written out.

    Raises:
        RecipeError: If a value is out of its range.
    """
    names = [field.name for field in fields(kind)]
    writer = ArgumentParser(exit_on_error=False)
    writer.add_class_arguments(kind, nested_key=None)
    text = writer.dump(Namespace(**{name: options[name] for name in names}))
    try:
        built = parser.instantiate(options)
        return kind(**{name: built[name] for name in names}), text
    except (TypeError, ValueError) as error:
        raise RecipeError(str(error)) from error


def load_recipe(
    source: str, overrides: Sequence[str] = (), *, kind: type[AnyRecipe]
) -> tuple[AnyRecipe, str]:
    """Read a recipe.

    Args:
        source: Name of a recipe of the library, or a path.
        overrides: As on the command line: ``["--schedule.epochs", "2"]``.
        kind: :class:`Recipe`, or that of a preparation, such as :class:`RipsNetRecipe`.

    Returns:
        The recipe, and its text with every default written out.

    Raises:
        UnknownName: If there is no such recipe, or it names an unknown objective.
        RecipeError: If a field is missing, unknown, of the wrong type or out of its range.

    Example:
        >>> recipe, text = load_recipe("digits/kd", ["--seed", "3"], kind=Recipe)
        >>> recipe.student, recipe.seed, list(recipe.terms)
        ('resnet8', 3, ['ce', 'kd'])
    """
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_recipe_options(parser, kind)
    try:
        options, _ = parse_recipe(parser, ["--config", source, *overrides])
        return build_recipe(parser, options, kind)
    except RecipeError as error:
        raise RecipeError(f"recipe {source}: {error}") from error


def _in_our_words(story: str, parser: ArgumentParser) -> RecipeError | UnknownName:
    """Which field, what is wrong with it, and what was perhaps meant; jsonargparse takes many lines."""
    keys = re.findall(r'Parser key "([^"]+)"', story)
    place = ".".join(keys) or "the recipe"
    if keys[:1] == ["terms"] and "'topokd_lib.recipes.Term'" in story:
        place = f"{'.'.join(keys[1:])} of a term" if keys[1:] else "a term"
    if found := re.search(r"unrecognized arguments: ([^\s=]+)", story):
        options = [option for action in parser._actions for option in action.option_strings]
        hint = did_you_mean(found[1], options) or f" See `{parser.prog} --help`."
        return RecipeError(f"there is no option {found[1]!r}.{hint}")
    if found := re.search(r"(?:Group '(.+)' does not accept o|O)ption '(.+?)'", story):
        name = f"{found[1]}.{found[2]}" if found[1] else found[2]
        return RecipeError(f"{place} has no field {name!r}.{did_you_mean(name, _field_names(parser, name))}")
    if found := re.search(r"the following arguments are required: (.+)", story):
        return RecipeError(f"{place} lacks {found[1]}; `topokd recipes` lists complete ones")
    if found := re.search(r"Expected a dot import path string: (\S+)", story):
        if keys[-1] == "objective":
            try:
                require_name("objective", found[1], objectives.objective_names())
            except UnknownName as error:
                return error
        return RecipeError(f"{place} must hold fields of its own, got {found[1]!r}")
    expected = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.+?)\])", story)
    got = re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value|$)", story, re.MULTILINE)
    if expected and got:
        kinds = [kind or f"one of {names}" for kind, names in expected if kind != "NoneType"]
        near = did_you_mean(got[1], re.findall(r"'([^']+)'", "".join(names for _, names in expected)))
        return RecipeError(f"{place} must be {' or '.join(kinds)}, got {got[1]!r}.{near}")
    if found := re.search(r"callable class: (.+?)\.+ Got value", story):
        return RecipeError(f"{place}: {found[1]}")
    return RecipeError(" ".join(story.split()))


def _field_names(parser: ArgumentParser, asked: str) -> list[str]:
    """What ``asked`` may have meant: fields of all parts of a recipe, and objectives' hyper-parameters."""
    names = [action.dest for action in parser._actions]
    classes = [Term, TeacherSpec, *(getattr(objectives, name) for name in objectives.objective_names())]
    names += [name for cls in classes for name in inspect.signature(cls).parameters]
    return [name for name in names if name != asked and name.count(".") == asked.count(".")]
