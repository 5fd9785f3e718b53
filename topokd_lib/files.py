"""Files that are complete or not there, and the folder of what can be computed again."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["cache_root", "fingerprint_of", "is_locked", "lock", "write_atomically", "write_text"]

_TRIES = 10
_MOMENT = 0.02
"""Seconds between two tries."""


def cache_root() -> Path:
    """Where decoded images and teachers' outputs are kept: ``TOPOKD_CACHE``, else ``cache``.

    Everything below it can be deleted at any time; it costs the time to compute it again.
    """
    return Path(os.environ.get("TOPOKD_CACHE") or "cache").expanduser()


def fingerprint_of(path: Path) -> str:
    """Sixteen hexadecimal digits that change with any byte of a file.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def lock(file: IO[str]) -> bool:
    """Lock an open file until it is closed, or the process ends however; whether no other process has it.

    Somebody who only looks whether it is locked, see :func:`is_locked`, is gone in a moment and waited for.
    Where there are no locks (Windows, some file systems) nobody is kept away.
    """
    for _ in range(_TRIES):
        if _flock(file, "LOCK_EX"):
            return True
        time.sleep(_MOMENT)
    return False


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a file; the system knows, also after a kill."""
    try:
        with path.open("r+", encoding="utf-8") as file:
            return not _flock(file, "LOCK_SH")  # several may look at the same time
    except OSError:
        return False  # nothing there, or nothing that can be written to


def _flock(file: IO[str], kind: str) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, getattr(fcntl, kind) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def write_atomically(path: Path, *, keep: Path | None = None, shared: bool = False) -> Iterator[Path]:
    """A temporary path to write to; its file replaces ``path`` when the block succeeds, and only then.

    Args:
        path: The file that will be there.
        keep: Where the file that ``path`` held before is kept.
        shared: Other processes may write the same file at the same time; the last one's stays.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial" if shared else f"{path.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write a text file, completely or not at all; ``shared`` as in :func:`write_atomically`."""
    with write_atomically(path, shared=shared) as partial:
        partial.write_text(text, encoding="utf-8")
