"""Recipe files: the ones that come with the library, found by name, and the user's own, found by path."""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import yaml

from topokd_lib.errors import RecipeError, UnknownName, did_you_mean

__all__ = ["check_recipe_file", "find_recipe", "recipe_names", "recipe_title"]

HOME = Path(str(files("topokd_lib.recipes")))


def recipe_names() -> list[str]:
    """Names such as ``digits/topkd`` of the recipes that come with the library."""
    return sorted(str(path.relative_to(HOME).with_suffix("")) for path in HOME.glob("*/*.yaml"))


def find_recipe(name: str) -> Path:
    """The file of a recipe, given its name or its path.

    Raises:
        UnknownName: If there is neither such a file nor such a recipe; suggests the nearest name.

    Example:
        >>> find_recipe("digits/topkd").name
        'topkd.yaml'
    """
    if Path(name).is_file():
        return Path(name)
    names = recipe_names()
    if name.removesuffix(".yaml") in names:
        return HOME / f"{name.removesuffix('.yaml')}.yaml"
    raise UnknownName(
        f"there is no file and no recipe {name!r}.{did_you_mean(name, names)} "
        f"Recipes: {', '.join(names)}. Own recipes are given by their path."
    )


def recipe_title(path: Path) -> str:
    """The first comment line of a recipe file, which says what it is."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()


def check_recipe_file(path: Path) -> None:
    """Look whether a file can be a recipe at all, before the parser looks at its fields.

    Raises:
        RecipeError: If the file is not YAML, or not a mapping.
    """
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(recipe, Mapping):
        raise RecipeError(f"{path} must hold a mapping of recipe fields such as data, student and terms")
