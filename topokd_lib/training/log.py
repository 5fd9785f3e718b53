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
    """Running sums of loss, hits and terms, kept on the device so that no training step waits for it."""

    def __init__(self) -> None:
        self._images = 0
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._unread: list[Tensor] = []

    def update(
        self,
        batch: Batch,
        loss: Float[Tensor, ""],
        logits: Float[Tensor, "batch classes"],
        terms: Mapping[str, Tensor],
    ) -> None:
        """Add one step."""
        hits = (logits.detach().argmax(dim=1) == batch.labels).sum()
        losses = torch.stack([loss.detach(), *terms.values()]) * len(batch)
        row = torch.cat([hits[None].to(losses), losses])
        if self._sums is None:
            exact = torch.float32 if row.device.type == "mps" else torch.float64
            self._names, self._sums = tuple(terms), torch.zeros_like(row, dtype=exact)
        self._sums += row
        self._images += len(batch)
        self._unread.append(row)

    def state(self) -> dict[str, Any]:
        """What was added up so far on this process, in plain containers for a checkpoint."""
        sums = None if self._sums is None else self._sums.cpu()
        return {"images": self._images, "names": list(self._names), "sums": sums}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue where :meth:`state` was taken."""
        self._images, self._names = state["images"], tuple(state["names"])
        self._sums = None if state["sums"] is None else state["sums"].to(device)

    def first_broken(self, fabric: Fabric) -> int | None:
        """How many steps before the last one the first value was seen that is no number.

        Only steps since the last call of :meth:`means` are looked at; all processes have to ask.
        """
        finite = torch.stack([row.isfinite().all() for row in self._unread]).tolist()
        ago = len(finite) - 1 - finite.index(False) if False in finite else -1
        longest = torch.tensor(float(ago), device=fabric.device)
        found = int(torch.as_tensor(fabric.all_reduce(longest, reduce_op="max")))
        return None if found < 0 else found

    def means(self, fabric: Fabric) -> Means:
        """Averages so far; waits for the device, and for the other processes.

        Raises:
            ValueError: If no step was added.
        """
        if self._sums is None:
            raise ValueError("an average over no training step is undefined; the loader gave no batch")
        sums = torch.cat([self._sums, self._sums.new_tensor([self._images])])
        *totals, images = torch.as_tensor(fabric.all_reduce(sums, reduce_op="sum")).tolist()
        if all(map(math.isfinite, totals)):
            self._unread.clear()
        top1, loss, *terms = (total / images for total in totals)
        return Means(loss, top1, dict(zip(self._names, terms, strict=True)), int(images))


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
