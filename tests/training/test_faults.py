"""Faults that are really made: kills, signals, a full disk. A run ends as if nothing had been, or tells why.

Every test starts real processes, and harms them from outside wherever the fault comes from outside.
"""

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.test_resume import log, require_equal
from tests.training.toy import TinyNet, ToyData, ToyLoader, memory_objective, tiny_teacher
from topokd_lib.errors import INTERRUPTED, CheckpointError, Interrupted, RunDirectoryError
from topokd_lib.training import EngineSpec, RunDirectory, Schedule, fit, load_checkpoint, make_fabric
from topokd_lib.training.run import is_in_use

EPOCHS, STEPS = 4, 4


class Slow(ToyLoader):
    """Tells how far it is, and takes its time, so that it can be hit anywhere."""

    def __init__(self, told) -> None:
        super().__init__()
        self.told = told

    def train_batches(self, epoch):
        for step, batch in enumerate(super().train_batches(epoch)):
            self.told.value = epoch * STEPS + step
            time.sleep(0.01)
            yield batch


class ShrinkDisk(ToyLoader):
    """From an epoch on no file may grow beyond a size: what a quota does."""

    def __init__(self, epoch: int, size: int) -> None:
        super().__init__()
        self.epoch, self.size = epoch, size

    def train_batches(self, epoch):
        if epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
        yield from super().train_batches(epoch)


