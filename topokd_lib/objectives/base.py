"""What every distillation method is: a module that turns two outputs and a batch into one number."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.models.base import FeatureModel
from topokd_lib.outputs import Batch, ModelOutput

__all__ = ["InitStage", "Objective", "WeightedSum"]


class Objective(nn.Module, ABC):
    """One thing a student should learn, with the modules and the memory that this needs.

    It is built as ``Objective(pair, *, hyper-parameters)`` and is complete afterwards: connectors are
    sub-modules, memory is persistent buffers, and PyTorch finds both for the optimiser and the checkpoint. It
    must not keep the pair, the student or the teacher: assigning a module registers its weights.

    An objective may be abstract or final, never both: methods do not inherit from each other, they share
    functions and connectors.

    Attributes:
        student_features: Names it reads from the student.
        teacher_features: Names it reads from the teacher.
        extras: Names it reads from ``batch.extras``; checked before the first epoch.
    """

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        """The loss of one batch, in float32."""

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called before epoch ``epoch`` (from 0) of ``epochs``; for warm-ups and annealing."""

    def init_stages(self, student: FeatureModel) -> "tuple[InitStage, ...]":
        """Training that comes before the main one, in order; most methods have none."""
        return ()


@dataclass(frozen=True)
class InitStage:
    """A stage of training before the main one.

    Args:
        name: For the log.
        loss: What is minimised.
        modules: Exactly what is trained, and put into training mode; all else stays in evaluation mode, so
            that running statistics do not drift.
        epochs: How long.
        freeze_after: Modules that the main stage must not train.
    """

    name: str
    loss: Callable[[ModelOutput, ModelOutput, Batch], Tensor]
    modules: tuple[nn.Module, ...]
    epochs: int
    freeze_after: tuple[nn.Module, ...] = ()


class WeightedSum(Objective):
    r"""A sum of objectives with weights, each of which may be warmed up.

    .. math:: L = \sum_k w_k \, \min(e / E_k, 1) \, L_k

    with the epoch :math:`e` counted from 1 and :math:`E_k` the warm-up epochs of term :math:`k` (0: none).

    Args:
        terms: Objectives by name; the names appear in the log.
        weights: One weight per term. A term of weight 0 is still computed and logged: it is the control.
        warmup_epochs: Epochs over which a term's weight grows to its full value.

    Raises:
        ValueError: If there is no term, or names of terms and weights differ, or a weight is negative.

    Attributes:
        values: The unweighted value of each term at the last call, for the log.
    """

    def __init__(
        self,
        terms: Mapping[str, Objective],
        weights: Mapping[str, float],
        warmup_epochs: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        warmup_epochs = warmup_epochs or {}
        if not terms:
            raise ValueError("an objective needs at least one term; give the student something to learn")
        if set(weights) != set(terms) or not set(warmup_epochs) <= set(terms):
            raise ValueError(
                f"every term needs one weight: terms are {sorted(terms)}, weights are given for "
                f"{sorted(weights)}, warm-ups for {sorted(warmup_epochs)}"
            )
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"the weight of term {name!r} must not be negative, got {weight}")
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.warmup_epochs = dict(warmup_epochs)
        self.epoch = 0
        self.values: dict[str, Tensor] = {}
        objectives = list(terms.values())
        self.student_features = _union(term.student_features for term in objectives)
        self.teacher_features = _union(term.teacher_features for term in objectives)
        self.extras = _union(term.extras for term in objectives)

    def weight(self, name: str) -> float:
        """The present weight of a term, warm-up included."""
        warmup = self.warmup_epochs.get(name, 0)
        return self.weights[name] * (min((self.epoch + 1) / warmup, 1.0) if warmup else 1.0)

    def weighted(
        self, student: ModelOutput, teacher: ModelOutput, batch: Batch
    ) -> dict[str, Float[Tensor, ""]]:
        """Each term times its present weight; their sum is what :meth:`forward` returns."""
        losses = {name: term(student, teacher, batch) for name, term in self.terms.items()}
        self.values = {name: loss.detach() for name, loss in losses.items()}
        return {name: self.weight(name) * loss for name, loss in losses.items()}

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return sum(self.weighted(student, teacher, batch).values(), start=student.logits.new_zeros(()))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.epoch = epoch
        for term in self._objectives():
            term.begin_epoch(epoch, epochs)

    def init_stages(self, student: FeatureModel) -> tuple[InitStage, ...]:
        return tuple(stage for term in self._objectives() for stage in term.init_stages(student))

    def _objectives(self) -> list[Objective]:
        return [term for term in self.terms.values() if isinstance(term, Objective)]


def _union(groups: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for group in groups for name in group))
