"""The training loop: one for every method."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from topokd_lib.errors import CheckpointError, TrainingDiverged, require_feature
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.objectives.base import InitStage, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.training.checkpoint import load_checkpoint, load_weights, way_out
from topokd_lib.training.diagnostics import Diagnostics, GradientProbe
from topokd_lib.training.distiller import Distiller
from topokd_lib.training.engine import seed_all, share_buffers
from topokd_lib.training.evaluate import Evaluation, evaluate
from topokd_lib.training.log import MAIN, EpochRecord, History, Means, Meter, Progress
from topokd_lib.training.run import RunDirectory
from topokd_lib.training.schedule import Schedule

__all__ = ["CHECK_EVERY", "Loader", "fit"]

CHECK_EVERY = 100
"""Steps between two looks at the loss; a look waits for the device."""


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


def fit(
    fabric: Fabric,
    student: FeatureModel,
    teacher: Teacher | None,
    objective: WeightedSum,
    loader: Loader,
    schedule: Schedule,
    run: RunDirectory | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
    diagnostics: Diagnostics | None = None,
) -> History:
    """Train ``student``, and leave it in evaluation mode with the weights of the last epoch.

    The objective's initial stages come first. With a run directory every epoch is logged and stored, and a
    run that was interrupted continues after its last complete epoch as if nothing had happened: to the last
    bit on a CPU, and on a GPU as far as its kernels repeat themselves. A finished run is not trained again.

    Args:
        fabric: Already launched if it has several processes.
        student: Trained in place.
        teacher: ``None`` for ordinary training. It always computes in float32.
        objective: What the student should learn.
        loader: Batches of this process.
        schedule: Epochs and learning rate; an initial stage keeps the first rate throughout.
        run: Where everything is kept, or ``None`` to keep nothing.
        seed: Of dropout and all other randomness during training; equal to the run's.
        progress: Draw a progress line if there is a terminal.
        diagnostics: What the log tells of each epoch beside the losses.

    Raises:
        ValueError: Before the first epoch, if something does not fit together.
        TrainingDiverged: If the loss or a weight is not a finite number.
        CheckpointError: If a checkpoint cannot be read or written.
    """
    if run is not None and run.seed != seed:
        raise ValueError(f"{run.path} holds a run with seed {run.seed}, fit was called with seed {seed}")
    if run is not None and (finished := run.record) is not None:
        load_weights(run.student_path, student.eval())
        return History.from_list(finished["curve"])
    first = _first_batch(student, objective, loader)
    extra = diagnostics or Diagnostics()
    probe = None
    if extra.gradients_every:
        require_feature("student", student.name, extra.feature, student.feature_names)
        terms = tuple(objective.terms)
        probe = GradientProbe(extra.gradients_every, terms, extra.reference, extra.feature)
    for module in filter(None, (student, teacher, objective)):
        fabric.to_device(module)
    saved = None if run is None else _saved_state(run, fabric)
    history = History() if saved is None else History.from_list(saved["history"])
    stages = objective.init_stages(student)
    pending = stages if saved is None else ()
    objective.values = {}
    writer = run if fabric.is_global_zero else None
    if writer is not None:
        writer.begin(history)

    channels = first.images.shape[1]
    per_epoch = len(first) * loader.steps_per_epoch * fabric.world_size
    with Progress(
        total=per_epoch * (schedule.epochs + sum(stage.epochs for stage in pending)),
        done=per_epoch * len(history.epochs),
        enabled=progress and fabric.is_global_zero,
    ) as line:
        session = _Session(fabric, student, teacher, objective, loader, run, seed, line)
        for number, stage in enumerate(pending, start=1):
            history.records += session.train_stage(stage, number, schedule)
        frozen = [module for stage in stages for module in stage.freeze_after]
        for module in frozen:
            module.requires_grad_(requires_grad=False)

        distiller = Distiller(student, objective, probe=probe)
        optimizer = schedule.build(p for p in distiller.parameters() if p.requires_grad)
        if run is not None and saved is not None:
            _restore(run, saved, distiller, optimizer)
        share_buffers(fabric, distiller)  # earlier versions of torch do not when they wrap a module
        wrapped, stepper = fabric.setup(distiller, optimizer)
        if writer is not None and pending:
            writer.save(history, _state(fabric, distiller, optimizer, history), student, channels)

        for epoch in range(len(history.epochs), schedule.epochs):
            start = time.perf_counter()
            seed_all(seed, fabric.global_rank, 0, epoch)
            objective.begin_epoch(epoch, schedule.epochs)
            schedule.set_epoch(optimizer, epoch)
            distiller.train()
            for module in frozen:
                module.eval()
            if probe is not None:
                probe.begin_epoch()
            record = session.train_epoch(wrapped, stepper, MAIN, epoch, schedule.epochs)
            share_buffers(fabric, student)
            test = evaluate(fabric, student, loader.test_batches())
            session.require_finite(distiller, test, epoch)
            line.show(record.loss, test.top1)
            found = {} if probe is None else probe.read(fabric)
            if extra.after_epoch is not None and fabric.is_global_zero:
                found |= extra.after_epoch()
            seconds = time.perf_counter() - start
            history.records.append(replace(record, test=test, seconds=seconds, diagnostics=found))
            if writer is not None:
                writer.write_log(history.last)
                writer.save(history, _state(fabric, distiller, optimizer, history), student, channels)

    distiller.eval()
    if writer is not None:
        writer.finish(history, student, channels)
    fabric.barrier()
    return history


@dataclass
class _Session:
    """What all epochs of one call of :func:`fit` share."""

    fabric: Fabric
    student: FeatureModel
    teacher: Teacher | None
    objective: WeightedSum
    loader: Loader
    run: RunDirectory | None
    seed: int
    line: Progress

    def train_epoch(
        self, distiller: nn.Module, optimizer: Optimizer, stage: str, epoch: int, epochs: int
    ) -> EpochRecord:
        """One pass over the training images."""
        start = time.perf_counter()
        self.line.begin(stage, epoch + 1, epochs)
        meter = Meter()
        for step, batch in enumerate(map(self.fabric.to_device, self.loader.train_batches(epoch))):
            loss, logits = distiller(batch, self.taught(batch))
            self.fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            meter.update(batch, loss, logits, self.objective.values)
            self.line.advance(len(batch) * self.fabric.world_size)
            if step % CHECK_EVERY == 0:
                self.read(meter, stage, epoch)
        means = self.read(meter, stage, epoch)
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
        )

    def train_stage(self, stage: InitStage, number: int, schedule: Schedule) -> list[EpochRecord]:
        """Train exactly the modules of a stage; everything else is in evaluation mode and stays as it is."""
        distiller = Distiller(self.student, self.objective, stage.loss)
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
        records = []
        for epoch in range(stage.epochs):
            seed_all(self.seed, self.fabric.global_rank, number, epoch)
            distiller.eval()
            for module in stage.modules:
                module.train()
            records.append(self.train_epoch(wrapped, stepper, stage.name, epoch, stage.epochs))
            if self.run is not None and self.fabric.is_global_zero:
                self.run.write_log(records[-1])
        for parameter in paused:
            parameter.requires_grad = True
        return records

    def taught(self, batch: Batch) -> ModelOutput:
        """What the teacher says, or the absence of one."""
        if self.teacher is None:
            return ModelOutput.untaught(batch, self.student.num_classes)
        taught: ModelOutput = self.teacher(batch, self.objective.teacher_features)
        return taught

    def read(self, meter: Meter, stage: str, epoch: int) -> Means:
        """The averages so far, if they are numbers."""
        means = meter.means(self.fabric)
        if broken := means.not_finite():
            self.stop(f"the loss is {means.loss} ({', '.join(broken)})", stage, epoch)
        self.line.show(means.loss)
        return means

    def require_finite(self, distiller: nn.Module, test: Evaluation, epoch: int) -> None:
        """Refuse to store weights that are not numbers; the last step of an epoch can break them unseen."""
        finite = torch.stack([p.isfinite().all() for p in distiller.parameters()]).all()
        if not finite or not math.isfinite(test.loss):
            self.stop(f"the weights are no longer usable (test loss {test.loss})", MAIN, epoch)

    def stop(self, what: str, stage: str, epoch: int) -> None:
        """Give up, and say what is left."""
        kept = None if self.run is None else self.run.latest_checkpoint
        raise TrainingDiverged(
            f"{what} in epoch {epoch + 1} of stage {stage!r}; "
            + ("nothing was stored" if kept is None else f"the last good state is in {kept}")
            + ". Lower the learning rate or the weight of the term, or give it a warm-up"
        )


def _first_batch(student: FeatureModel, objective: WeightedSum, loader: Loader) -> Batch:
    """The first training batch, once everything that it shows is in order."""
    batch = next(iter(loader.train_batches(0)), None)
    if batch is None:
        raise ValueError("the loader gives no training batch; are there fewer images than one batch needs?")
    if missing := [name for name in objective.extras if name not in batch.extras]:
        raise ValueError(
            f"the objective reads {', '.join(missing)} from the extras of a batch, and batches carry "
            f"{', '.join(sorted(batch.extras)) or 'none'}; prepare them and give them to the loader"
        )
    lowest, highest = int(batch.labels.min()), int(batch.labels.max())
    if lowest < 0 or highest >= student.num_classes:
        raise ValueError(
            f"labels must lie in 0 … {student.num_classes - 1} because student {student.name} has "
            f"{student.num_classes} classes, found {lowest} … {highest}"
        )
    if not any(p.requires_grad for p in student.parameters()):
        raise ValueError(
            f"no parameter of student {student.name} is trainable; is it the teacher? Build a second network"
        )
    return batch


def _state(fabric: Fabric, distiller: Distiller, optimizer: Optimizer, history: History) -> dict[str, Any]:
    return {
        "distiller": distiller.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history.to_list(),
        "processes": fabric.world_size,
    }


def _saved_state(run: RunDirectory, fabric: Fabric) -> dict[str, Any] | None:
    path = run.latest_checkpoint
    if path is None:
        return None
    state = load_checkpoint(path)
    if missing := {"distiller", "optimizer", "history", "processes"} - set(state):
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}. {way_out(path)}")
    if state["processes"] != fabric.world_size:
        raise CheckpointError(
            f"{path} was written by {state['processes']} process(es), now there are {fabric.world_size}; "
            f"batches would no longer be the same. Use as many devices as before, or a new run directory"
        )
    return state


def _restore(run: RunDirectory, saved: dict[str, Any], distiller: Distiller, optimizer: Optimizer) -> None:
    try:
        distiller.load_state_dict(saved["distiller"])
        optimizer.load_state_dict(saved["optimizer"])
    except (KeyError, RuntimeError, ValueError) as error:
        lines = " ".join(str(error).split())
        raise CheckpointError(
            f"{run.latest_checkpoint} does not fit student {distiller.student.name} and this objective "
            f"({lines[:300]}). It was written by another version of the code: use that, or a new directory"
        ) from None
