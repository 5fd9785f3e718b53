"""A network, objectives and a loader so small that an epoch takes milliseconds."""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.models import FeatureModel, Taps, Teacher
from topokd_lib.objectives.base import InitStage, Objective, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput, Normalisation

CLASSES, SIZE = 3, 6


class TinyNet(FeatureModel):
    """Two convolutions, with batch normalisation and dropout unless told otherwise."""

    feature_names = ("stage1", "stage2", "pooled")

    def __init__(self, *, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.name = "tiny"
        self.num_classes = CLASSES
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(8, CLASSES)

    def compute(self, images: Tensor, taps: Taps) -> Tensor:
        x = taps.keep("stage1", F.relu(self.bn1(self.conv1(images))))
        x = taps.keep("stage2", F.relu(self.bn2(self.conv2(x))))
        return torch.as_tensor(self.fc(self.dropout(taps.keep("pooled", x.mean(dim=(2, 3))))))

    @property
    def last_layer(self) -> nn.Linear:
        return self.fc

    def modules_up_to(self, name: str) -> tuple[nn.Module, ...]:
        first = (self.conv1, self.bn1)
        return first if name == "stage1" else (*first, self.conv2, self.bn2)

    def norm_before(self, name: str) -> nn.BatchNorm2d:
        raise ValueError(f"{name} is no batch normalisation's output")


class Labels(Objective):
    """Cross-entropy."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return F.cross_entropy(student.logits, batch.labels)


class Remember(Objective):
    """Keep a running mean of each class, seen through a trained connector; the loss depends on the memory."""

    student_features = ("pooled",)
    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.connector = nn.Linear(8, 5)
        self.register_buffer("bank", torch.randn(CLASSES, 5))

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        embedded = self.connector(student["pooled"])
        loss = F.mse_loss(embedded, self.bank[batch.labels])
        with torch.no_grad():
            seen = F.one_hot(batch.labels, CLASSES).float()
            sums = torch.cat([seen.T @ embedded, seen.sum(dim=0)[:, None]], dim=1)
            if dist.is_initialized():  # every process keeps the whole memory
                dist.all_reduce(sums)
            self.bank.lerp_(sums[:, :-1] / sums[:, -1:].clamp(min=1), 0.1)
        return loss


class Hint(Objective):
    """Two steps: the layers up to ``stage1`` learn to predict the teacher's, then the other terms go on."""

    student_features = ("stage1",)
    teacher_features = ("stage1",)

    def __init__(self, epochs: int = 2) -> None:
        super().__init__()
        self.epochs = epochs
        self.regressor = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))

    def hint_loss(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return F.mse_loss(self.regressor(student["stage1"]), teacher["stage1"])

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return student.logits.new_zeros(())

    def init_stages(self, student: FeatureModel) -> tuple[InitStage, ...]:
        trained = (*student.modules_up_to("stage1"), self.regressor)
        return (InitStage("hint", self.hint_loss, trained, self.epochs, freeze_after=(self.regressor,)),)


class Soft(Objective):
    """Squared distance of logits."""

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Tensor:
        return F.mse_loss(student.logits, teacher.logits)


class ToyLoader:
    """Images whose brightest channel is their label; order is a function of the epoch.

    Every process draws the same global batches and takes its own part of each, and every ``world_size``-th
    test image, so that shares are unequal.
    """

    def __init__(
        self, *, batch_size: int = 8, train: int = 32, test: int = 15, rank: int = 0, world_size: int = 1
    ) -> None:
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.randint(CLASSES, (train + test,), generator=generator)
        self.images = torch.randn(train + test, 3, SIZE, SIZE, generator=generator)
        self.images[torch.arange(train + test), self.labels] += 1.5
        self.batch_size, self.train = batch_size, train
        self.rank, self.world_size = rank, world_size

    @property
    def steps_per_epoch(self) -> int:
        return self.train // (self.batch_size * self.world_size)

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        order = torch.randperm(self.train, generator=torch.Generator().manual_seed(epoch))
        for step in range(self.steps_per_epoch):
            everyone = order[step * self.batch_size * self.world_size :]
            yield self._batch(everyone[self.rank * self.batch_size :][: self.batch_size])

    def test_batches(self) -> Iterator[Batch]:
        share = torch.arange(self.train, len(self.labels))[self.rank :: self.world_size]
        for indices in share.split(4):
            yield self._batch(indices)

    def _batch(self, indices: Tensor) -> Batch:
        return Batch(self.images[indices], self.labels[indices], indices)


class ToyData:
    """What a run notes about its data."""

    name = "toy"
    normalisation = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    skipped = ()

    def __init__(self, fingerprint: str = "0123456789abcdef") -> None:
        self._fingerprint = fingerprint

    def fingerprint(self) -> str:
        return self._fingerprint


def memory_objective() -> WeightedSum:
    """Labels, a memory with a trained connector, and the teacher's logits, which are warmed up."""
    terms = {"labels": Labels(), "memory": Remember(), "soft": Soft()}
    return WeightedSum(terms, {"labels": 1.0, "memory": 0.5, "soft": 0.1}, {"soft": 3})


def tiny_teacher() -> Teacher:
    """An untrained teacher."""
    torch.manual_seed(3)
    return Teacher(TinyNet())
