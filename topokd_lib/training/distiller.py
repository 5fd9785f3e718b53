"""Student and objective in one forward pass."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.models import FeatureModel
from topokd_lib.objectives.base import Objective
from topokd_lib.outputs import Batch, ModelOutput

__all__ = ["Distiller"]


class Distiller(nn.Module):
    """Everything that is trained, so that one wrapper of Fabric sees all of it.

    Distributed training averages the gradients of one module's forward pass. A connector or a memory that
    lived outside of it would silently differ between processes.

    Args:
        student: The network.
        objective: What it should learn; also decides which of its features are kept.
        loss: Minimised in place of the objective, by a stage that comes before the main training.
    """

    def __init__(
        self,
        student: FeatureModel,
        objective: Objective,
        loss: Callable[[ModelOutput, ModelOutput, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.stage_loss = loss

    def forward(
        self, batch: Batch, taught: ModelOutput
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch classes"]]:
        """The loss, and the student's logits for the running accuracy.

        This is the only place that knows of precision: whatever the networks compute in, a loss sees
        float32. Distances between features rounded to bfloat16 come out in another order, and the order is
        all that persistence is about.
        """
        out = self.student.extract(batch.images, self.objective.student_features)
        loss = self.stage_loss or self.objective
        with torch.autocast(out.logits.device.type, enabled=False):
            return loss(out.float(), taught.float(), batch), out.logits
