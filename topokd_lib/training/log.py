"""What a run remembers of each epoch, and the one line that shows where it is."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor
from tqdm import tqdm

from topokd_lib.outputs import Batch
from topokd_lib.training.evaluate import Evaluation

__all__ = ["MAIN", "EpochRecord", "History", "Means", "Meter", "Progress"]

MAIN = "main"
"""Name of the stage that trains with the whole objective."""


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, as it stands in a line of ``log.jsonl``.

    Args:
        epoch: Counted from 1 within its stage.
        stage: ``main``, or the name of the initial stage it belongs to.
        learning_rate: Of every step of the epoch.
        loss: What was minimised, averaged over the images of the epoch as they were seen.
        terms: The unweighted value of each term of the objective, averaged alike; empty in initial stages.
        train_top1: Fraction of training images that were classified correctly when they were seen.
        test: On the test images after the epoch; ``None`` in initial stages.
        seconds: Wall-clock time of training and evaluation.
        images_per_second: Training images of all processes per second of training.
        diagnostics: What else was measured, by name (:class:`~topokd_lib.training.Diagnostics`).
    """

    epoch: int
    stage: str
    learning_rate: float
    loss: float
    terms: dict[str, float]
    train_top1: float
    test: Evaluation | None
    seconds: float
    images_per_second: float
    diagnostics: dict[str, float] = field(default_factory=dict)

    @property
    def test_top1(self) -> float:
        """Test accuracy as a fraction; not a number where none was measured."""
        return math.nan if self.test is None else self.test.top1

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and containers, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EpochRecord":
        """The record that :meth:`to_dict` described."""
        test = data["test"]
        return cls(**{**data, "test": None if test is None else Evaluation(**test)})


