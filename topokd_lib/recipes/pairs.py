"""The teacher–student pairs of the benchmark, and what one of them changes in a recipe."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import yaml

from topokd_lib.errors import RecipeError, require_name
from topokd_lib.recipes.files import HOME, find_recipe, recipe_names

__all__ = ["BenchmarkPair", "benchmark_pairs", "insert_pair", "pair_options"]

ARTEFACTS = {"artefact": "ripsnet-{teacher}-pooled", "process": "dist-pro-{pair}"}
"""How the files are called that objectives read, by the argument that names them."""

ATTRIBUTIONS = "attributions-{teacher}"
"""How the directory is called that an overlay reads."""


@dataclass(frozen=True)
class BenchmarkPair:
    """One line of ``pairs.yaml``.

    Args:
        name: Names of teacher and student, with a hyphen between them.
        group: The recipes that it is for.
        networks: Names of teacher and student as models, if they are not those in the pair's name.
        lr: The student's learning rate, if it is not the recipe's.
        weights: Weights of terms by recipe, if they are known for this pair.
        hyper: Hyper-parameters of terms by recipe, likewise.
        impossible: Recipes that do not fit this pair, and why.
    """

    name: str
    group: str = "cifar100"
    networks: tuple[str, str] | None = None
    lr: float | None = None
    weights: dict[str, dict[str, float]] = field(default_factory=dict)
    hyper: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    impossible: dict[str, str] = field(default_factory=dict)

    @property
    def teacher(self) -> str:
        """Name of the teaching network."""
        return self.networks[0] if self.networks else self.name.partition("-")[0]

    @property
    def student(self) -> str:
        """Name of the network to train."""
        return self.networks[1] if self.networks else self.name.partition("-")[2]


@cache
def benchmark_pairs(group: str | None = "cifar100") -> dict[str, BenchmarkPair]:
    """The pairs of a group of recipes by name, in the order of the tables; ``None`` for all.

    Example:
        >>> benchmark_pairs()["vgg13-mobilenetv2_half"].lr
        0.01
    """
    lines: dict[str, Any] = yaml.safe_load((HOME / "pairs.yaml").read_text(encoding="utf-8"))
    for about in lines.values():
        if "networks" in about:
            about["networks"] = tuple(about["networks"])
    pairs = {name: BenchmarkPair(name, **about) for name, about in lines.items()}
    return {name: pair for name, pair in pairs.items() if group in (None, pair.group)}


def pair_options(name: str, source: str) -> list[str]:
    """What the command line would have to say to use a pair with a recipe.

    Teachers, and what was prepared for them, are expected where the recipes ``teacher``, ``ripsnet`` and
    ``dist_pro_search`` of the same data set put them. For the recipe ``teacher`` the pair names its teacher.

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
    known = source.removesuffix(".yaml")
    require_name("pair", name, benchmark_pairs(None))
    recipe: dict[str, Any] = yaml.safe_load(find_recipe(source).read_text(encoding="utf-8"))
    large = (recipe.get("data") or {}).get("name") == "imagenet"
    pairs = benchmark_pairs("imagenet" if large else "cifar100")
    require_name(f"pair for {'ImageNet' if large else 'small images'}", name, pairs)
    pair = pairs[name]
    group = known.partition("/")[0] if known in recipe_names() else pair.group
    if known in pair.impossible:
        raise RecipeError(f"recipe {known} does not fit the pair {name}: {pair.impossible[known]}")
    weights = ["--teacher.weights", f"runs/{group}/teacher/{pair.teacher}/seed0"]
    if pair.networks:
        weights = ["--teacher.model", pair.teacher]
    teacher = name.partition("-")[0]
    artefacts = {
        argument: f"artefacts/{group}/{pattern.format(pair=name, teacher=teacher)}.safetensors"
        for argument, pattern in ARTEFACTS.items()
    }
    if known == f"{group}/teacher":
        return ["--student", pair.teacher]
    maps = f"artefacts/{group}/{ATTRIBUTIONS.format(teacher=teacher)}"
    if "artefact" in recipe and "teacher" not in recipe:
        return []  # of the images alone
    if "attributions" in recipe:
        return [*weights, "--artefact", maps]
    if "artefact" in recipe and "student" in recipe:
        return [*weights, "--student", pair.student, "--artefact", artefacts["process"]]
    if "artefact" in recipe:
        return [*weights, "--artefact", artefacts["artefact"]]
    words = ["--student", pair.student, *(weights if "teacher" in recipe else [])]
    if pair.lr is not None:
        words += ["--schedule.lr", str(pair.lr)]
    if "artefact" in (recipe.get("data", {}).get("overlay") or {}):
        words += ["--data.overlay.artefact", maps]
    terms = recipe.get("terms")
    for term, about in terms.items() if isinstance(terms, dict) else ():
        match about:
            case {"objective": {"init_args": dict(arguments)}}:
                for argument in arguments.keys() & artefacts.keys():
                    words += [f"--terms.{term}.objective.init_args.{argument}", artefacts[argument]]
    for term, weight in pair.weights.get(known, {}).items():
        words += [f"--terms.{term}.weight", str(weight)]
    for term, values in pair.hyper.get(known, {}).items():
        for argument, value in values.items():
            words += [f"--terms.{term}.objective.init_args.{argument}", json.dumps(value)]
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
