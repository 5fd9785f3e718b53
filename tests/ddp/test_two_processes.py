"""Two processes over gloo compute what one process computes, and can be interrupted like one."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ddp.worker import SCHEDULE, labels_only, plain_student
from tests.training.test_resume import log, require_equal
from tests.training.toy import ToyLoader
from topokd_lib.training import EngineSpec, Evaluation, evaluate, fit, load_checkpoint, make_fabric

pytestmark = pytest.mark.ddp

ROOT = Path(__file__).resolve().parents[2]


def launch(scenario: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.ddp.worker", scenario, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left, which were killed at the end."""
    path = tmp_path_factory.mktemp("two")
    done = launch("all", path)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    return path


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def test_two_halves_of_a_batch_train_like_the_whole(ranks):
    student = plain_student()
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    history = fit(fabric, student, None, labels_only(), ToyLoader(batch_size=8), SCHEDULE)
    untrained = plain_student().state_dict()
    for key, value in student.state_dict().items():
        assert (value - untrained[key]).abs().max() > 1e-3, "nothing was trained"
        assert (value - ranks[0]["student"][key]).abs().max() <= 1e-5
        assert torch.equal(ranks[0]["student"][key], ranks[1]["student"][key])
    for record, other in zip(history.to_list(), ranks[0]["history"], strict=True):
        assert record["loss"] == pytest.approx(other["loss"], abs=1e-5)
        assert record["terms"] == pytest.approx(other["terms"], abs=1e-5)
        assert record["train_top1"] == pytest.approx(other["train_top1"], abs=1e-6)


@pytest.mark.parametrize(("part", "test"), [("whole", 15), ("single", 1)])
def test_evaluation_counts_every_image_once_when_shares_are_unequal(ranks, part, test):
    student = plain_student()
    student.load_state_dict(ranks[0]["student"])
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    alone = evaluate(fabric, student, ToyLoader(test=test).test_batches())
    for rank in ranks:
        found = Evaluation(**rank[part])
        assert (found.top1, found.top5, found.count) == (alone.top1, alone.top5, test)
        assert found.loss == pytest.approx(alone.loss, rel=1e-6)


def test_both_processes_end_with_the_same_state(ranks):
    """Memories that gather, running statistics, and everything that began differently on the two."""
    for part in ("run_student", "run_objective"):
        statistics = ("running_mean", "running_var")  # of connectors, which are never evaluated
        for key, value in ranks[0][part].items():
            if part == "run_student" or not key.endswith(statistics):
                assert torch.equal(value, ranks[1][part][key]), key


def test_a_loss_that_is_no_number_on_one_process_stops_both(ranks, folder):
    for rank in ranks:
        assert "in epoch 2 of stage 'main', step 1; the last good state is in" in rank["diverged"]
    assert len(load_checkpoint(folder / "diverged" / "last.ckpt")["history"]) == 2  # hint, and epoch 1


def test_two_processes_that_were_killed_continue_bit_for_bit(folder):
    assert len(log(folder / "killed")) == 2
    done = launch("resume", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    straight = load_checkpoint(folder / "straight" / "last.ckpt")
    resumed = load_checkpoint(folder / "killed" / "last.ckpt")
    assert straight["processes"] == 2
    for part in ("distiller", "optimizer"):
        require_equal(resumed[part], straight[part], part)
    assert log(folder / "killed") == log(folder / "straight")
    names = ("student.safetensors", "best.safetensors")
    assert all((folder / "killed" / n).read_bytes() == (folder / "straight" / n).read_bytes() for n in names)
