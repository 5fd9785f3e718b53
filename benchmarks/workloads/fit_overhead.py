"""Training with `fit`, next to the same steps in a bare PyTorch loop: what logging and safety cost.

Both train the same student with the same teacher on the same batches; the result of a case is the student's
logits on the test images afterwards, so a difference in what was trained shows before any time is taken.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.optim import SGD

from benchmarks.measure import Case, Contender
from topokd_lib.data import EpochLoader, load_digits
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import KD, CrossEntropy, WeightedSum
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.training import Schedule, fit, make_fabric

TITLE = "Training with KD, resnet20 to resnet8 on the digits, per step"

RATE, TEMPERATURE = 1e-3, 4.0  # a small rate, so that rounding does not grow from step to step


class Steps:
    """So many training batches, and one for testing."""

    def __init__(self, loader: EpochLoader, steps: int) -> None:
        self.loader, self.steps_per_epoch = loader, steps

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        taken, pass_over = 0, epoch
        while taken < self.steps_per_epoch:
            for batch in self.loader.train_batches(pass_over):
                if taken < self.steps_per_epoch:
                    yield batch
                taken += 1
            pass_over += 1

    def test_batches(self) -> Iterator[Batch]:
        yield next(iter(self.loader.test_batches()))


def networks() -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return create_model("resnet8", num_classes=10), create_model("resnet20", num_classes=10)


def loss_of(said: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    soft = F.kl_div(
        F.log_softmax(said / TEMPERATURE, dim=1),
        F.softmax(taught / TEMPERATURE, dim=1),
        reduction="batchmean",
    )
    return F.cross_entropy(said, labels) + 2.0 * TEMPERATURE**2 * soft


def bare(loader: EpochLoader, steps: int) -> npt.NDArray[np.floating]:
    """The shortest loop: one epoch and a test, no log, no check, no process but this one."""
    student, teacher = networks()
    teacher.eval()
    optimizer = SGD(student.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
    few = Steps(loader, steps)
    student.train()
    for batch in few.train_batches(0):
        with torch.no_grad():
            taught = teacher(batch.images)
        loss = loss_of(student(batch.images), taught, batch.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    logits(student, few)  # the test after an epoch
    return logits(student, few)


def with_fit(loader: EpochLoader, steps: int) -> npt.NDArray[np.floating]:
    """The library, with everything that a run has but the files."""
    network, taught = networks()
    teacher = Teacher(taught)
    data = loader.data
    pair = Pair.measure(
        network,
        teacher,
        image_shape=data.image_shape,
        train_labels=data.train_labels,
        batch_size=loader.batch_size,
    )
    terms = {"ce": CrossEntropy(pair), "kd": KD(pair, temperature=TEMPERATURE)}
    few = Steps(loader, steps)
    schedule = Schedule(epochs=1, lr=RATE, milestones=())
    objective = WeightedSum(terms, {"ce": 1.0, "kd": 2.0})
    fit(make_fabric(), network, teacher, objective, few, schedule, progress=False)
    return logits(network, few)


def logits(student: torch.nn.Module, few: Steps) -> npt.NDArray[np.floating]:
    student.eval()
    with torch.no_grad():
        found: npt.NDArray[np.floating] = student(next(few.test_batches()).images).numpy()
    return found


def cases(quick: bool) -> Iterator[Case]:
    """8 × 8 digits, and 32 × 32 where the networks weigh more."""
    for size in (8,) if quick else (8, 32):
        loader = EpochLoader(load_digits(size=size), batch_size=64, augment="crop")
        steps = {8: 200, 32: 40}[size]
        yield Case(
            f"{size} × {size} digits, {steps} steps of 64 and one test batch",
            (
                Contender("a bare loop", partial(bare, loader), items=steps),
                Contender("fit", partial(with_fit, loader), items=steps),
            ),
            tolerance=1e-4,
        )
