"""One pass over the training images, for the main stage and for those before it."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from topokd_lib.errors import Interrupted, TrainingDiverged
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.objectives.base import InitStage, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.training.diagnostics import GradientProbe
from topokd_lib.training.distiller import Distiller, Gather
from topokd_lib.training.engine import (
    gather_objects,
    random_state,
    restore_random_state,
    seed_all,
    share_buffers,
)
from topokd_lib.training.evaluate import Evaluation
from topokd_lib.training.log import MAIN, EpochRecord, Means, Meter, Progress
from topokd_lib.training.run import RunDirectory
from topokd_lib.training.schedule import Schedule
from topokd_lib.training.stops import Stops

__all__ = ["CHECK_EVERY", "Loader", "Position", "Session"]

CHECK_EVERY = 100
"""Steps between two looks at the loss; a look waits for the device."""

Position = dict[str, Any]
"""Where in an epoch a run is: steps, seconds, and the sums and the random state of every process."""


@runtime_checkable
class Loader(Protocol):
    """Where batches come from; :class:`~topokd_lib.data.EpochLoader` is one."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches per epoch, the same on every process."""

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Training batches of this process; they depend on the epoch, counted from 0, and on no history."""

    def test_batches(self) -> Iterator[Batch]:
        """Test batches of this process: its share, nothing twice."""


@dataclass
class Session:
    """What all epochs of one call of :func:`~topokd_lib.training.fit` share; see there."""

    fabric: Fabric
    student: FeatureModel
    teacher: Teacher | None
    objective: WeightedSum
    loader: Loader
    run: RunDirectory | None
    seed: int
    accumulate: int
    gather: Gather | None
    probe: GradientProbe | None
    stops: Stops
    line: Progress
    log: Callable[[EpochRecord], None]

    @property
    def steps(self) -> int:
        """Of the optimiser, in an epoch."""
        return self.loader.steps_per_epoch // self.accumulate

    def train_epoch(
        self,
        distiller: Any,
        optimizer: Optimizer,
        stage: str,
        epoch: int,
        epochs: int,
        position: Position | None = None,
        store: Callable[[Position], None] | None = None,
    ) -> EpochRecord:
        """One pass over the training images, or what is left of it.

        Args:
            distiller: What is trained, wrapped by Fabric.
            optimizer: Likewise.
            stage: For the log.
            epoch: Counted from 0.
            epochs: Of the stage.
            position: Where an earlier session was interrupted.
            store: Keeps the state in the middle of the epoch; without it the stage begins again.
        """
        start = time.perf_counter()
        self.line.begin(stage, epoch + 1, epochs)
        meter, step = Meter(), 0
        probe = self.probe if stage == MAIN else None
        if probe is not None:
            probe.begin_epoch()
        batches = self.loader.train_batches(epoch)
        if position is not None:
            step = self.continue_from(position, batches, meter)
            start -= position["seconds"]
        while step < self.steps:
            for number, batch in enumerate(islice(batches, self.accumulate), start=1):
                self.add_gradients(distiller, self.fabric.to_device(batch), meter, number)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if (step - 1) % CHECK_EVERY == 0:
                self.read(meter, stage, epoch, step)
            if self.stops.due(step):
                self.pause(meter, stage, epoch, step, time.perf_counter() - start, store)
        means = self.read(meter, stage, epoch, step)
        seconds = time.perf_counter() - start
        return EpochRecord(
            epoch=epoch + 1,
            stage=stage,
            learning_rate=float(optimizer.param_groups[0]["lr"]),
            loss=means.loss,
            terms=means.terms,
            train_top1=means.top1,
            test=None,
            seconds=seconds,
            images_per_second=means.images / seconds,
            diagnostics={} if probe is None else probe.read(self.fabric),
        )

    def add_gradients(self, distiller: Any, batch: Batch, meter: Meter, number: int) -> None:
        """Forward and backward pass of one batch, the ``number``-th of its step."""
        with self.fabric.no_backward_sync(distiller, enabled=number < self.accumulate):
            loss, logits = distiller(batch, self.taught(batch))
            self.fabric.backward(loss if self.accumulate == 1 else loss / self.accumulate)
        meter.update(batch, loss, logits, self.objective.values)
        self.line.advance(len(batch) * self.fabric.world_size)

    def continue_from(self, position: Position, batches: Iterator[Batch], meter: Meter) -> int:
        """Bring batches, averages and random state to where they were; returns the steps that are done."""
        rank, step = self.fabric.global_rank, int(position["step"])
        deque(islice(batches, step * self.accumulate), maxlen=0)
        meter.restore(position["meters"][rank])
        if self.probe is not None:
            self.probe.restore(position["probes"][rank], self.fabric.device)
        restore_random_state(self.fabric, position["random"][rank])
        return step

    def pause(
        self,
        meter: Meter,
        stage: str,
        epoch: int,
        step: int,
        seconds: float,
        store: Callable[[Position], None] | None,
    ) -> None:
        """Store the state behind ``step``, and end if that was asked for."""
        self.read(meter, stage, epoch, step)  # what is no number is never stored
        if store is not None:
            store(
                {
                    "step": step,
                    "seconds": seconds,
                    "meters": gather_objects(self.fabric, meter.state()),
                    "probes": gather_objects(self.fabric, self.probe and self.probe.state()),
                    "random": gather_objects(self.fabric, random_state(self.fabric)),
                }
            )
        if self.stops.stop:
            self.leave(f"in epoch {epoch + 1} of stage {stage!r}, step {step}")

    def leave(self, where: str) -> None:
        """End because that was asked for."""
        self.fabric.barrier()  # the first process has written
        kept = None if self.run is None else self.run.latest_checkpoint
        raise Interrupted(
            f"stopped by {self.stops.reason} {where}; "
            + ("nothing was stored" if kept is None else f"the state is in {kept}, the same command goes on")
        )

    def train_stage(self, stage: InitStage, number: int, schedule: Schedule) -> None:
        """Train exactly the modules of a stage; everything else is in evaluation mode and stays as it is."""
        distiller = Distiller(self.student, self.objective, stage.loss, gather=self.gather)
        trained = {p for module in stage.modules for p in module.parameters() if p.requires_grad}
        unknown = trained - set(distiller.parameters())
        if not trained or unknown:
            raise ValueError(
                f"initial stage {stage.name!r} must train parameters of the student or the objective; "
                f"of its {len(trained)} trainable ones {len(unknown)} belong to neither"
            )
        paused = [p for p in distiller.parameters() if p.requires_grad and p not in trained]
        for parameter in paused:
            parameter.requires_grad = False
        constant = replace(schedule, epochs=stage.epochs, kind="step", milestones=(), warmup_epochs=0)
        optimizer = constant.build(p for p in distiller.parameters() if p.requires_grad)
        share_buffers(self.fabric, distiller)
        wrapped, stepper = self.fabric.setup(distiller, optimizer)
        for epoch in range(stage.epochs):
            seed_all(self.seed, self.fabric.global_rank, number, epoch)
            distiller.eval()
            for module in stage.modules:
                module.train()
            self.log(self.train_epoch(wrapped, stepper, stage.name, epoch, stage.epochs))
        for parameter in paused:
            parameter.requires_grad = True

    def taught(self, batch: Batch) -> ModelOutput:
        """What the teacher says, or the absence of one."""
        if self.teacher is None:
            return ModelOutput.untaught(batch, self.student.num_classes)
        taught: ModelOutput = self.teacher(batch, self.objective.teacher_features)
        return taught

    def read(self, meter: Meter, stage: str, epoch: int, step: int) -> Means:
        """The averages so far, if they are numbers."""
        means = meter.means(self.fabric)
        if broken := means.not_finite():
            ago = meter.first_broken(self.fabric)
            where = f"{stage!r}, step {step if ago is None else step - ago // self.accumulate}"
            self.give_up(f"the loss is {means.loss} ({', '.join(broken)})", where, epoch)
        self.line.show(means.loss)
        return means

    def require_finite(self, distiller: nn.Module, test: Evaluation, epoch: int) -> None:
        """Refuse to store weights that are not numbers; the last step of an epoch can break them unseen."""
        finite = torch.stack([p.isfinite().all() for p in distiller.parameters()]).all()
        if not finite or not math.isfinite(test.loss):
            self.give_up(f"the weights are no longer usable (test loss {test.loss})", repr(MAIN), epoch)

    def give_up(self, what: str, stage: str, epoch: int) -> None:
        """Stop, and say what is left."""
        kept = None if self.run is None else self.run.latest_checkpoint
        raise TrainingDiverged(
            f"{what} in epoch {epoch + 1} of stage {stage}; "
            + ("nothing was stored" if kept is None else f"the last good state is in {kept}")
            + ". Lower the learning rate or the weight of the term, or give it a warm-up"
        )
