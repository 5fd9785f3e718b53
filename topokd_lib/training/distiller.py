"""Student and objective in one forward pass."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn

from topokd_lib.models import FeatureModel
from topokd_lib.objectives.base import Objective, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.training.diagnostics import GradientProbe

__all__ = ["Distiller", "join_processes"]

Gather = Callable[[ModelOutput, ModelOutput, Batch], tuple[ModelOutput, ModelOutput, Batch]]


class Distiller(nn.Module):
    """Everything that is trained, so that one wrapper of Fabric sees all of it.

    Distributed training averages the gradients of one module's forward pass. A connector or a memory that
    lived outside of it would silently differ between processes.

    Args:
        student: The network.
        objective: What it should learn; also decides which of its features are kept.
        loss: Minimised in place of the objective, by a stage that comes before the main training.
        probe: Measures the gradients of the objective's terms, if it is a weighted sum.
        gather: Joins what all processes hold (:func:`join_processes`), before the loss sees it.
    """

    def __init__(
        self,
        student: FeatureModel,
        objective: Objective,
        loss: Callable[[ModelOutput, ModelOutput, Batch], Tensor] | None = None,
        probe: GradientProbe | None = None,
        gather: Gather | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.stage_loss = loss
        self.probe = probe
        self.gather = gather

    def forward(
        self, batch: Batch, taught: ModelOutput
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]:
        """The loss, and the student's logits, without gradient, for the running accuracy.

        This is the only place that knows of precision: whatever the networks compute in, a loss sees
        float32. Distances between features rounded to bfloat16 come out in another order, and the order is
        all that persistence is about.
        """
        probe = self.probe if self.probe is not None and self.probe.is_due() else None
        names = self.objective.student_features + ((probe.feature,) if probe else ())
        out = self.student.extract(batch.images, names)
        loss = self.stage_loss or self.objective
        with torch.autocast(out.logits.device.type, enabled=False):
            seen, target = out.float(), taught.float()
            if self.gather is not None:
                seen, target, batch = self.gather(seen, target, batch)
            if probe is None or not isinstance(self.objective, WeightedSum):
                return loss(seen, target, batch), out.logits.detach()
            terms = self.objective.weighted(seen, target, batch)
            probe.measure(terms, out.features[probe.feature])
            return sum(terms.values(), start=seen.logits.new_zeros(())), out.logits.detach()


def join_processes(fabric: Fabric) -> Gather:
    r"""Joins outputs and batches of all processes to those of one process that has all the images.

    Every process then computes the loss :math:`L` of the joint batch. Gradients flow back to the process that
    an image belongs to, from all of them, and the average over processes that follows is the gradient of
    :math:`L`; for a loss that draws random numbers, that of its mean over the processes' draws. What
    normalises by batch statistics inside of the student still sees its own images only.
    """

    def every(tensor: Tensor) -> Tensor:
        gathered = torch.as_tensor(fabric.all_gather(tensor, sync_grads=tensor.requires_grad))
        return gathered.flatten(0, 1) if fabric.world_size > 1 else gathered

    def output(own: ModelOutput) -> ModelOutput:
        return ModelOutput(every(own.logits), {name: every(value) for name, value in own.features.items()})

    def join(
        student: ModelOutput, teacher: ModelOutput, batch: Batch
    ) -> tuple[ModelOutput, ModelOutput, Batch]:
        extras = {name: every(value) for name, value in batch.extras.items()}
        images, labels, indices = map(every, (batch.images, batch.labels, batch.indices))
        return output(student), output(teacher), Batch(images, labels, indices, extras)

    return join
