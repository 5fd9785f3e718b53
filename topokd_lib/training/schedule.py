"""How long a student is trained, and with which step size in which epoch."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    r"""Stochastic gradient descent with momentum, or Adam, and a rate that is a function of the epoch.

    The learning rate is constant within an epoch. With epochs counted from 0, kind ``step`` multiplies it by
    ``gamma`` once for every milestone reached, so that milestone 150 changes the 151st epoch; kind ``cosine``
    uses

    .. math:: \tfrac{1}{2} \, l_r \left(1 + \cos \frac{\pi (e - W)}{E - W}\right)

    for epoch :math:`e` of :math:`E` after :math:`W` warm-up epochs. A warm-up multiplies the learning rate by
    1/W, 2/W, … in its epochs. The defaults are the CIFAR-100 recipe of the distillation benchmark, which
    TopKD uses too; weight decay acts on every parameter, batch normalisation included.

    Args:
        epochs: Passes over the training images.
        lr: Learning rate before any decay.
        momentum: Fraction of the last step that is kept.
        nesterov: Look ahead along the momentum.
        weight_decay: Factor of the squared norm, halved, that is added to the loss.
        milestones: Epochs, counted from 0, that begin with a smaller learning rate; kind ``step`` only.
        gamma: What a milestone multiplies the learning rate by.
        kind: ``step`` or ``cosine``.
        warmup_epochs: Epochs over which the learning rate grows to its full value.
        fused: Take the step of all parameters in one kernel; the numbers change by rounding only.
        optimizer: ``sgd``, or ``adam`` with PyTorch's constants, where momentum and ``nesterov`` have no
            meaning.

    Raises:
        ValueError: If a value is out of range, or a milestone would never be reached.

    Example:
        >>> schedule = Schedule()
        >>> [round(schedule.learning_rate(epoch), 6) for epoch in (0, 149, 150, 180, 239)]
        [0.05, 0.05, 0.005, 0.0005, 5e-05]
    """

    epochs: int = 240
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = (150, 180, 210)
    gamma: float = 0.1
    kind: Literal["step", "cosine"] = "step"
    warmup_epochs: int = 0
    fused: bool = False
    optimizer: Literal["sgd", "adam"] = "sgd"

    def __post_init__(self) -> None:
        if self.epochs < 1 or not self.lr > 0:
            raise ValueError(
                f"training needs at least one epoch and a positive learning rate, got epochs={self.epochs} "
                f"and lr={self.lr}"
            )
        if self.kind not in ("step", "cosine"):
            raise ValueError(f"the kind of a schedule is 'step' or 'cosine', got {self.kind!r}")
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"the optimizer is 'sgd' or 'adam', got {self.optimizer!r}")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0 or not self.gamma > 0:
            raise ValueError(
                f"momentum must lie in [0, 1), weight_decay must not be negative and gamma must be positive, "
                f"got momentum={self.momentum}, weight_decay={self.weight_decay}, gamma={self.gamma}"
            )
        if self.nesterov and self.momentum == 0:
            raise ValueError("Nesterov looks ahead along the momentum, which is 0; set one or drop nesterov")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(
                f"the warm-up must end before training does, got warmup_epochs={self.warmup_epochs} "
                f"of {self.epochs}"
            )
        unreachable = [m for m in self.milestones if not 0 < m < self.epochs]
        if self.kind == "step" and unreachable:
            possible = f"milestones between 1 and {self.epochs - 1}, or " if self.epochs > 1 else ""
            raise ValueError(
                f"milestones {unreachable} are never reached in {self.epochs} epochs, so the learning rate "
                f"would not decay as written; give {possible}none: []"
            )

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / self.warmup_epochs
        if self.kind == "cosine":
            progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
            return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)

    def build(self, parameters: Iterable[nn.Parameter]) -> Optimizer:
        """The optimiser of these parameters; :meth:`set_epoch` moves it along the schedule."""
        if self.optimizer == "adam":
            return Adam(parameters, lr=self.learning_rate(0), weight_decay=self.weight_decay)
        return SGD(
            parameters,
            lr=self.learning_rate(0),
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=self.fused,
        )

    def set_epoch(self, optimizer: Optimizer, epoch: int) -> float:
        """Give the optimiser the learning rate of ``epoch``, counted from 0, and return it.

        The schedule keeps no state of its own, so there is none to lose when a run is interrupted.
        """
        rate = self.learning_rate(epoch)
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return rate
