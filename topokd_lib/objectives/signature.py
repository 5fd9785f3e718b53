"""The topological signature: the edges of both networks' spanning trees have the same length in both.

Reference:
    M. Moor, M. Horn, B. Rieck, K. Borgwardt. Topological Autoencoders. ICML 2020, §3. [moor2020topological]
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

__all__ = ["Signature", "signature_loss"]

Edges = Literal["both", "teacher", "student"]
Normalise = Literal["mean", "max", "none"]
Variant = Literal["mean_square", "topoae", "torch_topological"]

_VARIANTS = ("mean_square", "topoae", "torch_topological")
_EDGES = ("both", "teacher", "student")


def signature_loss(
    student: Float[Tensor, "batch student_dim"],
    teacher: Float[Tensor, "batch teacher_dim"],
    *,
    edges: Edges = "both",
    normalise: Normalise = "mean",
    variant: Variant = "mean_square",
) -> Float[Tensor, ""]:
    r"""Difference of the distances along the spanning trees of both clouds.

    .. math:: L = \frac{1}{m} \left(\lVert \Delta[\pi^T] \rVert_2^2 + \lVert \Delta[\pi^S] \rVert_2^2 \right),
              \qquad \Delta = D^T - D^S

    :math:`D^T, D^S` are the distances of the teacher's and of the student's points, each in units of its own
    (:func:`~topokd_lib.topology.scale_distances`), and :math:`\pi^T, \pi^S` the pairs of images that the
    minimum spanning trees join: all that dimension 0 of persistence knows. The first term gives the teacher's
    neighbours its distances, the second pushes false neighbours apart.

    Between matching all pairs (RKD) and matching sorted deaths, which names no pair: if the loss is 0, each
    tree is a minimum spanning tree of both clouds, and both have the same single-linkage dendrogram, labels
    included. It jumps where the student's tree changes.

    Args:
        student: Gradients flow into these.
        teacher: The target; no gradient flows into it.
        edges: Whose trees count; the teacher's alone leaves false neighbours where they are.
        normalise: The unit of the distances, ``"mean"``, ``"max"`` or ``"none"``.
        variant: ``"mean_square"`` is the formula above. The other two reproduce code and ignore
            ``normalise``; their weights cannot be compared. ``"topoae"``
            (BorgwardtLab/topological-autoencoders, match_edges="symmetric"): the formula above, the teacher's
            distances divided by their maximum and the student's by 1, the initial value of a factor that is
            trained there. ``"torch_topological"`` (aidos-lab/pytorch-topological, SignatureLoss): both
            divided by their maximum, and half the sum of the two norms, not squared.

    Raises:
        ValueError: If the numbers of points differ, there are fewer than two, or an option is unknown.
        InvalidPoints: If a coordinate is not finite.

    Differs from:
        The paper halves the sum and does not divide by :math:`m`; the official code divides and does not
        halve. At its default setting that code compares sorted lengths, without correspondence.

    Example:
        Three images on a line. The teacher joins 0–1 and 1–2, the student 0–2 and 2–1.

        >>> teacher, student = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [1.0]])
        >>> signature_loss(student, teacher, normalise="none").item()  # (4 + 0 + 4 + 0) / 3
        2.6666667461395264
    """
    check_same_samples(student, teacher, "the topological signature")
    for name, value, known in (("edges", edges, _EDGES), ("variant", variant, _VARIANTS)):
        if value not in known:
            raise ValueError(f"the signature has no {name}={value!r}; known: {', '.join(known)}")
    units: tuple[Literal["mean", "max", "none"], Literal["mean", "max", "none"]] = {
        "mean_square": (normalise, normalise),
        "topoae": ("none", "max"),
        "torch_topological": ("max", "max"),
    }[variant]
    found = scale_distances(pairwise_distances(student), units[0])
    target = scale_distances(pairwise_distances(teacher.detach()), units[1])
    trees = []
    if edges in ("both", "teacher"):
        trees.append(mst_edges(target[None])[0])
    if edges in ("both", "student"):
        trees.append(mst_edges(found[None])[0])
    gaps = [edge_weights(target, tree) - edge_weights(found, tree) for tree in trees]
    if variant == "torch_topological":
        return torch.stack([torch.linalg.vector_norm(gap) for gap in gaps]).sum() / 2
    return torch.stack([gap.square().sum() for gap in gaps]).sum() / len(student)


class Signature(Objective):
    """:func:`signature_loss` of the features of a minibatch; maps are averaged over their pixels.

    Widths may differ: there is no connector, and nothing to prepare.

    Args:
        pair: The two networks.
        student_feature: The student's points.
        teacher_feature: The teacher's.
        edges: Whose trees count, see :func:`signature_loss`.
        normalise: The unit of the distances.
        variant: The formula.

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
        edges: Edges = "both",
        normalise: Normalise = "mean",
        variant: Variant = "mean_square",
    ) -> None:
        super().__init__()
        pair.require_teacher("Signature")
        require_images("Signature", pair.batch_size)
        pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.edges, self.normalise, self.variant = edges, normalise, variant

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return signature_loss(
            average_pixels(student[self.student_features[0]]),
            average_pixels(teacher[self.teacher_features[0]]),
            edges=self.edges,
            normalise=self.normalise,
            variant=self.variant,
        )
