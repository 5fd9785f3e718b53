"""A training process that kills itself at a chosen moment; ``test_resume.py`` runs it in fresh processes."""

import os
import signal
from pathlib import Path

import torch

from tests.training.toy import TinyNet, ToyData, ToyLoader, memory_objective, tiny_teacher
from topokd_lib.training import EngineSpec, RunDirectory, Schedule, fit, make_fabric

EPOCHS = 4


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillInStep(ToyLoader):
    """Dies in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch

    def train_batches(self, epoch):
        for step, batch in enumerate(super().train_batches(epoch)):
            if (epoch, step) == (self.epoch, 2):
                kill()
            yield batch


def kill_while_writing(number: int) -> None:
    """Die when half of the ``number``-th checkpoint has been written."""
    write, count = torch.save, iter(range(1, 100))

    def save(state, file) -> None:
        write(state, file)
        if next(count) == number:
            file.flush()
            os.truncate(file.name, Path(file.name).stat().st_size // 2)
            kill()

    torch.save = save


def kill_between_renames(number: int) -> None:
    """Die when the last checkpoint has become the previous one and the new one has not taken its place."""
    rename, count = Path.replace, iter(range(1, 100))

    def replace(path: Path, target: Path) -> Path:
        if path.name == "last.ckpt.partial" and next(count) == number:
            kill()
        return rename(path, target)

    Path.replace = replace  # type: ignore[method-assign, assignment]


def train(directory: Path, moment: str = "never", epoch: int = -1) -> None:
    """Train, or die at ``moment`` of ``epoch``, which is counted from 0."""
    torch.set_num_threads(1)
    if moment == "writing":
        kill_while_writing(epoch + 1)
    if moment == "renaming":
        kill_between_renames(epoch + 1)
    loader = KillInStep(epoch if moment == "step" else -1)
    torch.manual_seed(5)
    student, objective = TinyNet(), memory_objective()
    run = RunDirectory.open(directory, recipe="student: tiny\n", seed=3, data=ToyData())
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    schedule = Schedule(epochs=EPOCHS, milestones=(3,), warmup_epochs=2)
    fit(fabric, student, tiny_teacher(), objective, loader, schedule, run, seed=3)
