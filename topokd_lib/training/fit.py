"""The training loop: one for every method."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from lightning_fabric import Fabric
from torch.optim import Optimizer

from topokd_lib.errors import CheckpointError, require_feature
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.objectives.base import WeightedSum
from topokd_lib.outputs import Batch
from topokd_lib.training.board import open_board
from topokd_lib.training.checkpoint import load_checkpoint, load_weights, way_out
from topokd_lib.training.diagnostics import Diagnostics, GradientProbe
from topokd_lib.training.distiller import Distiller, join_processes
from topokd_lib.training.engine import seed_all, share_buffers
from topokd_lib.training.epoch import Loader, Position, Session
from topokd_lib.training.evaluate import evaluate
from topokd_lib.training.log import MAIN, EpochRecord, History, Progress
from topokd_lib.training.run import RunDirectory
from topokd_lib.training.schedule import Schedule
from topokd_lib.training.stops import Stops, listen

__all__ = ["fit"]


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
    accumulate: int = 1,
    gather: bool = False,
    progress: bool = True,
    diagnostics: Diagnostics | None = None,
) -> History:
    """Train ``student``, and leave it in evaluation mode with the weights of the last epoch.

    The objective's initial stages come first. With a run directory every epoch is logged and stored, and a
    run that was interrupted continues as if nothing had happened: to the last bit on a CPU, and on a GPU as
    far as its kernels repeat themselves. After SIGTERM or SIGUSR1 it continues from the very step, after a
    kill from the last state that was stored; initial stages begin again. A finished run is left alone.

    Args:
        fabric: Already launched if it has several processes.
        student: Trained in place.
        teacher: ``None`` for ordinary training. It always computes in float32.
        objective: What the student should learn.
        loader: Batches of this process.
        schedule: Epochs and learning rate; an initial stage keeps the first rate throughout.
        run: Where everything is kept, or ``None`` to keep nothing.
        seed: Of dropout and all other randomness during training; equal to the run's.
        accumulate: Batches per step (:class:`~topokd_lib.training.EngineSpec`); those at the end of an epoch
            that do not fill a step are left out.
        gather: Whether losses see the batches of all processes together (likewise).
        progress: Draw a progress line if there is a terminal.
        diagnostics: What the log tells of each epoch beside the losses.

    Raises:
        ValueError: Before the first epoch, if something does not fit together.
        TrainingDiverged: If the loss or a weight is not a finite number.
        CheckpointError: If a checkpoint cannot be read or written.
        Interrupted: If SIGTERM or SIGUSR1 asked for it; the state is stored.
    """
    if run is not None and run.seed != seed:
        raise ValueError(f"{run.path} holds a run with seed {run.seed}, fit was called with seed {seed}")
    if run is not None and (finished := run.record) is not None:
        load_weights(run.student_path, student.eval())
        return History.from_list(finished["curve"])
    first = _first_batch(student, objective, loader, accumulate)
    diagnostics = diagnostics or Diagnostics()
    probe = _probe(student, objective, diagnostics)
    for module in filter(None, (student, teacher, objective)):
        fabric.to_device(module)
    saved = None if run is None else _saved_state(run, fabric)
    history = History() if saved is None else History.from_list(saved["history"])
    stages = objective.init_stages(student)
    pending = stages if saved is None else ()
    objective.values = {}
    writer = run if fabric.is_global_zero else None
    position: Position | None = None if saved is None else saved.get("position")
    epochs = schedule.epochs + sum(stage.epochs for stage in pending)
    with (
        _log_to(writer, history) as log,
        _progress(fabric, loader, first, accumulate, epochs, history, position, progress) as line,
        listen() as request,
    ):
        stops = Stops(fabric, request, 0.0 if run is None else run.minutes)
        join = join_processes(fabric) if gather and fabric.world_size > 1 else None
        session = Session(
            fabric, student, teacher, objective, loader, run, seed, accumulate, join, probe, stops, line, log
        )
        for number, stage in enumerate(pending, start=1):
            session.train_stage(stage, number, schedule)
        frozen = [module for stage in stages for module in stage.freeze_after]
        for module in frozen:
            module.requires_grad_(requires_grad=False)

        distiller = Distiller(student, objective, gather=join, probe=probe)
        optimizer = schedule.build(p for p in distiller.parameters() if p.requires_grad)
        if run is not None and saved is not None:
            _restore(run, saved, distiller, optimizer)
        share_buffers(fabric, distiller)  # earlier versions of torch do not when they wrap a module
        wrapped, stepper = fabric.setup(distiller, optimizer)

        def store(position: Position | None = None) -> None:
            state = _state(fabric, distiller, optimizer, history, position)
            if writer is not None:
                writer.save(history, state, student, first.images.shape[1])

        if pending:
            store()
        for epoch in range(len(history.epochs), schedule.epochs):
            start = time.perf_counter()
            seed_all(seed, fabric.global_rank, 0, epoch)
            objective.begin_epoch(epoch, schedule.epochs)
            schedule.set_epoch(optimizer, epoch)
            distiller.train()
            for module in frozen:
                module.eval()
            if position is not None and saved is not None:
                distiller.load_state_dict(saved["distiller"])  # the beginning of an epoch may change it
                start -= position["seconds"]
            record = session.train_epoch(wrapped, stepper, MAIN, epoch, schedule.epochs, position, store)
            position = None
            share_buffers(fabric, student)
            test = evaluate(fabric, student, loader.test_batches())
            session.require_finite(distiller, test, epoch)
            line.show(record.loss, test.top1)
            if fabric.is_global_zero and diagnostics.after_epoch is not None:
                record.diagnostics.update(diagnostics.after_epoch())
            log(replace(record, test=test, seconds=time.perf_counter() - start))
            store()
            if stops.due() and stops.stop and epoch + 1 < schedule.epochs:
                session.leave(f"after epoch {epoch + 1}")

    distiller.eval()
    if writer is not None:
        writer.finish(history, student, first.images.shape[1])
    fabric.barrier()
    return history


def _probe(student: FeatureModel, objective: WeightedSum, wanted: Diagnostics) -> GradientProbe | None:
    """What measures the gradients of the terms, if that is wanted."""
    if not wanted.gradients_every:
        return None
    require_feature("student", student.name, wanted.feature, student.feature_names)
    names = tuple(objective.terms)
    return GradientProbe(wanted.gradients_every, names, wanted.reference, wanted.feature)


@contextmanager
def _log_to(writer: RunDirectory | None, history: History) -> Iterator[Callable[[EpochRecord], None]]:
    """A function that keeps an epoch wherever it shall be kept; what is known already is written first."""
    if writer is not None:
        writer.begin(history)
    wanted = writer is not None and writer.tensorboard
    with open_board(writer.path / "tensorboard", history) if writer and wanted else nullcontext() as show:

        def log(record: EpochRecord) -> None:
            history.records.append(record)
            if writer is not None:
                writer.write_log(record)
            if show is not None:
                show(record)

        yield log


def _progress(
    fabric: Fabric,
    loader: Loader,
    first: Batch,
    accumulate: int,
    epochs: int,
    history: History,
    position: Position | None,
    wanted: bool,
) -> Progress:
    """A line for all epochs, of which some are done."""
    per_step = len(first) * accumulate * fabric.world_size
    per_epoch = per_step * (loader.steps_per_epoch // accumulate)
    done = per_epoch * len(history.epochs) + per_step * (position["step"] if position else 0)
    return Progress(total=per_epoch * epochs, done=done, enabled=wanted and fabric.is_global_zero)


def _first_batch(student: FeatureModel, objective: WeightedSum, loader: Loader, accumulate: int) -> Batch:
    """The first training batch, once everything that it shows is in order."""
    batch = next(iter(loader.train_batches(0)), None)
    if batch is None:
        raise ValueError("the loader gives no training batch; are there fewer images than one batch needs?")
    if not 1 <= accumulate <= loader.steps_per_epoch:
        raise ValueError(
            f"a step averages accumulate={accumulate} batches, and an epoch has {loader.steps_per_epoch}; "
            f"choose between 1 and that"
        )
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


def _state(
    fabric: Fabric,
    distiller: Distiller,
    optimizer: Optimizer,
    history: History,
    position: Position | None,
) -> dict[str, Any]:
    return {
        "distiller": distiller.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history.to_list(),
        "processes": fabric.world_size,
        "position": position,
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
