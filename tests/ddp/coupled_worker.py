"""Two processes whose losses compare the images of a batch; ``test_coupled.py`` looks at the files."""

import sys
from pathlib import Path

import torch

from tests.training.toy import Labels, TinyNet, ToyLoader, tiny_teacher
from topokd_lib.objectives.base import Objective, WeightedSum
from topokd_lib.training import EngineSpec, Schedule, fit, make_fabric

SCHEDULE = Schedule(epochs=3, lr=0.05, milestones=(2,))


class Similarities(Objective):
    """Compares all pairs of images of a batch, through a trained connector."""

    student_features = ("pooled",)
    teacher_features = ("pooled",)

    def __init__(self) -> None:
        super().__init__()
        self.connector = torch.nn.Linear(8, 8)

    def forward(self, student, teacher, batch):
        mine, theirs = (x / x.norm() for x in (self.connector(student["pooled"]), teacher["pooled"]))
        return (mine @ mine.T - theirs @ theirs.T).square().sum() + 0 * batch.images.sum()


def objective(*, coupled: bool) -> WeightedSum:
    torch.manual_seed(6)
    terms: dict[str, Objective] = {"labels": Labels()}
    if coupled:
        terms["similarities"] = Similarities()
    return WeightedSum(terms, dict.fromkeys(terms, 1.0))


def student() -> TinyNet:
    """Without batch normalisation, which sees its own process's images in any case."""
    torch.manual_seed(5)
    return TinyNet(norm=False, dropout=0.0)


def trained(fabric, loader: ToyLoader, *, coupled: bool, **options):
    network, loss = student(), objective(coupled=coupled)
    teacher = tiny_teacher()
    history = fit(fabric, network, teacher, loss, loader, SCHEDULE, **options)
    return {
        "student": network.state_dict(),
        "objective": loss.state_dict(),
        "losses": [record.loss for record in history.records],
        "top1": [record.train_top1 for record in history.records],
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(EngineSpec(accelerator="cpu", devices=2))
    fabric.launch()
    rank = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    found = {
        "gathered": trained(fabric, ToyLoader(batch_size=4, **rank), coupled=True, gather=True),
        "apart": trained(fabric, ToyLoader(batch_size=4, **rank), coupled=True),
        "accumulated": trained(fabric, ToyLoader(batch_size=2, **rank), coupled=False, accumulate=2),
        "gathered and accumulated": trained(
            fabric, ToyLoader(batch_size=4, **rank), coupled=True, accumulate=2, gather=True
        ),
    }
    torch.save(found, folder / f"rank{fabric.global_rank}.pt")
    fabric.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
