"""RTD-Lite: laid over each other, the student's and the teacher's graph connect nothing earlier than alone.

Reference:
    E. Tulchinskii, D. Voronkova, I. Trofimov, E. Burnaev, S. Barannikov. RTD-Lite: Scalable Topological
    Analysis for Comparing Weighted Graphs in Learning Tasks. AISTATS 2025. [tulchinskii2025rtdlite]
Explained in:
    book/reference/objectives.md
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import average_pixels, require_images
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.topology import (
    check_same_samples,
    edge_weights,
    mst_edges,
    pairwise_distances,
    scale_distances,
)

__all__ = ["RTDLite", "rtd_lite_loss"]

Mode = Literal["min", "max", "minmax"]
Normalise = Literal["quantile", "mean", "max", "none"]


def rtd_lite_loss(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    mode: Mode = "min",
    normalise: Normalise = "quantile",
) -> Float[Tensor, ""]:
    r"""How much shorter the spanning tree of the merged graph is than those of the two.

    .. math:: L_{\min} = \frac{w(a) + w(b)}{2} - w(\min(a, b)), \qquad
              L_{\max} = w(\max(a, b)) - \frac{w(a) + w(b)}{2}

    with the distances :math:`a` of the teacher and :math:`b` of the student, in units of their own,
    minimum and maximum entry by entry, and the total weight :math:`w` of a minimum spanning tree. Both are at
    least 0, and ``"minmax"`` is their sum. :math:`L_{\min}` is the mean length of the bars of the
    cross-barcodes from the teacher to the student and back; it is 0 if and only if the single-linkage
    dendrograms are equal, labels included.

    The gradient of :math:`L_{\min}` shortens or lengthens edges of the student's own tree; the teacher
    decides only which. Images that are near in the teacher and far in the student are not pulled together:
    from a poor start it stalls. :math:`L_{\max}` does pull.

    Args:
        student: Gradients flow into these.
        teacher: The target; no gradient flows into it.
        mode: ``"min"``, the published loss, ``"max"`` or ``"minmax"``.
        normalise: The unit of the distances; the official code takes ``"quantile"``.

    Raises:
        ValueError: If the numbers of points differ, there are fewer than two, or an option is unknown.
        InvalidPoints: If a coordinate is not finite.

    Differs from:
        The official code (ArGintum/RTD-Lite, RTD_Lite_summ_only) adds up in float32 whatever it is given; its
        distances of more than 25 points come from a matrix product and are off by 1e-3 for close points.

    Example:
        Three images on a line, the last two exchanged: both trees are 1 + 2 long, the merged one 1 + 1.

        >>> teacher, student = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [1.0]])
        >>> rtd_lite_loss(student, teacher, normalise="none").item()
        1.0
    """
    check_same_samples(student, teacher, "RTD-Lite")
    if mode not in ("min", "max", "minmax"):
        raise ValueError(f"RTD-Lite has no mode {mode!r}; known: min, max, minmax")
    a = scale_distances(pairwise_distances(teacher.detach()), normalise)
    b = scale_distances(pairwise_distances(student), normalise)
    if mode == "minmax":
        return _weight(torch.maximum(a, b)) - _weight(torch.minimum(a, b))
    alone = (_weight(a) + _weight(b)) / 2
    return alone - _weight(torch.minimum(a, b)) if mode == "min" else _weight(torch.maximum(a, b)) - alone


def _weight(distances: Float[Tensor, "points points"]) -> Float[Tensor, ""]:
    return edge_weights(distances, mst_edges(distances[None])[0]).sum()


class RTDLite(Objective):
    """:func:`rtd_lite_loss` of the features of a minibatch; maps are averaged over their pixels.

    Widths may differ: there is no connector, and nothing to prepare.

    Args:
        pair: The two networks.
        student_feature: The student's points.
        teacher_feature: The teacher's.
        mode: See :func:`rtd_lite_loss`.
        normalise: The unit of the distances.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, or a batch has fewer than two images.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        mode: Mode = "min",
        normalise: Normalise = "quantile",
    ) -> None:
        super().__init__()
        pair.require_teacher("RTDLite")
        require_images("RTDLite", pair.batch_size)
        pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.mode, self.normalise = mode, normalise

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return rtd_lite_loss(
            average_pixels(student[self.student_features[0]]),
            average_pixels(teacher[self.teacher_features[0]]),
            mode=self.mode,
            normalise=self.normalise,
        )
