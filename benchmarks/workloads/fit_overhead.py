"""Training with `fit`, next to the same steps in a bare PyTorch loop: what logging and safety cost.

Both train copies of the same student with the same teacher on the same batches, with the same optimiser; the
result is the student's logits on test images afterwards, so a difference in what was trained shows before any
time is taken. `fit` does all that it does in a run, its checks and the test included; only the files are not
written. What comes before it, building networks and losses, is left out for both.

`python -m benchmarks.workloads.fit_overhead` lets both train in turn, step by step, on a machine that does
other things too, and gives the ratio of their steps with an interval.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F
from torch.optim import SGD

from benchmarks.measure import Case, Contender
from topokd_lib.data import EpochLoader, ImageData, load_digits
from topokd_lib.data.noise import load_noise
from topokd_lib.models import FeatureModel, Teacher, create_model
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


@dataclass
class Training:
    """What both ways to train begin with.

    Args:
        name: Of the networks and the size of the images.
        student: To copy and train.
        teacher: Frozen.
        loader: Of batches.
        objective: What `fit` minimises; `loss_of` is the same.
    """

    name: str
    student: FeatureModel
    teacher: Teacher
    loader: EpochLoader
    objective: WeightedSum

    @classmethod
    def of(cls, teacher_name: str, student_name: str, data: ImageData) -> "Training":
        torch.manual_seed(0)
        names = (student_name, teacher_name)
        student, network = (create_model(name, num_classes=data.num_classes) for name in names)
        teacher = Teacher(network)
        pair = Pair.measure(
            student,
            teacher,
            image_shape=data.image_shape,
            train_labels=data.train_labels,
            batch_size=BATCH,
        )
        terms = {"ce": CrossEntropy(pair), "kd": KD(pair, temperature=TEMPERATURE)}
        objective = WeightedSum(terms, {"ce": 1.0, "kd": 2.0})
        size = data.image_shape[-1]
        name = f"{teacher_name} to {student_name} at {size} × {size}"
        return cls(name, student, teacher, EpochLoader(data, batch_size=BATCH, augment="crop"), objective)

    def bare_step(self) -> tuple[FeatureModel, Callable[[Batch], None]]:
        """A copy of the student, and what trains it by one batch: no log, no check, no process but this."""
        student = deepcopy(self.student).train()
        optimizer = SGD(student.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)

        def step(batch: Batch) -> None:
            with torch.no_grad():
                taught = self.teacher.model(batch.images)
            loss = loss_of(student(batch.images), taught, batch.labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return student, step

    def bare(self, steps: int) -> npt.NDArray[np.floating]:
        """The shortest loop: one epoch and a test."""
        few = Steps(self.loader, steps)
        student, step = self.bare_step()
        for batch in few.train_batches(0):
            step(batch)
        logits(student, few)  # the test after an epoch
        return logits(student, few)

    def fit(self, few: Steps) -> npt.NDArray[np.floating]:
        """The library, with everything that a run has but the files."""
        student, schedule = deepcopy(self.student), Schedule(epochs=1, lr=RATE, milestones=())
        fit(make_fabric(), student, self.teacher, self.objective, few, schedule, progress=False)
        return logits(student, few)

    def case(self, steps: int) -> Case:
        """For the table of all workloads."""
        return Case(
            f"{self.name}, {steps} steps and one test batch",
            (
                Contender("a bare loop", self.bare, items=steps),
                Contender("fit", lambda count: self.fit(Steps(self.loader, count)), items=steps),
            ),
            tolerance=1e-4,
        )


class InTurn(Steps):
    """Batches for `fit`; with each, before or after, a bare loop makes a step of its own, and both are timed.

    The time of `fit` is that between two batches: all that it does for a step, its looks at the losses and
    its progress included. Both clocks stand still while a batch is made.
    """

    def __init__(self, training: Training, steps: int) -> None:
        super().__init__(training.loader, steps)
        _, self.step = training.bare_step()
        self.seconds: list[tuple[float, float]] = []

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(super().train_batches(epoch)):
            times = [time.process_time()]
            if number % 2:
                self.step(batch)
                times.append(time.process_time())
            yield batch
            times.append(time.process_time())
            if not number % 2:
                self.step(batch)
                times.append(time.process_time())
            first, second = (later - earlier for earlier, later in pairwise(times))
            self.seconds.append((first, second) if number % 2 else (second, first))


def cases(quick: bool) -> Iterator[Case]:
    """Small networks on small digits, the same on larger ones, and a pair of the literature's at its size."""
    for training, steps in trainings(quick=quick):
        yield training.case(steps)


def trainings(*, quick: bool) -> Iterator[tuple[Training, int]]:
    yield Training.of("resnet20", "resnet8", load_digits(size=8)), 200
    if not quick:
        yield Training.of("resnet20", "resnet8", load_digits(size=32)), 40
        yield Training.of("resnet32x4", "resnet8x4", load_noise(train=8 * BATCH, test=16)), 6


def interval(values: list[float]) -> tuple[float, float]:
    """Between which order statistics the median lies with 95 %, whatever the distribution."""
    count, below, rank = len(values), 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    ordered = sorted(values)
    return ordered[max(rank - 1, 0)], ordered[count - max(rank, 1)]


def main() -> None:
    """Print by how much a step of `fit` takes longer than one of the bare loop that is made beside it."""
    torch.set_num_threads(1)
    for training, steps in trainings(quick=False):
        few = InTurn(training, 10 * steps)
        training.fit(few)
        bare, ours = (statistics.median(times) * 1e3 for times in zip(*few.seconds[5:], strict=True))
        ratios = [ours / bare for bare, ours in few.seconds[5:]]
        low, high = interval(ratios)
        print(
            f"{training.name}: {len(ratios)} steps in turn, median CPU time {bare:.2f} ms bare, {ours:.2f} "
            f"ms fit; ratio {statistics.median(ratios):.4f}, 95 % interval [{low:.4f}, {high:.4f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
