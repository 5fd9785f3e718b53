"""Training that is really killed, again and again, ends bit for bit where it would have ended."""

import json
import multiprocessing
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.worker import EPOCHS, train
from topokd_lib.training import load_checkpoint


@pytest.fixture(scope="module")
def processes():
    """A server that has imported everything, and forks a fresh process for each training."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.worker"])
    return context


def exit_code(processes, *arguments) -> int | None:
    process = processes.Process(target=train, args=arguments)
    process.start()
    process.join(timeout=120)
    return process.exitcode


@pytest.fixture(scope="module")
def straight(processes, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "straight"
    assert exit_code(processes, path) == 0
    return path


def log(path: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def require_equal(found: object, expected: object, where: str = "") -> None:
    """The same containers, and the same bits in every tensor and number."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected), where
        for key, value in expected.items():
            require_equal(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            require_equal(found[number], value, f"{where}/{number}")
    elif isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


def require_same_run(found: Path, expected: Path) -> None:
    one, other = load_checkpoint(found / "last.ckpt"), load_checkpoint(expected / "last.ckpt")
    assert any("bank" in key for key in other["distiller"])
    assert any("student" in key for key in other["distiller"])
    assert other["optimizer"]["state"], "there is no momentum to compare"
    for part in ("distiller", "optimizer", "processes"):
        require_equal(one[part], other[part], part)
    assert log(found) == log(expected)
    assert [line["epoch"] for line in log(found)] == list(range(1, EPOCHS + 1))
    for name in ("student.safetensors", "best.safetensors", "recipe.yaml"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert not list(found.glob("*.partial"))


@pytest.mark.parametrize("epoch", range(EPOCHS))
@pytest.mark.parametrize("moment", ["step", "writing", "renaming"])
def test_a_killed_run_continues_bit_for_bit(processes, straight, tmp_path, moment, epoch):
    path = tmp_path / "killed"
    assert exit_code(processes, path, moment, epoch) == -signal.SIGKILL
    assert not (path / "record.json").exists()
    assert exit_code(processes, path) == 0
    require_same_run(path, straight)


def test_a_run_killed_in_every_epoch_continues_bit_for_bit(processes, straight, tmp_path):
    path = tmp_path / "killed"
    for epoch in range(EPOCHS):
        assert exit_code(processes, path, "step", epoch) == -signal.SIGKILL
        assert len(log(path)) == epoch
    assert exit_code(processes, path) == 0
    require_same_run(path, straight)
    record = json.loads((path / "record.json").read_text())
    assert len(record["earlier_sessions"]) == EPOCHS


def test_the_comparison_notices_one_bit(straight, tmp_path):
    state = load_checkpoint(straight / "last.ckpt")
    other = load_checkpoint(straight / "last.ckpt")
    bank = other["distiller"]["objective.terms.memory.bank"]
    bank[0, 0] = torch.nextafter(bank[0, 0], torch.tensor(torch.inf))
    with pytest.raises(AssertionError, match="bank"):
        require_equal(other, state)
