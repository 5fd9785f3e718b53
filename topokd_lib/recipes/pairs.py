"""The teacher–student pairs of the benchmark, and what one of them changes in a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import yaml

from topokd_lib.errors import RecipeError, require_name
from topokd_lib.recipes.files import HOME, find_recipe, recipe_names

__all__ = ["BenchmarkPair", "benchmark_pairs", "insert_pair", "pair_options"]


@dataclass(frozen=True)
class BenchmarkPair:
    """One line of ``pairs.yaml``.

    Args:
        name: Names of teacher and student, with a hyphen between them.
        lr: The student's learning rate, if it is not the recipe's.
        weights: Weights of terms by recipe, if they are known for this pair.
        impossible: Recipes that do not fit this pair, and why.
    """

    name: str
    lr: float | None = None
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)

    @property
    def teacher(self) -> str:
        """Name of the teaching network."""
        return self.name.partition("-")[0]

    @property
    def student(self) -> str:
        """Name of the network to train."""
        return self.name.partition("-")[2]


@cache
def benchmark_pairs() -> dict[str, BenchmarkPair]:
    """All pairs by name, in the order of the tables.

    Example:
        >>> benchmark_pairs()["vgg13-mobilenetv2_half"].lr
        0.01
    """
    lines: dict[str, Any] = yaml.safe_load((HOME / "pairs.yaml").read_text(encoding="utf-8"))
    return {name: BenchmarkPair(name, **about) for name, about in lines.items()}


def pair_options(name: str, source: str) -> list[str]:
    """What the command line would have to say to use a pair with a recipe.

    Teachers, and the RipsNets made for them, are expected where the recipes ``teacher`` and ``ripsnet`` of
    the same data set put them. For the recipe ``teacher`` the pair names its teacher.

    Args:
        name: One of :func:`benchmark_pairs`.
        source: Name or path of the recipe.

    Raises:
        UnknownName: If there is no such pair or no such recipe.
        RecipeError: If the recipe does not fit the pair.

    Example:
        >>> " ".join(pair_options("resnet50-mobilenetv2_half", "cifar100/none"))
        '--student mobilenetv2_half --schedule.lr 0.01'
        >>> " ".join(pair_options("resnet50-mobilenetv2_half", "cifar100/teacher"))
        '--student resnet50'
    """
    require_name("pair", name, benchmark_pairs())
    pair, known = benchmark_pairs()[name], source.removesuffix(".yaml")
    recipe: dict[str, Any] = yaml.safe_load(find_recipe(source).read_text(encoding="utf-8"))
    if known in pair.impossible:
        raise RecipeError(f"recipe {known} does not fit the pair {name}: {pair.impossible[known]}")
    group = known.partition("/")[0] if known in recipe_names() else "cifar100"
    weights = ["--teacher.weights", f"runs/{group}/teacher/{pair.teacher}/seed0"]
    artefact = f"artefacts/{group}/ripsnet-{pair.teacher}-pooled.safetensors"
    if known == f"{group}/teacher":
        return ["--student", pair.teacher]
    if "artefact" in recipe:
        return [*weights, "--artefact", artefact]
    words = ["--student", pair.student, *(weights if "teacher" in recipe else [])]
    if pair.lr is not None:
        words += ["--schedule.lr", str(pair.lr)]
    terms = recipe.get("terms")
    for term, about in terms.items() if isinstance(terms, dict) else ():
        match about:
            case {"objective": {"init_args": {"artefact": _}}}:
                words += [f"--terms.{term}.objective.init_args.artefact", artefact]
    for term, weight in pair.weights.get(known, {}).items():
        words += [f"--terms.{term}.weight", str(weight)]
    return words


def insert_pair(words: Sequence[str], source: str | None) -> list[str]:
    """Put what ``--pair`` means right behind the recipe, so that every other option has the last word."""
    named = [word.removeprefix("--pair=") for word in words if word.startswith("--pair=")]
    named += [value for option, value in pairwise(words) if option == "--pair"]
    if not named:
        return list(words)
    if source is None:
        raise RecipeError("--pair changes a recipe; name one with --config")
    place = max(index for index, word in enumerate(words) if word == "--config") + 2
    return [*words[:place], *pair_options(named[-1], source), *words[place:]]
