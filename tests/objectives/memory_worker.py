"""Training with a memory, by one process or by two; ``test_memory.py`` runs both and compares."""

import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric

from tests.training.toy import Labels, TinyNet, ToyData, ToyLoader, tiny_teacher
from topokd_lib.objectives import CRCD, CRD, WeightedSum
from topokd_lib.objectives.memory import MemoryBank
from topokd_lib.pair import Pair
from topokd_lib.training import EngineSpec, RunDirectory, Schedule, fit, make_fabric

SCHEDULE = Schedule(epochs=3, lr=0.05, milestones=(2,))


def train(
    fabric: Fabric,
    loader: ToyLoader,
    *,
    method: type[CRD] | type[CRCD] = CRD,
    path: Path | None = None,
) -> tuple[TinyNet, WeightedSum]:
    """Train a student in which no image sees another one, so that halves of a batch can be averaged."""
    torch.manual_seed(5 + fabric.global_rank)  # rank 0 decides how everything begins
    student, teacher = TinyNet(norm=False, dropout=0.0), tiny_teacher()
    labels = loader.labels[: loader.train]
    pair = Pair.measure(
        student, teacher, image_shape=(3, 6, 6), train_labels=labels, batch_size=loader.batch_size
    )
    terms = {"labels": Labels(), "memory": method(pair, dim=4, negatives=10)}
    objective = WeightedSum(terms, {"labels": 1.0, "memory": 0.1})
    run = None if path is None else RunDirectory.open(path, recipe="student: tiny\n", data=ToyData())
    fit(fabric, student, teacher, objective, loader, SCHEDULE, run)
    return student, objective


def write_and_read(indices: torch.Tensor) -> torch.Tensor:
    """A bank after two updates, the second of which meets images of the first."""
    torch.manual_seed(0)
    bank = MemoryBank(16, 3)
    embeddings = torch.randn(16, 3)
    for shift in (0, 4):
        places = (indices + shift) % 16
        bank.update(places, embeddings[places])
    return bank.rows


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(EngineSpec(accelerator="cpu", devices=2))
    fabric.launch()
    rank = fabric.global_rank
    student, objective = train(fabric, ToyLoader(batch_size=4, rank=rank, world_size=2))
    found = {
        "rows": write_and_read(torch.arange(8)[4 * rank :][:4]),
        "student": student.state_dict(),
        "objective": objective.state_dict(),
    }
    torch.save(found, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
