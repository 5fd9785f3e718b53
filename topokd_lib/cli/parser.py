"""What the commands share: how options are parsed and explained, and how something is said or shown."""

import re

from jsonargparse import ArgumentParser, DefaultHelpFormatter
from tqdm import tqdm

from topokd_lib.cli.commands import COMMANDS

__all__ = ["Stages", "new_parser", "say"]


class _HelpFormatter(DefaultHelpFormatter):
    """Docstrings are the help; their mark-up is for the web pages."""

    def format_help(self) -> str:
        text = re.sub(r"<class\s+'(\w+)'>", r"\1", super().format_help())
        return re.sub(r"(?::\w+:)?`+~?([^`]+)`+", r"\1", text)


def new_parser(command: str, usage: str) -> ArgumentParser:
    """A parser for the options of a command.

    Args:
        command: Its name in :data:`~topokd_lib.cli.commands.COMMANDS`.
        usage: Its options in short, for the first line of its help.
    """
    does = COMMANDS[command].does
    return ArgumentParser(
        prog=f"topokd {command}",
        usage=f"topokd {command} {usage}".rstrip(),
        description=f"{does[0].upper()}{does[1:]}.",
        formatter_class=_HelpFormatter,
        print_config=None,
        exit_on_error=False,
        allow_abbrev=False,
    )


def say(text: str) -> None:
    """Print a result once, however many processes have it."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    if getattr(rank_zero_only, "rank", None) in (0, None):
        print(text, flush=True)


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
