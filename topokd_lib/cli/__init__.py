"""The command ``topokd``: a file describes a run, the command line names it and changes a few values."""

import os
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError

from topokd_lib import __version__, errors
from topokd_lib.cli.commands import COMMANDS, Command, find_command, overview
from topokd_lib.cli.parser import Stages

__all__ = ["COMMANDS", "Command", "Stages", "main"]

MISTAKES = (
    ArgumentError,
    errors.ArtefactMismatch,
    errors.CheckpointError,
    errors.DataError,
    errors.FeatureNotFound,
    errors.InvalidPoints,
    errors.RecipeError,
    errors.RunDirectoryError,
    errors.TrainingDiverged,
    errors.UnknownName,
)
"""What a user can cause and is told in a sentence; anything else is a defect and keeps its traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    2 for a mistake in what was asked, 75 if the same command has to be given again to go on, 130 after
    Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(words)
    except MISTAKES as error:
        text = " ".join(str(error).split()) if isinstance(error, ArgumentError) else str(error)
        print(f"topokd: {text}", file=sys.stderr)
        return 2
    except errors.Interrupted as error:
        if _is_helper():  # its end must not alarm the first process, which tells the story
            return 0
        print(f"topokd: {error}", file=sys.stderr)
        return errors.INTERRUPTED
    except KeyboardInterrupt:
        print("\ntopokd: stopped; the same command goes on from what is complete", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    match words:
        case ["--version"]:
            print(f"topokd {__version__}")
        case ["-h" | "--help"]:
            print(overview())
        case []:
            print(overview(), file=sys.stderr)
            return 2
        case _:
            command, rest = find_command(words)
            command(rest)
    return 0


def _is_helper() -> bool:
    """Whether Fabric has started this process beside the first one, and no scheduler has."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and not {"TORCHELASTIC_RUN_ID", "SLURM_PROCID"} & set(
        os.environ
    )
