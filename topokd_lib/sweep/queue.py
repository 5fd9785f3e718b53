"""Carry a sweep out: some processes at a time, what fails is noted and the rest goes on.

What is finished is read from what the runs have left, never from the status file, so a sweep that was killed
goes on by being started again, and what is done already costs nothing.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from topokd_lib.errors import INTERRUPTED, Interrupted, RecipeError, RunDirectoryError
from topokd_lib.sweep.plan import PlannedRun, Sweep
from topokd_lib.training.checkpoint import write_text
from topokd_lib.training.stops import listen

__all__ = ["RunStatus", "run_sweep", "status_of"]

PAUSE = 0.2
"""Seconds between two looks at the processes."""


@dataclass
class RunStatus:
    """What is known of one run; the status file lists them.

    Args:
        name: See :class:`~topokd_lib.sweep.PlannedRun`.
        state: ``waiting``, ``running``, ``done``, ``failed``, ``blocked`` (what it needs has failed), or
            ``impossible``.
        line: The command.
        error: The end of what it complained of, or the reason why it cannot run.
        seconds: Wall-clock time of its last process.
        attempts: Processes that were started for it, by all sessions of the sweep.
    """

    name: str
    state: str
    line: str
    error: str = ""
    seconds: float | None = None
    attempts: int = 0


@dataclass
class _Process:
    run: PlannedRun
    handle: subprocess.Popen[bytes]
    log: IO[bytes]
    slot: int
    start: float = field(default_factory=time.monotonic)


def run_sweep(
    sweep: Sweep,
    *,
    workers: int | None = None,
    options: tuple[str, ...] = (),
    records: Path | None = None,
    say: Callable[[str], Any] = print,
) -> list[RunStatus]:
    """Run what is not done yet, and write ``status.json`` and the logs into the sweep's folder.

    A run starts when everything that it needs is there. With GPUs the processes are dealt to them in turn.
    A run that failed is tried again when the sweep is started again.

    Args:
        sweep: What to run.
        workers: Processes at a time; by default one for each GPU, or one.
        options: Further words for every ``topokd train``.
        records: A folder such as ``results``: the record of every finished run is copied there.
        say: Receives a line whenever a run ends.

    Raises:
        RecipeError: If there is no room for a worker, or the folder cannot be written.
        Interrupted: After SIGTERM or SIGUSR1, when all processes have stopped.
    """
    gpus = torch.cuda.device_count()
    workers = max(gpus, 1) if workers is None else workers
    if workers < 1:
        raise RecipeError(f"a sweep needs at least one worker, got {workers}")
    queue = _Queue(sweep, workers, gpus, options, records, say)
    with listen() as request:
        try:
            while queue.step():
                if request:
                    raise Interrupted(f"the sweep was stopped by {request.signal}; the same command goes on")
                time.sleep(PAUSE)
        finally:
            queue.stop()
    return list(queue.status.values())


def status_of(sweep: Sweep) -> list[RunStatus]:
    """How a sweep stands, from what its runs have left and from its status file."""
    known = _read_status(sweep)
    found = []
    for run in sweep.runs:
        before = known.get(run.name, {})
        status = RunStatus(
            run.name, "waiting", run.line, seconds=before.get("seconds"), attempts=before.get("attempts", 0)
        )
        if run.impossible:
            status.state, status.error = "impossible", run.impossible
        elif run.is_done(sweep.home):
            status.state = "done"
        elif run.is_running(sweep.home):
            status.state = "running"
        elif before.get("state") == "failed":
            status.state, status.error = "failed", before.get("error", "")
        found.append(status)
    return found


class _Queue:
    """The state of :func:`run_sweep`."""

    def __init__(
        self,
        sweep: Sweep,
        workers: int,
        gpus: int,
        options: tuple[str, ...],
        records: Path | None,
        say: Callable[[str], Any],
    ) -> None:
        self.sweep, self.gpus, self.options, self.say = sweep, gpus, options, say
        self.records = None if records is None else records.resolve()
        self.status = {status.name: status for status in status_of(sweep)}
        for status in self.status.values():
            if status.state in ("failed", "running"):
                status.state, status.error = "waiting", ""
        self.free = list(range(workers))[::-1]
        self.threads = max((os.cpu_count() or 1) // workers, 1)
        self.active: list[_Process] = []
        try:
            (sweep.folder / "logs").mkdir(parents=True, exist_ok=True)
            self.write()
        except OSError as error:
            raise RecipeError(
                f"cannot write the status of the sweep to {sweep.folder} ({error.strerror or error}); "
                f"choose another home"
            ) from error
        for run in sweep.runs:
            if self.status[run.name].state == "done":
                self.keep_record(run)

    def step(self) -> bool:
        """Notice what has ended, start what can start; whether there is anything left to wait for."""
        for process in [process for process in self.active if process.handle.poll() is not None]:
            self.finish(process)
        elsewhere = False
        for run in self.sweep.runs:
            status = self.status[run.name]
            if status.state != "waiting":
                continue
            lost = [
                name for name in run.needs if self.status[name].state in ("failed", "blocked", "impossible")
            ]
            if lost:
                status.state, status.error = "blocked", f"needs {', '.join(lost)}"
                self.note(status)
            elif all(self.status[name].state == "done" for name in run.needs):
                if run.is_running(self.sweep.home):
                    elsewhere = True  # left by a sweep that was killed, or another sweep runs it
                elif run.is_done(self.sweep.home):
                    status.state = "done"
                    self.note(status)
                elif self.free:
                    self.start(run)
        return bool(self.active) or elsewhere

    def start(self, run: PlannedRun) -> None:
        """Start the process of a run."""
        slot = self.free.pop()
        log = self.log_of(run).open("ab")
        environment = {**os.environ}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = _visible_devices()[slot % self.gpus]
        elif "OMP_NUM_THREADS" not in environment:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        if data := environment.get("TOPOKD_DATA"):  # it is meant from here, and the process runs at home
            environment["TOPOKD_DATA"] = str(Path(data).expanduser().resolve())
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        handle = subprocess.Popen(
            run.program(*self.options),
            cwd=self.sweep.home,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        status = self.status[run.name]
        status.state, status.attempts = "running", status.attempts + 1
        self.active.append(_Process(run, handle, log, slot))
        self.write()

    def finish(self, process: _Process, *, asked: bool = False) -> None:
        """Note how a process ended, which was perhaps asked to."""
        process.log.close()
        self.active.remove(process)
        self.free.append(process.slot)
        status = self.status[process.run.name]
        status.seconds = round(time.monotonic() - process.start, 1)
        code = process.handle.returncode
        if process.run.is_done(self.sweep.home):
            status.state = "done"
            self.keep_record(process.run)
        elif code == INTERRUPTED or (asked and code == -signal.SIGTERM):
            status.state = "waiting"
        else:
            status.state, status.error = "failed", self.reason(process.run, code)
        self.note(status)

    def reason(self, run: PlannedRun, code: int) -> str:
        """The end of what a process said before it ended badly."""
        text = self.log_of(run).read_bytes()[-4000:].decode("utf-8", errors="replace")
        message = text.rpartition("\ntopokd: ")[2] if "\ntopokd: " in text else text
        lines = message.removeprefix("topokd: ").strip().splitlines()
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        return f"{how}: {lines[0] if 'topokd: ' in text else lines[-1]}" if lines else how

    def log_of(self, run: PlannedRun) -> Path:
        """Where a run's process writes what it says."""
        return self.sweep.folder / "logs" / f"{run.name.replace('/', '-')}.log"

    def note(self, status: RunStatus) -> None:
        """Say and write how a run ended."""
        states = [other.state for other in self.status.values()]
        took = f" in {status.seconds:.0f} s" if status.seconds and status.state in ("done", "failed") else ""
        why = f": {status.error}" if status.error else ""
        self.say(f"[{states.count('done')}/{len(states)}] {status.name} {status.state}{took}{why}")
        self.write()

    def write(self) -> None:
        """Bring the status to the disk."""
        content = [asdict(status) for status in self.status.values()]
        write_text(
            self.sweep.folder / "status.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        )

    def keep_record(self, run: PlannedRun) -> None:
        """Copy the record of a finished run to where results are kept."""
        if self.records is None or run.command != "train":
            return
        place = self.records / f"{run.name}.json"
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.sweep.home / run.output / "record.json", place)

    def stop(self) -> None:
        """Ask all processes to stop at a checkpoint, and wait for them."""
        for process in self.active:
            process.handle.terminate()
        for process in list(self.active):
            process.handle.wait()
            self.finish(process, asked=True)


def _visible_devices() -> list[str]:
    """The GPUs that this process may use, as their environment variable names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]


def _read_status(sweep: Sweep) -> dict[str, Mapping[str, Any]]:
    path = sweep.folder / "status.json"
    try:
        return {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"cannot read {path} ({error}); delete it: it tells of failures only, finished runs stay"
        ) from error
