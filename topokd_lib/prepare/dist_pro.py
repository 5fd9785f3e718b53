r"""The search of DistPro: weights of pathways that make a student better on images it is not trained on.

Two problems at once: the student and its connectors :math:`\theta` minimise the cross-entropy and the
weighted losses of all pathways on most of the training images; the scores :math:`\alpha` of the pathways
minimise the cross-entropy alone, without any teacher, on the images that are left.

Reference:
    X. Deng, D. Sun, S. Newsam, P. Wang. DistPro: Searching a Fast Knowledge Distillation Process via Meta
    Optimization. ECCV 2022. [deng2022distpro]
    H. Liu, K. Simonyan, Y. Yang. DARTS: Differentiable Architecture Search. ICLR 2019, §2.3. [liu2019darts]
Differs from:
    The released code (bytedance/DistPro) does not run: a function is indented wrongly, ``--noDist`` sets a
    variable that is never read, and the searched weights are never used. What is here follows its
    ``distpro.py`` for the gradient of the scores and the paper for the rest. It updates the scores at every
    step; here ``every`` decides, at a cost of about four training steps for each. Its teacher is in training
    mode, so that its running statistics drift; here it is not.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.data import ImageData, StreamedImages
from topokd_lib.errors import CheckpointError, TrainingDiverged
from topokd_lib.files import write_atomically
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.objectives import DistPro
from topokd_lib.objectives.dist_pro import PathwayProcess, pathway_weights
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.training import make_fabric, seed_all
from topokd_lib.training.checkpoint import load_checkpoint

__all__ = ["DistProPlan", "hold_out", "hypergradient", "search_pathways"]

Progress = Callable[[str, int, int], None]
Images = ImageData | StreamedImages


@runtime_checkable
class SearchLoader(Protocol):
    """Where batches come from; :class:`~topokd_lib.data.EpochLoader` is one."""

    batch_size: int
    augment: str

    @property
    def data(self) -> Images:
        """Where the batches are from."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch."""

    def train_batches(self, epoch: int) -> Iterator[Batch]:
        """Training batches of an epoch, counted from 0."""


@dataclass
class DistProPlan:
    """How the weights of pathways are searched.

    Args:
        epochs: Of the search; the paper's is 40 on CIFAR-100.
        held_out: Fraction of the training images whose cross-entropy the scores minimise.
        every: Training steps from one update of the scores to the next.
        weight: Of the distillation beside the cross-entropy.
        lr: The student's learning rate; it falls as half a cosine.
        momentum: Of the student's gradient descent.
        weight_decay: Of the student and the connectors.
        score_lr: Learning rate of the scores, with Adam.
        seed: Of the split, the order and the views.
    """

    epochs: int = 40
    held_out: float = 0.2
    every: int = 20
    weight: float = 1.0
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    score_lr: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.every < 1:
            raise ValueError(
                f"a search needs at least one epoch and an update of the scores every so many steps, got "
                f"epochs={self.epochs} and every={self.every}"
            )
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is a fraction between 0 and 1, got {self.held_out}")
        if not (self.lr > 0 and self.score_lr > 0 and self.weight > 0):
            raise ValueError(
                f"lr, score_lr and weight must be positive, got {self.lr}, {self.score_lr} and {self.weight}"
            )
        if not (0 <= self.momentum < 1 and self.weight_decay >= 0):
            raise ValueError(
                f"momentum must lie in [0, 1) and weight_decay must not be negative, got {self.momentum} and "
                f"{self.weight_decay}"
            )


