"""Training with `fit`, next to the same steps in a bare PyTorch loop: what logging and safety cost.

Both train copies of the same student with the same teacher on the same batches, with the same optimiser; the
result is the student's logits on test images afterwards, so a difference in what was trained shows before any
time is taken. `fit` does all that it does in a run, its checks and the test included; only the files are not
written. What comes before it, building networks and losses, is left out for both.
"""

from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.optim import SGD

from benchmarks.measure import Case, Contender
from topokd_lib.data import EpochLoader, ImageData, load_digits
from topokd_lib.data.noise import load_noise
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import KD, CrossEntropy, WeightedSum
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.training import Schedule, fit, make_fabric

TITLE = "Training with KD and batches of 64, per step"

BATCH = 64
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


def loss_of(said: torch.Tensor, taught: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    soft = F.kl_div(
        F.log_softmax(said / TEMPERATURE, dim=1),
        F.log_softmax(taught / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return F.cross_entropy(said, labels) + 2.0 * TEMPERATURE**2 * soft


def logits(student: torch.nn.Module, few: Steps) -> npt.NDArray[np.floating]:
    student.eval()
    with torch.no_grad():
        found: npt.NDArray[np.floating] = student(next(few.test_batches()).images).numpy()
    return found


def cases(quick: bool) -> Iterator[Case]:
    """Small networks on small digits, the same on larger ones, and a pair of the literature's at its size."""
    yield _case("resnet20", "resnet8", load_digits(size=8), 200)
    if not quick:
        yield _case("resnet20", "resnet8", load_digits(size=32), 40)
        yield _case("resnet32x4", "resnet8x4", load_noise(train=8 * BATCH, test=16), 6)


def _case(teacher_name: str, student_name: str, data: ImageData, steps: int) -> Case:
    torch.manual_seed(0)
    student, network = (
        create_model(name, num_classes=data.num_classes) for name in (student_name, teacher_name)
    )
    teacher = Teacher(network)
    loader = EpochLoader(data, batch_size=BATCH, augment="crop")
    pair = Pair.measure(
        student,
        teacher,
        image_shape=data.image_shape,
        train_labels=data.train_labels,
        batch_size=BATCH,
    )
    terms = {"ce": CrossEntropy(pair), "kd": KD(pair, temperature=TEMPERATURE)}
    objective = WeightedSum(terms, {"ce": 1.0, "kd": 2.0})
    schedule, fabric = Schedule(epochs=1, lr=RATE, milestones=()), make_fabric()

    def bare(steps: int) -> npt.NDArray[np.floating]:
        """The shortest loop: one epoch and a test, no log, no check, no process but this one."""
        trained, few = deepcopy(student), Steps(loader, steps)
        optimizer = SGD(trained.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
        trained.train()
        for batch in few.train_batches(0):
            with torch.no_grad():
                taught = network(batch.images)
            loss = loss_of(trained(batch.images), taught, batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        logits(trained, few)  # the test after an epoch
        return logits(trained, few)

    def with_fit(steps: int) -> npt.NDArray[np.floating]:
        trained, few = deepcopy(student), Steps(loader, steps)
        fit(fabric, trained, teacher, objective, few, schedule, progress=False)
        return logits(trained, few)

    size = data.image_shape[-1]
    return Case(
        f"{teacher_name} to {student_name} at {size} × {size}, {steps} steps and one test batch",
        (Contender("a bare loop", bare, items=steps), Contender("fit", with_fit, items=steps)),
        tolerance=1e-4,
    )
