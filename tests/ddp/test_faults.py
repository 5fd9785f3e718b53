"""Two processes of one run, one of which is killed, or told to stop, while the command trains."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recipes.made import write_recipe
from tests.training.test_resume import log, require_equal
from topokd_lib.errors import INTERRUPTED
from topokd_lib.training import load_checkpoint

pytestmark = pytest.mark.ddp

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable, "-m"]
TORCHRUN = [*PYTHON, "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]


def start(launcher: list[str], recipe: str, run: Path, *words: str) -> subprocess.Popen[str]:
    options = ["--engine.devices", "2", "--engine.accelerator", "cpu", "--schedule.epochs", "8", *words]
    command = [*launcher, "topokd_lib.cli", "train", "--config", recipe, "--out", str(run), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return str(found.getsockname()[1])


def helpers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{process.pid}/task").glob("*/children")
    return sorted(int(child) for children in found for child in children.read_text().split())


def wait_for_epoch(process: subprocess.Popen[str], run: Path, epoch: int) -> None:
    deadline = time.monotonic() + 120
    lines: list[str] = []
    while len(lines) < epoch:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
        lines = (run / "log.jsonl").read_text().splitlines() if (run / "log.jsonl").exists() else []


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, complaint = process.communicate(timeout=120)
    return process.returncode, complaint


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds its victims in /proc")
def test_whatever_happens_to_one_of_two_processes_the_run_ends_as_if_nothing_had(tmp_path):
    recipe, run, straight = write_recipe(tmp_path), tmp_path / "run", tmp_path / "straight"
    assert end(start(PYTHON, recipe, straight))[0] == 0

    process = start(PYTHON, recipe, run)
    wait_for_epoch(process, run, 1)
    os.kill(helpers(process)[0], signal.SIGKILL)
    code, complaint = end(process)
    # Lightning kills the first process when it notices before the missing message is.
    assert code in (INTERRUPTED, -signal.SIGKILL)
    if code == INTERRUPTED:
        assert "another process of this run has ended" in complaint
        assert "the same command goes on" in complaint
    assert load_checkpoint(run / "last.ckpt")["processes"] == 2

    process = start(PYTHON, recipe, run)
    wait_for_epoch(process, run, 3)
    process.send_signal(signal.SIGTERM)
    code, complaint = end(process)
    assert code == INTERRUPTED, complaint
    assert "topokd: stopped by SIGTERM" in complaint
    assert "the same command goes on" in complaint

    # Not --standalone: with it torch 2.15 cannot start its own example again after a worker was killed.
    process = start([*TORCHRUN, "--master-port", free_port(), "-m"], recipe, run)
    wait_for_epoch(process, run, 5)
    os.kill(helpers(process)[1], signal.SIGKILL)  # torchrun starts both again
    code, complaint = end(process)
    assert code == 0, complaint[-3000:]

    one, other = load_checkpoint(run / "last.ckpt"), load_checkpoint(straight / "last.ckpt")
    for part in ("distiller", "optimizer", "processes", "position"):
        require_equal(one[part], other[part], part)
    assert log(run) == log(straight)
    assert (run / "student.safetensors").read_bytes() == (straight / "student.safetensors").read_bytes()