def hypergradient(
    train_loss: Callable[[], Tensor],
    held_out_loss: Callable[[], Tensor],
    parameters: Sequence[nn.Parameter],
    scores: Float[Tensor, " pathways"],
    *,
    lr: float,
    momentum: Sequence[Tensor] | None = None,
    weight_decay: float = 0.0,
    step: float = 0.01,
) -> Float[Tensor, " pathways"]:
    r"""How the loss on held-out images, after one more training step, changes with the scores.

    .. math:: \theta' = \theta - \eta \, (\nu + \nabla_\theta L(\theta, \alpha) + \lambda \theta), \qquad
              \frac{\mathrm{d} L'(\theta')}{\mathrm{d} \alpha} = -\eta \, \nabla_\alpha \nabla_\theta L \; v,
              \qquad v = \nabla L'(\theta')

    and the product with the mixed derivative is a difference quotient,
    :math:`(\nabla_\alpha L(\theta + \epsilon v) - \nabla_\alpha L(\theta - \epsilon v)) / 2 \epsilon` with
    :math:`\epsilon = 0.01 / \lVert v \rVert`. Parameters are as before when it returns.

    Args:
        train_loss: :math:`L`, of the parameters and scores as they are when it is called.
        held_out_loss: :math:`L'`, which must not depend on the scores.
        parameters: :math:`\theta`; those that :math:`L'` does not depend on have no part in it.
        scores: :math:`\alpha`, which requires a gradient.
        lr: :math:`\eta`, the learning rate.
        momentum: :math:`\nu`, one tensor per parameter: what the optimiser keeps of its last step.
        weight_decay: :math:`\lambda`.
        step: 0.01 above.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    gradients = torch.autograd.grad(train_loss(), parameters)
    with torch.no_grad():
        for number, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            change = gradient + weight_decay * parameter
            parameter.sub_(change if momentum is None else change + momentum[number], alpha=lr)
    found = torch.autograd.grad(held_out_loss(), parameters, allow_unused=True)
    direction = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
    length = torch.stack([torch.linalg.vector_norm(part) for part in direction]).norm()
    if length == 0:
        _set(parameters, kept)
        return torch.zeros_like(scores)
    epsilon = step / length
    sides = []
    for sign in (1.0, -1.0):
        _set(parameters, [old + sign * epsilon * part for old, part in zip(kept, direction, strict=True)])
        sides.append(torch.autograd.grad(train_loss(), scores)[0])
    _set(parameters, kept)
    return torch.as_tensor(-lr * (sides[0] - sides[1]) / (2 * epsilon))


def hold_out(data: Images, fraction: float, seed: int) -> tuple[Images, Images]:
    """The training images without a random part, and that part; the test images play no role.

    Raises:
        ValueError: If one of the two would be empty.
    """
    total = len(data.train_labels)
    count = round(fraction * total)
    if not 0 < count < total:
        raise ValueError(f"{fraction:.0%} of {total} training images leave one of two sets empty")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return _only(data, order[count:].sort().values), _only(data, order[:count].sort().values)


def _only(data: Images, chosen: Tensor) -> Images:
    if isinstance(data, ImageData):
        chosen = chosen.to(data.train_labels.device)
        return replace(data, train_images=data.train_images[chosen], train_labels=data.train_labels[chosen])
    return replace(data, train=data.train.take(chosen))


def search_pathways(
    student: FeatureModel,
    teacher: Teacher,
    training: SearchLoader,
    held_out: SearchLoader,
    plan: DistProPlan,
    *,
    state: Path | None = None,
    fabric: Fabric | None = None,
    progress: Progress | None = None,
) -> PathwayProcess:
    """Search the weights of all pathways from a teacher to a student.

    Args:
        student: An untrained network; it is trained on the way and of no use afterwards.
        teacher: Which network teaches.
        training: Batches that the student is trained on.
        held_out: Batches, made by :func:`hold_out`, whose cross-entropy the scores minimise; those that it
            calls training batches.
        plan: All choices.
        state: A file in which the search is kept after every epoch, and from which it goes on if it was
            interrupted, to the same result. It is removed at the end.
        fabric: What to compute on.
        progress: Called with (stage, steps done, steps in all).

    Raises:
        ValueError: If the plan does not fit the data or the networks.
        CheckpointError: If ``state`` cannot be read or holds another search.
        TrainingDiverged: If a loss stops being a finite number.
    """
    search = _Search(student, teacher, training, held_out, plan, fabric or make_fabric())
    done = 0 if state is None or not state.exists() else search.load(state)
    for epoch in range(done, plan.epochs):
        search.run_epoch(epoch, progress)
        if state is not None:
            search.save(state, epoch + 1)
    process = search.process()
    if state is not None:
        state.unlink(missing_ok=True)
    return process


class _Search:
    """The state of a search between two epochs, and how it goes on."""

    def __init__(
        self,
        student: FeatureModel,
        teacher: Teacher,
        training: SearchLoader,
        held_out: SearchLoader,
        plan: DistProPlan,
        fabric: Fabric,
    ) -> None:
        seed_all(plan.seed)
        pair = Pair.measure(
            student,
            teacher,
            image_shape=training.data.image_shape,
            train_labels=training.data.train_labels,
            batch_size=training.batch_size,
        )
        self.training, self.held_out = training, held_out
        self.plan, self.fabric, self.student, self.teacher = plan, fabric, student, teacher
        self.objective = DistPro(pair)
        self.scores = nn.Parameter(torch.ones(len(self.objective.pathways)))
        self.trained = nn.ModuleList([student, self.objective])
        for module in (self.trained, teacher):
            fabric.to_device(module)
        self.scores.data = fabric.to_device(self.scores.data)
        self.parameters = [p for p in self.trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(
            self.parameters, lr=plan.lr, momentum=plan.momentum, weight_decay=plan.weight_decay
        )
        self.score_optimizer = torch.optim.Adam([self.scores], lr=plan.score_lr, betas=(0.5, 0.999))
        self.records = [self.scores.detach().cpu().clone()]
        self.losses = {"train": float("nan"), "held_out": float("nan")}
        self.identity = {
            **asdict(plan),
            "batch_size": training.batch_size,
            "augment": training.augment,
            "data": [loader.data.fingerprint() for loader in (training, held_out)],
            "student": student.name,
            "teacher": teacher.fingerprint(),
        }

    def run_epoch(self, epoch: int, progress: Progress | None) -> None:
        plan, steps = self.plan, self.training.steps_per_epoch
        seed_all(plan.seed, 1, epoch)
        fraction = epoch / plan.epochs
        cosine = 0.5 * (1 + torch.cos(torch.tensor(torch.pi * fraction)).item())
        self.optimizer.param_groups[0]["lr"] = plan.lr * cosine
        self.trained.train()
        others = self._held_out_batches(epoch)
        for step, batch in enumerate(map(self.fabric.to_device, self.training.train_batches(epoch))):
            if step % plan.every == 0:
                self.update_scores(batch, self.fabric.to_device(next(others)))
            loss = self.train_loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if progress is not None:
                progress("search", epoch * steps + step + 1, plan.epochs * steps)
        self.losses["train"] = loss.item()
        if not (torch.isfinite(loss) and self.scores.isfinite().all()):
            raise TrainingDiverged(
                f"the search became {loss.item()} in epoch {epoch + 1}; lower lr ({plan.lr}) or weight "
                f"({plan.weight})"
            )

    def train_loss(self, batch: Batch) -> Tensor:
        seen = self.student.extract(batch.images, self.objective.student_features)
        taught = self.teacher(batch, self.objective.teacher_features)
        distillation = pathway_weights(self.scores) @ self.objective.pathway_losses(seen, taught)
        return F.cross_entropy(seen.logits, batch.labels) + self.plan.weight * distillation

    def update_scores(self, batch: Batch, other: Batch) -> None:
        """One step of the scores; running statistics, like the parameters, are as before afterwards."""
        plan = self.plan
        states = [self.optimizer.state.get(parameter, {}) for parameter in self.parameters]
        buffers = [state.get("momentum_buffer") for state in states]
        momentum = [
            torch.zeros_like(p) if b is None else plan.momentum * b
            for p, b in zip(self.parameters, buffers, strict=True)
        ]
        with _same_buffers(self.trained):
            self.scores.grad = hypergradient(
                lambda: self.train_loss(batch),
                lambda: self.held_out_loss(other),
                self.parameters,
                self.scores,
                lr=self.optimizer.param_groups[0]["lr"],
                momentum=momentum,
                weight_decay=plan.weight_decay,
            )
        self.score_optimizer.step()
        self.records.append(self.scores.detach().cpu().clone())

    def held_out_loss(self, batch: Batch) -> Tensor:
        loss = F.cross_entropy(self.student(batch.images), batch.labels)
        self.losses["held_out"] = loss.item()
        return loss

    def process(self) -> PathwayProcess:
        return PathwayProcess(
            torch.stack(self.records),
            self.student.name,
            self.teacher.name,
            self.objective.student_features,
            self.objective.teacher_features,
            {"plan": asdict(self.plan), "last_losses": self.losses},
        )

    def save(self, path: Path, epoch: int) -> None:
        state = {
            "identity": self.identity,
            "epoch": epoch,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scores": self.scores.detach(),
            "score_optimizer": self.score_optimizer.state_dict(),
            "records": torch.stack(self.records),
            "losses": self.losses,
        }
        with write_atomically(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path) -> int:
        """Go back to where :meth:`save` was, and return the epoch that comes next."""
        state = load_checkpoint(path)
        if state.get("identity") != self.identity:
            raise CheckpointError(
                f"{path} holds the beginning of another search (other plan, networks or data); delete it to "
                f"start again, or choose another artefact"
            )
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scores.data.copy_(state["scores"])
        self.score_optimizer.load_state_dict(state["score_optimizer"])
        self.records = list(state["records"])
        self.losses = state["losses"]
        return int(state["epoch"])

    def _held_out_batches(self, epoch: int) -> Iterator[Batch]:
        """Batches without end; a search may update the scores more often than there are of them."""
        while True:
            yield from self.held_out.train_batches(epoch)


def _set(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)


@contextmanager
def _same_buffers(module: nn.Module) -> Iterator[None]:
    """Running statistics that passes inside the block change are put back."""
    kept = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, old in zip(module.buffers(), kept, strict=True):
            buffer.copy_(old)
