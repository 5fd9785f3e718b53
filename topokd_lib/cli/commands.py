"""What ``topokd`` can do: every command is one line here and one function beside it.

The function takes the words behind the command's name. Its module is imported when it is called, so that
``topokd --help`` does not wait for PyTorch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from topokd_lib.errors import require_name

__all__ = ["COMMANDS", "Command", "find_command", "overview"]


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        does: What it does, for the overview and as the first line of its help.
        place: Module of this package and function in it, with a dot between them.
    """

    does: str
    place: str

    def __call__(self, words: list[str]) -> None:
        """Run it."""
        module, _, function = self.place.partition(".")
        run = getattr(import_module(f"topokd_lib.cli.{module}"), function)
        cast(Callable[[list[str]], None], run)(words)


COMMANDS = {
    "train": Command("train as a recipe says, or continue a run that was interrupted", "train.train"),
    "evaluate": Command("measure the test accuracy of a finished run", "train.evaluate"),
    "prepare ripsnet": Command(
        "train a RipsNet on a teacher's clouds, which TopKD needs", "prepare.prepare_ripsnet"
    ),
    "prepare teacher-cache": Command(
        "keep what a teacher says about every view of every image", "prepare.prepare_teacher_cache"
    ),
    "prepare attributions": Command(
        "integrated gradients of a teacher for every image, which IG-KD needs", "prepare.prepare_attributions"
    ),
    "prepare image-persistence": Command(
        "compute the persistence images of a data set, which TGD needs", "prepare.prepare_persistence"
    ),
    "prepare dist-pro": Command(
        "search the weights of pathways between stages, which DistPro needs", "prepare.prepare_dist_pro"
    ),
    "data list": Command("list data sets, and say which are there", "data.names"),
    "data check": Command("read a data set wholly, and name what is damaged", "data.check"),
    "data download": Command("fetch a data set, or go on fetching it", "data.download"),
    "data shard": Command("pack a data set that is read from disk into large files", "data.shard"),
    "sweep": Command("run many recipes, pairs and seeds as a queue that survives a kill", "sweep.sweep"),
    "estimate": Command("time a few steps of every run of a sweep, and say what all will take", "sweep.cost"),
    "table": Command("a table of results: mean ± sd over seeds, paired differences", "results.table"),
    "plot": Command("curves of runs, or accuracy over cost of the methods of a sweep", "results.plot"),
    "compare": Command("two runs: their recipes, curves and answers to each test image", "results.compare"),
    "calibrate": Command("the weight at which a term pulls as hard as another", "analysis.calibrate"),
    "free-clouds": Command("what each loss asks of points that are free to move", "analysis.free_clouds"),
    "recipes": Command("list recipes, models and objectives", "listing.recipes"),
    "models": Command(
        "list models with parameters, multiply-accumulates and feature shapes", "listing.models"
    ),
    "demo": Command("the main experiment in small: what topology adds, on the 8×8 digits", "demo.demo"),
}
"""Every command by name; a name may have two words."""


def find_command(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command that ``words`` begin with, and the words behind its name.

    Raises:
        UnknownName: If there is no such command; suggests the nearest.

    Example:
        >>> command, rest = find_command(["prepare", "ripsnet", "--seed", "1"])
        >>> command.place, rest
        ('prepare.prepare_ripsnet', ['--seed', '1'])
    """
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return COMMANDS[name], list(words[length:])
    has_two_words = any(name.startswith(f"{words[0]} ") for name in COMMANDS)
    require_name("command", " ".join(words[: 1 + has_two_words]), COMMANDS)
    raise AssertionError("require_name has raised")


def overview() -> str:
    """What ``topokd --help`` says."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.does}" for name, command in COMMANDS.items()]
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
