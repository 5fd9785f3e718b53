"""Student and objective in one forward pass."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.models import FeatureModel
from topokd_lib.objectives.base import Objective, WeightedSum
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.training.diagnostics import GradientProbe

__all__ = ["Distiller"]


class Distiller(nn.Module):
    """Everything that is trained, so that one wrapper of Fabric sees all of it.

    Distributed training averages the gradients of one module's forward pass. A connector or a memory that
    lived outside of it would silently differ between processes.

    Args:
        student: The network.
        objective: What it should learn; also decides which of its features are kept.
        loss: Minimised in place of the objective, by a stage that comes before the main training.
        probe: Measures the gradients of the objective's terms, if it is a weighted sum.
    """

    def __init__(
        self,
        student: FeatureModel,
        objective: Objective,
        loss: Callable[[ModelOutput, ModelOutput, Batch], Tensor] | None = None,
        probe: GradientProbe | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.stage_loss = loss
        self.probe = probe

    def forward(
        self, batch: Batch, taught: ModelOutput
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]:
        """The loss, and the student's logits for the running accuracy.

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
            if probe is None or not isinstance(self.objective, WeightedSum):
                return loss(seen, target, batch), out.logits
            terms = self.objective.weighted(seen, target, batch)
            probe.measure(terms, out.features[probe.feature])
            return sum(terms.values(), start=seen.logits.new_zeros(())), out.logits