@dataclass
class History:
    """Every epoch of a run in order, initial stages included."""

    records: list[EpochRecord] = field(default_factory=list)

    @property
    def epochs(self) -> list[EpochRecord]:
        """The epochs of the main training."""
        return [record for record in self.records if record.stage == MAIN]

    @property
    def last(self) -> EpochRecord:
        """The last epoch of the main training.

        Raises:
            ValueError: If there is none yet.
        """
        return self._trained()[-1]

    @property
    def best(self) -> EpochRecord:
        """The epoch with the highest test accuracy, the first of equals.

        The benchmark's tables report it. It is chosen by looking at the test images, so it is optimistic;
        :attr:`last` is not.

        Raises:
            ValueError: If there is none yet.
        """
        return max(self._trained(), key=lambda record: record.test_top1)

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs, interruptions not counted."""
        return sum(record.seconds for record in self.records)

    def to_list(self) -> list[dict[str, Any]]:
        """Plain numbers and containers, ready for JSON."""
        return [record.to_dict() for record in self.records]

    @classmethod
    def from_list(cls, data: list[dict[str, Any]]) -> "History":
        """The history that :meth:`to_list` described."""
        return cls([EpochRecord.from_dict(record) for record in data])

    def _trained(self) -> list[EpochRecord]:
        if not self.epochs:
            raise ValueError("nothing was trained yet: this history holds no epoch of the main training")
        return self.epochs


@dataclass(frozen=True)
class Means:
    """Averages over the images that a :class:`Meter` has seen, on all processes."""

    loss: float
    top1: float
    terms: dict[str, float]
    images: int

    def not_finite(self) -> list[str]:
        """What stopped being a number: names of terms, or the total when no single term is to blame."""
        names = [name for name, value in self.terms.items() if not math.isfinite(value)]
        return names or ([] if math.isfinite(self.loss) else ["the total"])


class Meter:
    """Running sums of loss, hits and terms.

    What a step says stays on the device until somebody asks: then all of it is read at once, so that no step
    waits, and added in the order of the steps, so that sums do not depend on when they were asked for.
    """

    def __init__(self) -> None:
        self._images = 0
        self._names: tuple[str, ...] = ()
        self._sums: list[float] = []
        self._unread: list[tuple[int, tuple[Tensor, ...]]] = []
        self._broken: int | None = None

    def update(
        self,
        batch: Batch,
        loss: Float[Tensor, ""],
        logits: Float[Tensor, "batch classes"],
        terms: Mapping[str, Tensor],
    ) -> None:
        """Add one batch."""
        loss = loss.detach()
        hits = (logits.argmax(dim=1) == batch.labels).sum(dtype=loss.dtype)
        self._names = tuple(terms)
        self._unread.append((len(batch), (hits, loss, *terms.values())))

    def state(self) -> dict[str, Any]:
        """What was added up so far on this process, in plain containers for a checkpoint."""
        self._read()
        return {"images": self._images, "names": list(self._names), "sums": self._sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state` was taken."""
        self._images, self._names = state["images"], tuple(state["names"])
        self._sums = [float(value) for value in state["sums"]]

    def first_broken(self, fabric: Fabric) -> int | None:
        """How many batches before the last one the first value was seen that is no number.

        Only batches that the last call of :meth:`means` has read are looked at; all processes have to ask.
        """
        ago = torch.tensor(-1.0 if self._broken is None else float(self._broken), device=fabric.device)
        found = int(torch.as_tensor(fabric.all_reduce(ago, reduce_op="max")))
        return None if found < 0 else found

    def means(self, fabric: Fabric) -> Means:
        """Averages so far; waits for the device, and for the other processes.

        Raises:
            ValueError: If no batch was added.
        """
        self._read()
        if not self._sums:
            raise ValueError("an average over no training step is undefined; the loader gave no batch")
        exact = torch.float32 if fabric.device.type == "mps" else torch.float64
        sums = torch.tensor([*self._sums, self._images], dtype=exact, device=fabric.device)
        *totals, images = torch.as_tensor(fabric.all_reduce(sums, reduce_op="sum")).tolist()
        top1, loss, *terms = (total / images for total in totals)
        return Means(loss, top1, dict(zip(self._names, terms, strict=True)), int(images))

    def _read(self) -> None:
        """Bring the numbers of all batches since the last call from the device, and add them."""
        if not self._unread:
            return
        values = torch.stack([value for _, row in self._unread for value in row])
        rows = values.view(len(self._unread), -1).tolist()
        for place, ((size, _), (hits, *losses)) in enumerate(zip(self._unread, rows, strict=True)):
            row = (hits, *(size * loss for loss in losses))
            self._sums = [one + other for one, other in zip(self._sums or [0.0] * len(row), row, strict=True)]
            self._images += size
            if self._broken is None and not all(map(math.isfinite, losses)):
                self._broken = len(rows) - 1 - place
        self._unread.clear()


class Progress:
    """One line per run: stage and epoch, loss, accuracy, images per second and the time that is left.

    It is drawn on a terminal only, and by one process only; elsewhere the log tells the same.

    Args:
        total: Training images of the whole run, all epochs and processes together.
        done: How many of them an earlier session has seen.
        enabled: Whether to draw at all.
    """

    def __init__(self, *, total: int, done: int = 0, enabled: bool = True) -> None:
        self._bar = tqdm(
            total=total,
            initial=done,
            unit=" images",
            unit_scale=True,
            disable=None if enabled else True,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {rate_fmt}, {remaining} left",
        )
        self._where = ""
        self._accuracy = ""

    def begin(self, stage: str, epoch: int, epochs: int) -> None:
        """Name the epoch, counted from 1, that starts now."""
        self._where = f"{'' if stage == MAIN else f'{stage} '}epoch {epoch}/{epochs}"

    def advance(self, images: int) -> None:
        """Count images of all processes."""
        self._bar.update(images)

    def show(self, loss: float, test_top1: float | None = None) -> None:
        """Show the loss, and from the first evaluation on the test accuracy."""
        if test_top1 is not None:
            self._accuracy = f", test {test_top1:.2%}"
        self._bar.set_description_str(f"{self._where}, loss {loss:.4f}{self._accuracy}")

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
