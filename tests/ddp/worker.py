"""What two processes do together; ``test_two_processes.py`` runs it and looks at the files that it leaves."""

import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from lightning_fabric import Fabric

from tests.training.toy import (
    Hint,
    Labels,
    Remember,
    TinyNet,
    ToyData,
    ToyLoader,
    memory_objective,
    tiny_teacher,
)
from topokd_lib.errors import TrainingDiverged
from topokd_lib.objectives.base import WeightedSum
from topokd_lib.training import EngineSpec, RunDirectory, Schedule, evaluate, fit, make_fabric

SCHEDULE = Schedule(epochs=3, lr=0.05, milestones=(2,))


def plain_student() -> TinyNet:
    """Without anything that looks at a whole batch, so that halves of it can be averaged."""
    torch.manual_seed(5)
    return TinyNet(norm=False, dropout=0.0)


def labels_only() -> WeightedSum:
    return WeightedSum({"labels": Labels()}, {"labels": 1.0})


class KillBoth(ToyLoader):
    """Every process dies in the middle of epoch 1."""

    def train_batches(self, epoch):
        for step, batch in enumerate(super().train_batches(epoch)):
            if (epoch, step) == (1, 1):
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch


class SpoilOne(ToyLoader):
    """One process sees an image that is not a number."""

    def train_batches(self, epoch):
        for batch in super().train_batches(epoch):
            if self.rank == 1 and epoch == 1:
                batch.images[0] = torch.nan
            yield batch


def train_run(fabric: Fabric, path: Path, loader: ToyLoader, epochs: int = 3) -> tuple[TinyNet, WeightedSum]:
    """Everything at once: an initial stage, a memory, dropout, batch normalisation, a run directory."""
    torch.manual_seed(5 + fabric.global_rank)  # rank 0 decides how everything begins
    student, memory = TinyNet(), memory_objective()
    terms = {**{name: memory.terms[name] for name in memory.terms}, "hint": Hint(epochs=1)}
    objective = WeightedSum(terms, dict.fromkeys(terms, 1.0))  # type: ignore[arg-type]
    with fabric.rank_zero_first():
        run = RunDirectory.open(path, recipe="student: tiny\n", data=ToyData())
    schedule = Schedule(epochs=epochs, milestones=(2,))
    fit(fabric, student, tiny_teacher(), objective, loader, schedule, run)
    return student, objective


def main(scenario: str, folder: Path) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(EngineSpec(accelerator="cpu", devices=2))
    fabric.launch()
    rank = {"rank": fabric.global_rank, "world_size": fabric.world_size}

    if scenario == "resume":
        train_run(fabric, folder / "killed", ToyLoader(batch_size=4, **rank))
        return

    student = plain_student()
    history = fit(fabric, student, None, labels_only(), ToyLoader(batch_size=4, **rank), SCHEDULE)
    found = {
        "student": student.state_dict(),
        "history": history.to_list(),
        "whole": asdict(evaluate(fabric, student, ToyLoader(test=15, **rank).test_batches())),
        "single": asdict(evaluate(fabric, student, ToyLoader(test=1, **rank).test_batches())),
    }

    student, objective = train_run(fabric, folder / "straight", ToyLoader(batch_size=4, **rank))
    remember = objective.terms["memory"]
    assert isinstance(remember, Remember)
    found |= {"run_student": student.state_dict(), "run_objective": objective.state_dict()}

    try:
        train_run(fabric, folder / "diverged", SpoilOne(batch_size=4, **rank))
    except TrainingDiverged as error:
        found["diverged"] = str(error)
    torch.save(found, folder / f"rank{fabric.global_rank}.pt")
    fabric.barrier()
    train_run(fabric, folder / "killed", KillBoth(batch_size=4, **rank))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
