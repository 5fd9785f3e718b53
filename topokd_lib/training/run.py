"""A directory that holds one run: what was asked, where it ran, how it went, and what came out."""

import difflib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
import yaml

import topokd_lib
from topokd_lib.errors import CheckpointError, RunDirectoryError
from topokd_lib.files import fingerprint_of, is_locked, lock
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.outputs import Normalisation
from topokd_lib.training.checkpoint import (
    PREVIOUS,
    save_checkpoint,
    save_student,
    without_merged_neck,
    write_atomically,
    write_text,
)
from topokd_lib.training.log import EpochRecord, History

__all__ = ["DataSource", "RunDirectory", "is_in_use", "provenance"]

IDENTITY = ("seed", "data", "teacher", "initial_weights")
"""What tells runs of one recipe apart: a recipe names files, and what they hold may have changed."""


@runtime_checkable
class DataSource(Protocol):
    """What a run notes about its data; :class:`~topokd_lib.data.ImageData` offers it."""

    @property
    def name(self) -> str:
        """For messages and records."""

    @property
    def normalisation(self) -> Normalisation:
        """What batches are normalised with."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """Images that were left out because they are damaged."""

    def fingerprint(self) -> str:
        """Changes with the data."""


@dataclass(frozen=True)
class RunDirectory:
    """One run on disk. Made by :meth:`open`.

    ==========================  =====================================================================
    ``recipe.yaml``             the resolved recipe, as given
    ``provenance.json``         seed, data, commit, versions, hardware, start
    ``log.jsonl``               one line per epoch (:class:`~topokd_lib.training.log.EpochRecord`)
    ``last.ckpt``               state after the last complete epoch, or where the run was asked to stop
    ``previous.ckpt``           the state that was stored before it
    ``best.safetensors``        weights after the epoch with the best test accuracy
    ``student.safetensors``     weights after the last epoch; present when the run is finished
    ``record.json``             all of the above that is worth keeping in one file; written last
    ==========================  =====================================================================

    Args:
        path: The directory.
        recipe: The resolved recipe as YAML.
        seed: Of the run.
        normalisation: Of the data, for the weight files.
        resumed: Whether the directory held the beginning of this run already.
        minutes: Between two states that are stored in the middle of an epoch, for long epochs; 0: only when
            the process is asked to stop.
        keep_every: Epochs between two checkpoints that are kept for good, as ``epoch<n>.ckpt``; 0 keeps none.
        tensorboard: Whether to write the log for TensorBoard too, into ``tensorboard/``.
    """

    path: Path
    recipe: str
    seed: int
    normalisation: Normalisation | None
    resumed: bool
    minutes: float = 0.0
    keep_every: int = 0
    tensorboard: bool = False

    FILES = (
        "recipe.yaml",
        "provenance.json",
        "log.jsonl",
        "last.ckpt",
        PREVIOUS,
        "best.safetensors",
        "student.safetensors",
        "record.json",
    )

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        recipe: str,
        seed: int = 0,
        data: DataSource | None = None,
        teacher: Teacher | None = None,
        initial_weights: Path | None = None,
        minutes: float = 0.0,
        keep_every: int = 0,
        tensorboard: bool = False,
    ) -> "RunDirectory":
        """Create the directory of a run, or return to it.

        With several processes, open it inside ``with fabric.rank_zero_first():``.

        Args:
            path: Where; missing parents are created.
            recipe: The resolved recipe as YAML: everything that determines the run.
            seed: Of the run.
            data: What it is trained on; name and fingerprint are noted and compared.
            teacher: Likewise; a recipe names a file, and what the file holds may have changed.
            initial_weights: Likewise, the file that the student starts from.
            minutes: See :class:`RunDirectory`; it may change when a run is continued.
            keep_every: Likewise.
            tensorboard: Likewise.

        Raises:
            ValueError: If a number is negative.
            RunDirectoryError: If the place cannot be written to, holds something else, or holds a run with
                another recipe, seed, data, teacher or initial weights; the message shows the difference.
        """
        if minutes < 0 or keep_every < 0:
            raise ValueError(
                f"states are stored every so many minutes and kept every so many epochs, or never (0); got "
                f"minutes={minutes} and keep_every={keep_every}"
            )
        path = Path(path)
        identity = {
            "seed": seed,
            "data": None if data is None else _about(data),
            "teacher": None
            if teacher is None
            else {"name": teacher.name, "fingerprint": teacher.fingerprint()},
            "initial_weights": None if initial_weights is None else fingerprint_of(initial_weights),
        }
        run = cls(
            path,
            recipe,
            seed,
            normalisation=None if data is None else data.normalisation,
            resumed=(path / "recipe.yaml").exists(),
            minutes=minutes,
            keep_every=keep_every,
            tensorboard=tensorboard,
        )
        if run.resumed:
            run._require_same(identity)
            return run
        run._require_nothing_else()
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_text(path / "provenance.json", _json({**identity, **provenance()}))
            write_text(path / "recipe.yaml", recipe)
        except OSError as error:
            raise RunDirectoryError(
                f"cannot create the run directory {path} ({error.strerror or error}); "
                f"choose one below a directory that you may write to"
            ) from error
        return run

    @contextmanager
    def occupy(self) -> Iterator[None]:
        """Keep other processes from writing here until the block, or the process, ends.

        Raises:
            RunDirectoryError: If another process is writing here.
        """
        with (self.path / "recipe.yaml").open("r+", encoding="utf-8") as file:
            if not lock(file):
                raise RunDirectoryError(
                    f"another process is training in {self.path}; wait until it has finished, or stop it"
                )
            yield

    @property
    def checkpoint_path(self) -> Path:
        """Where the state to resume from is, or will be."""
        return self.path / "last.ckpt"

    @property
    def student_path(self) -> Path:
        """Where the final weights are, or will be."""
        return self.path / "student.safetensors"

    @property
    def best_path(self) -> Path:
        """Where the weights of the best epoch are, or will be."""
        return self.path / "best.safetensors"

    @property
    def latest_checkpoint(self) -> Path | None:
        """What to resume from, if there is anything."""
        candidates = (self.checkpoint_path, self.path / PREVIOUS)
        return next((path for path in candidates if path.exists()), None)

    @property
    def record(self) -> dict[str, Any] | None:
        """What a finished run left, or ``None`` while it is not finished.

        Raises:
            RunDirectoryError: If the file was damaged.
        """
        path = self.path / "record.json"
        return self._read("record.json") if path.exists() else None

    def begin(self, history: History) -> None:
        """Start or continue writing: note a further session, and let the log say what ``history`` says.

        An epoch that was logged, but whose checkpoint was not complete, will be trained and logged again.
        """
        if self.resumed:
            earlier = self._read("provenance.json")
            identity = {name: earlier.pop(name, None) for name in IDENTITY}
            sessions = [*earlier.pop("earlier_sessions"), earlier]
            now = {**identity, **provenance(), "earlier_sessions": sessions}
            with _room_for(self.path / "provenance.json"):
                write_text(self.path / "provenance.json", _json(now))
        with _room_for(self.path / "log.jsonl"):
            write_text(self.path / "log.jsonl", "".join(_line(record) for record in history.records))

    def write_log(self, record: EpochRecord) -> None:
        """Add a line to the log.

        Raises:
            CheckpointError: If the disk is full.
        """
        with _room_for(self.path / "log.jsonl"), (self.path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(_line(record))

    def save(
        self, history: History, state: Mapping[str, Any], student: FeatureModel, in_channels: int
    ) -> None:
        """Store ``state`` to resume from, and the weights too if an epoch that has just ended is the best.

        Raises:
            CheckpointError: If the disk is full; what was stored before is untouched.
        """
        between_epochs = state.get("position") is None
        if between_epochs and history.epochs and history.best is history.last:
            self._save_student(self.best_path, student, in_channels, history.best)
        save_checkpoint(self.checkpoint_path, state)
        done = len(history.epochs)
        if between_epochs and done and self.keep_every and done % self.keep_every == 0:
            kept = self.path / f"epoch{done:04d}.ckpt"
            with _room_for(kept), write_atomically(kept) as partial:
                shutil.copyfile(self.checkpoint_path, partial)

    def finish(self, history: History, student: FeatureModel, in_channels: int) -> None:
        """Store the final weights, and then the record, which marks the run as finished."""
        self._save_student(self.student_path, student, in_channels, history.last)
        kept = without_merged_neck(student)
        record = {
            "recipe": yaml.safe_load(self.recipe),
            **self._read("provenance.json"),
            "student": {"name": student.name, "parameters": sum(p.numel() for p in kept.parameters())},
            "last": _summary(history.last),
            "best": _summary(history.best),
            "wall_time_seconds": history.seconds,
            "curve": history.to_list(),
        }
        with _room_for(self.path / "record.json"):
            write_text(self.path / "record.json", _json(record))

    def _save_student(self, path: Path, student: FeatureModel, in_channels: int, epoch: EpochRecord) -> None:
        data = self._read("provenance.json")["data"] or {}
        save_student(
            path,
            student,
            in_channels=in_channels,
            normalisation=self.normalisation,
            data=data.get("name"),
            data_fingerprint=data.get("fingerprint"),
            epoch=epoch.epoch,
            top1=epoch.test_top1,
        )

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunDirectoryError(
                f"cannot read {self.path / name} ({error}); restore it, or start the run in a new directory"
            ) from error
        if not isinstance(content, dict):
            raise RunDirectoryError(f"{self.path / name} was written by something else; use a new directory")
        return content

    def _require_nothing_else(self) -> None:
        try:
            present = sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunDirectoryError(
                f"cannot use {self.path} as a run directory ({error.strerror}); choose another path"
            ) from error
        foreign = [name for name in present if name.removesuffix(".partial") not in self.FILES]
        if foreign:
            raise RunDirectoryError(
                f"{self.path} is no run directory: it holds {', '.join(foreign[:3])}"
                f"{' …' if len(foreign) > 3 else ''} and no recipe.yaml. Choose an empty or new directory"
            )

    def _require_same(self, identity: Mapping[str, Any]) -> None:
        try:
            stored = (self.path / "recipe.yaml").read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise RunDirectoryError(f"cannot read {self.path / 'recipe.yaml'} ({error})") from error
        if stored != self.recipe:
            difference = difflib.unified_diff(
                stored.splitlines(),
                self.recipe.splitlines(),
                fromfile=str(self.path / "recipe.yaml"),
                tofile="this run",
                lineterm="",
            )
            raise RunDirectoryError(
                f"{self.path} holds a run with another recipe; choose another directory, or delete this.\n"
                + "\n".join(difference)
            )
        known = self._read("provenance.json")
        for what, now in identity.items():
            if (before := known.get(what)) != now:
                raise RunDirectoryError(
                    f"{self.path} holds a run with {what} {before}, this one has {what} {now}; "
                    f"choose another directory, or delete this one"
                )


@contextmanager
def _room_for(path: Path) -> Iterator[None]:
    """A disk that is full is told like any other mistake."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path} ({error.strerror or error}); checkpoints are untouched. Make room, or make "
            f"the directory writable, and run the same command again: it continues where it stopped"
        ) from error


def is_in_use(path: Path) -> bool:
    """Whether a process trains in the run directory ``path``."""
    return is_locked(path / "recipe.yaml")


def _about(data: DataSource) -> dict[str, Any]:
    about: dict[str, Any] = {"name": data.name, "fingerprint": data.fingerprint()}
    return {**about, "skipped": list(data.skipped)} if data.skipped else about


def provenance() -> dict[str, Any]:
    """Where and with what the present process runs; part of every record."""
    commit, changed = _commit()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = ("torch", "numpy", "gudhi", "lightning-fabric")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "uncommitted_changes": changed,
        "versions": {
            "topokd_lib": topokd_lib.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpus": gpus},
        "earlier_sessions": [],
    }


def _commit() -> tuple[str | None, bool | None]:
    """Commit of the library's source tree and whether files differ; nothing outside version control."""
    here = Path(topokd_lib.__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, None
    return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", "."))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _summary(epoch: EpochRecord) -> dict[str, Any]:
    return {
        "epoch": epoch.epoch,
        "train_top1": epoch.train_top1,
        **(asdict(epoch.test) if epoch.test else {}),
    }


def _line(record: EpochRecord) -> str:
    return json.dumps(record.to_dict(), allow_nan=False) + "\n"


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