def train(directory: Path, loader: ToyLoader, accumulate: int = 1, minutes: float = 0.0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(5)
    student, objective = TinyNet(), memory_objective()
    run = RunDirectory.open(directory, recipe="student: tiny\n", seed=3, data=ToyData(), minutes=minutes)
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    schedule = Schedule(epochs=EPOCHS, milestones=(3,), warmup_epochs=2)
    fit(
        fabric, student, tiny_teacher(), objective, loader, schedule, run, seed=3, accumulate=accumulate
    )  # fmt: skip


def train_told(directory: Path, told, accumulate: int = 1, minutes: float = 0.0) -> None:
    """What the processes below run: ends like the command does."""
    try:
        train(directory, Slow(told), accumulate, minutes)
    except Interrupted as stopped:
        sys.stderr.write(f"{stopped}\n")
        sys.exit(INTERRUPTED)


def train_on_small_disk(directory: Path, epoch: int, size: int, said) -> None:
    try:
        train(directory, ShrinkDisk(epoch, size))
    except CheckpointError as error:
        said.put(str(error))
        sys.exit(2)


@pytest.fixture(scope="module")
def processes():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.test_faults"])
    return context


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[int, Path]:
    """Undisturbed runs, by the number of batches that are accumulated."""
    folder = tmp_path_factory.mktemp("straight")
    for accumulate in (1, 2):
        train(folder / str(accumulate), ToyLoader(), accumulate)
    return {accumulate: folder / str(accumulate) for accumulate in (1, 2)}


def run_until(processes, target: int, number: signal.Signals | None, *arguments) -> int | None:
    """Start a training, send it a signal when it has reached a step, and give its exit code."""
    told = processes.Value("i", -1)
    process = processes.Process(target=train_told, args=(arguments[0], told, *arguments[1:]))
    process.start()
    while number is not None and process.is_alive() and told.value < target:
        time.sleep(0.001)
    if number is not None and process.is_alive():
        os.kill(process.pid, number)
    process.join(timeout=60)
    return process.exitcode


def require_same(found: Path, expected: Path) -> None:
    """The same bits in everything that training leaves."""
    one, other = load_checkpoint(found / "last.ckpt"), load_checkpoint(expected / "last.ckpt")
    for part in ("distiller", "optimizer", "processes", "position"):
        require_equal(one[part], other[part], part)
    assert log(found) == log(expected)
    for name in ("student.safetensors", "best.safetensors"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(found.glob("*.partial"))


def test_ten_kills_at_random_steps_leave_no_trace(processes, straight, tmp_path):
    moments = random.Random(0)
    killed = 0
    while killed < 10:
        code = run_until(processes, moments.randrange(EPOCHS * STEPS), signal.SIGKILL, tmp_path / "run")
        killed += code == -signal.SIGKILL
        if code == 0:  # it was finished before the kill came: begin another one
            require_same(tmp_path / "run", straight[1])
            (tmp_path / "run").rename(tmp_path / f"run{killed}")
    assert run_until(processes, 0, None, tmp_path / "run") == 0
    require_same(tmp_path / "run", straight[1])


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_asked_to_stop_goes_on_from_the_very_step(
    processes, straight, tmp_path, number, accumulate
):
    path, positions = tmp_path / "run", []
    for target in (2, 6, 9, 13):
        assert run_until(processes, target, number, path, accumulate) == INTERRUPTED
        state = load_checkpoint(path / "last.ckpt")
        step = state["position"]["step"] if state["position"] else 0
        positions.append(len(state["history"]) * (STEPS // accumulate) + step)
    assert positions == sorted(positions)
    assert any(position % (STEPS // accumulate) for position in positions), "always between two epochs"
    assert run_until(processes, 0, None, path, accumulate) == 0
    require_same(path, straight[accumulate])
    sessions = json.loads((path / "provenance.json").read_text())["earlier_sessions"]
    assert len(sessions) == 4


def test_long_epochs_are_stored_every_so_many_minutes(processes, straight, tmp_path):
    """With a state after every step, a kill costs one step and no epoch."""
    path = tmp_path / "run"
    assert run_until(processes, 6, signal.SIGKILL, path, 1, 1e-9) == -signal.SIGKILL
    state = load_checkpoint(path / "last.ckpt")
    assert len(state["history"]) * STEPS + state["position"]["step"] >= 5
    assert run_until(processes, 0, None, path) == 0
    require_same(path, straight[1])


def test_a_full_quota_stops_with_a_sentence_and_loses_nothing(processes, straight, tmp_path):
    path, said = tmp_path / "run", processes.Queue()
    process = processes.Process(target=train_on_small_disk, args=(path, 2, 2000, said))
    process.start()
    complaint = said.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 2
    assert "File too large" in complaint
    assert "Make room" in complaint
    assert "the same command again: it continues where it stopped" in complaint
    assert len(load_checkpoint(path / "last.ckpt")["history"]) == 2
    assert run_until(processes, 0, None, path) == 0
    require_same(path, straight[1])


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB, for those who may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=20)
    except OSError as error:
        pytest.skip(f"there is no mount here: {error}")
    if done.returncode:
        pytest.skip(
            f"mounting a small disk takes rights that this user lacks: {done.stderr.decode().strip()}"
        )
    yield place
    subprocess.run(["umount", str(place)], check=True, timeout=20)


def test_a_full_disk_stops_with_a_sentence_and_loses_nothing(processes, straight, small_disk):
    path, said = small_disk / "run", processes.Queue()
    assert run_until(processes, STEPS, signal.SIGKILL, path) == -signal.SIGKILL
    kept = (path / "last.ckpt").read_bytes()
    with (small_disk / "other people's files").open("wb") as other:
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        other.write(b"0" * (free - 4096))
    process = processes.Process(target=train_on_small_disk, args=(path, 99, 0, said))
    process.start()
    complaint = said.get(timeout=60)
    process.join(timeout=60)
    assert process.exitcode == 2
    assert "No space left on device" in complaint
    assert "the same command again" in complaint
    assert (path / "last.ckpt").read_bytes() == kept
    (small_disk / "other people's files").unlink()
    assert run_until(processes, 0, None, path) == 0
    require_same(path, straight[1])


def test_two_processes_never_train_in_one_directory(tmp_path):
    path = tmp_path / "run"
    run = RunDirectory.open(path, recipe="student: tiny\n")
    assert not is_in_use(path)
    with run.occupy():
        assert is_in_use(path)
        match = r"another process is training in .*run; wait until"
        with pytest.raises(RunDirectoryError, match=match), run.occupy():
            raise AssertionError("it was let in")
    assert not is_in_use(path)
