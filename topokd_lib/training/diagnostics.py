"""What a run can measure beside its losses: how each term pulls at the student, and anything once an epoch.

A weight says little about the influence of a term, because losses come in different units. Its gradient with
respect to the student's embedding, the last feature that all terms have in common, can be compared.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

__all__ = ["Diagnostics", "GradientProbe", "term_gradients"]


@dataclass(frozen=True)
class Diagnostics:
    """What is measured beside the losses; nothing by default.

    Args:
        gradients_every: Steps between two measurements of the terms' gradients; 0 takes none. Each costs a
            backward pass per term, from the loss to the embedding.
        reference: The term that the others are compared with; ``None``: the first.
        feature: The student's embedding.
        after_epoch: Called after every epoch, on the first process alone; its numbers go into the log.

    Raises:
        ValueError: If the number of steps is negative.
    """

    gradients_every: int = 0
    reference: str | None = None
    feature: str = "pooled"
    after_epoch: Callable[[], Mapping[str, float]] | None = None

    def __post_init__(self) -> None:
        if self.gradients_every < 0:
            raise ValueError(
                f"gradients are measured every so many steps, or never (0), got {self.gradients_every}"
            )


def term_gradients(
    losses: Mapping[str, Float[Tensor, ""]], embedding: Float[Tensor, "..."]
) -> dict[str, Float[Tensor, "..."]]:
    """Gradient of each loss with respect to the embedding; zero where a loss does not depend on it.

    The losses' graphs are kept, so that training can go on.
    """
    found = {}
    for name, loss in losses.items():
        gradient = None
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, embedding, retain_graph=True, allow_unused=True)
        found[name] = torch.zeros_like(embedding) if gradient is None else gradient
    return found


class GradientProbe:
    """Measures the gradients of the weighted terms at every so many steps, and averages over an epoch.

    Args:
        every: Steps between two measurements.
        names: The terms.
        reference: One of them; ``None``: the first.
        feature: The student's embedding.

    Raises:
        ValueError: If there is no term of the reference's name.
    """

    def __init__(
        self, every: int, names: tuple[str, ...], reference: str | None = None, feature: str = "pooled"
    ) -> None:
        self.reference = names[0] if reference is None else reference
        if self.reference not in names:
            raise ValueError(
                f"gradients are compared with those of a term, and there is none called "
                f"{self.reference!r}; terms are {', '.join(names)}"
            )
        self.every, self.names, self.feature = every, names, feature
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forget what was measured."""
        self._steps = 0
        self._sums: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """What was measured so far, in plain containers for a checkpoint."""
        return {"steps": self._steps, "sums": None if self._sums is None else self._sums.cpu()}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue where :meth:`state` was taken."""
        self._steps = state["steps"]
        self._sums = None if state["sums"] is None else state["sums"].to(device)

    def is_due(self) -> bool:
        """Whether this step is measured; ask once per step."""
        self._steps += 1
        return self._steps % self.every == 1 or self.every == 1

    def measure(self, losses: Mapping[str, Float[Tensor, ""]], embedding: Float[Tensor, "..."]) -> None:
        """Add one step; ``losses`` carry their weights."""
        gradients = term_gradients(losses, embedding)
        flat = torch.stack([gradients[name].flatten().float() for name in self.names])
        norms = torch.linalg.vector_norm(flat, dim=1)
        reference = self.names.index(self.reference)
        cosines = (flat @ flat[reference]) / (norms * norms[reference]).clamp(
            min=torch.finfo(flat.dtype).tiny
        )
        row = torch.cat([norms, cosines, norms.new_ones(1)])
        self._sums = row if self._sums is None else self._sums + row

    def read(self, fabric: Fabric) -> dict[str, float]:
        """Averages of the epoch over the measured steps of all processes, for the log.

        Returns:
            ``gradient/TERM`` is the mean norm, ``share/TERM`` that over the reference's, and ``cosine/TERM``
            the mean cosine of the angle to the reference's gradient.
        """
        if self._sums is None:
            return {}
        sums = torch.as_tensor(fabric.all_reduce(self._sums, reduce_op="sum"))
        means = (sums[:-1] / sums[-1]).tolist()
        norms = dict(zip(self.names, means[: len(self.names)], strict=True))
        cosines = dict(zip(self.names, means[len(self.names) :], strict=True))
        base = norms[self.reference]
        return (
            {f"gradient/{name}": norm for name, norm in norms.items()}
            | {f"share/{name}": norm / base for name, norm in norms.items() if base > 0}
            | {f"cosine/{name}": cosine for name, cosine in cosines.items()}
        )
