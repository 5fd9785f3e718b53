"""Errors a caller may want to catch, and the words they share.

Every message says what was asked, what was found, and what to do about it. Where a built-in error
carries the meaning (a wrong value, a wrong type), the library raises the built-in one.
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "INTERRUPTED",
    "ArtefactMismatch",
    "CheckpointError",
    "DataError",
    "FeatureNotFound",
    "Interrupted",
    "InvalidPoints",
    "RecipeError",
    "RunDirectoryError",
    "TrainingDiverged",
    "UnknownName",
    "did_you_mean",
    "require_feature",
    "require_name",
]


INTERRUPTED = 75
"""Exit status of a command that raised :class:`Interrupted`; schedulers know it as EX_TEMPFAIL."""


class UnknownName(LookupError):
    """No model, objective, data set or recipe has that name."""


class FeatureNotFound(LookupError):
    """A network has no feature of that name, or was not asked to keep it."""


class InvalidPoints(ValueError):
    """A point cloud that has no persistent homology: empty, not finite, or of the wrong shape."""


class ArtefactMismatch(ValueError):
    """A prepared artefact was made for something else than what it is used with."""


class RecipeError(ValueError):
    """A recipe that cannot be read, or whose parts do not fit together."""


class RunDirectoryError(RuntimeError):
    """A run directory cannot be used: not writable, or it holds another run."""


class CheckpointError(RuntimeError):
    """A checkpoint or weight file cannot be read, or does not fit."""


class DataError(RuntimeError):
    """A data set is not there or damaged, or cannot be downloaded."""


class Interrupted(RuntimeError):
    """The work was asked to stop, has kept what was done, and goes on when it is started again."""


class TrainingDiverged(RuntimeError):
    """The loss stopped being a finite number."""


def did_you_mean(name: str, available: Iterable[str]) -> str:
    """A suggestion ready to be appended to a message, or nothing.

    Example:
        >>> did_you_mean("resnet2", ["resnet20", "vgg8"])
        " Did you mean 'resnet20'?"
        >>> did_you_mean("transformer", ["resnet20", "vgg8"])
        ''
    """
    near = difflib.get_close_matches(str(name), list(available), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def require_name(kind: str, name: str, available: Iterable[str]) -> None:
    """Raise :class:`UnknownName`, with a suggestion, unless ``name`` is one of ``available``."""
    names = sorted(available)
    if name not in names:
        raise UnknownName(
            f"there is no {kind} {name!r}.{did_you_mean(name, names)} Known: {', '.join(names)}."
        )


def require_feature(role: str, model: str, name: str, available: Iterable[str]) -> None:
    """Raise :class:`FeatureNotFound`, with a suggestion, unless ``name`` is one of ``available``."""
    names = list(available)
    if name not in names:
        raise FeatureNotFound(
            f"{role} {model} has no feature {name!r}.{did_you_mean(name, names)} "
            f"It offers: {', '.join(names)}."
        )
