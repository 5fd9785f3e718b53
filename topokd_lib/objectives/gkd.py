"""Graph-based distillation (GKD): copy the similarity graphs that a batch of images forms in each block.

Reference:
    C. Lassance et al. Deep Geometric Knowledge Distillation with Graphs. ICASSP 2020. [lassance2020gkd]
Explained in:
    book/reference/objectives.md
Differs from:
    RKD (:mod:`topokd_lib.objectives.rkd`) compares Euclidean distances, and angles seen from each image; here
    it is the angle seen from the origin, and the relation is divided by the degrees of both ends instead of
    the mean. The two are 0 together for directions that differ by a rotation. Otherwise GKD vanishes
    if all cosines agree up to one factor, and RKD-D if all distances do.
    SP (:mod:`topokd_lib.objectives.sp`) has products instead of cosines, keeps the diagonal, and divides rows
    by their norm.
    Two other methods are called GKD as well: one for graph neural networks, one for language models.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import common_stages, require_images
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.topology import cosine_graph, nearest_neighbours, normalised_adjacency

__all__ = ["GKD", "graph_loss", "similarity_graphs"]

Edges = Literal["all", "same-class", "other-class"]
Reduction = Literal["sum", "mean"]


def similarity_graphs(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"] | None = None,
    *,
    neighbours: int | None = None,
    edges: Edges = "all",
    power: int = 1,
) -> tuple[Float[Tensor, "batch batch"], Float[Tensor, "batch batch"]]:
    r"""The graphs of student and teacher, as matrices to compare.

    .. math:: P = (\hat A \circ S \circ M)^p, \qquad \hat A = D^{-1/2} A D^{-1/2}, \qquad
              A_{ij} = \cos \angle(f_i, f_j) \; (i \ne j)

    :math:`\hat A` is normalised over the whole batch. :math:`S` keeps the edges within classes, or between
    them. :math:`M` keeps the edges that the teacher's strongest neighbours name, and **the student gets the
    teacher's** :math:`M`: a neighbour that only the student has costs nothing. Nothing is normalised again
    afterwards.

    With all edges, :math:`p \ge 2` compares little but degrees: :math:`\hat A^p` tends to
    :math:`\sqrt{d} \sqrt{d}^\top / \sum_i d_i`, and on trained networks it is there at :math:`p = 2`.

    Args:
        student: Gradients flow into this feature; maps are flattened.
        teacher: The target; no gradient flows into it. Its shape may differ but for the batch.
        labels: Needed unless ``edges`` is ``"all"``.
        neighbours: How many edges every image of the teacher names; ``None`` keeps all.
        edges: ``"all"``, those of the ``"same-class"``, or those with an ``"other-class"``.
        power: The exponent :math:`p`: similarity along paths of that many edges.

    Raises:
        ValueError: If there are fewer than two images, or labels are needed and missing.

    Example:
        Two images of one class and one of another; the student sees the third between the others.

        >>> teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> for graph in similarity_graphs(student, teacher):
        ...     print(graph[2].round(decimals=4).tolist())
        [0.707..., 0.707..., 0.0]
        [0.0, 0.0, 0.0]
    """
    require_images("GKD", len(student))
    graphs = [normalised_adjacency(cosine_graph(f.flatten(1))) for f in (student, teacher.detach())]
    if edges != "all":
        if labels is None:
            raise ValueError(f"GKD with edges={edges!r} has to know the labels of the images, got none")
        same = labels[:, None] == labels[None, :]
        graphs = [graph * (same if edges == "same-class" else ~same) for graph in graphs]
    if neighbours is not None:
        kept = nearest_neighbours(graphs[1], neighbours)
        graphs = [graph * kept for graph in graphs]
    of_student, of_teacher = (torch.linalg.matrix_power(graph, power) for graph in graphs)
    return of_student, of_teacher


def graph_loss(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    labels: Int[Tensor, " batch"] | None = None,
    *,
    neighbours: int | None = None,
    edges: Edges = "all",
    power: int = 1,
    reduction: Reduction = "sum",
) -> Float[Tensor, ""]:
    r"""Squared difference of the two graphs of :func:`similarity_graphs`.

    .. math:: L_\mathrm{sum} = \sum_{i,j} (P^S_{ij} - P^T_{ij})^2, \qquad
              L_\mathrm{mean} = \frac{1}{B^2} L_\mathrm{sum}

    With all edges and :math:`p = 1` the sum is the squared Frobenius distance of the normalised Laplacians,
    and bounds the squared :func:`~topokd_lib.topology.spectral_distance` of the two graphs.

    Args:
        student: Gradients flow into this feature; maps are flattened.
        teacher: The target; no gradient flows into it.
        labels: Needed unless ``edges`` is ``"all"``.
        neighbours: See :func:`similarity_graphs`.
        edges: See :func:`similarity_graphs`.
        power: See :func:`similarity_graphs`.
        reduction: ``"sum"``, as in the code that made the published weights, or ``"mean"``, as in the code of
            the time of submission. With 128 images that is a factor of 16,384 under the same weight of 25.

    Differs from:
        The official code (cadurosar/graph_kd, utils.py) has the same values; ``k = 128`` there is
        ``neighbours=None`` here. It divides by 0 where an image is similar to none, and is not defined for
        features below 0; here such an image has no edges and obtuse angles count as 0. In its first
        version the power was computed and not used, so that an ablation over it compares equal losses.
    """
    of_student, of_teacher = similarity_graphs(
        student, teacher, labels, neighbours=neighbours, edges=edges, power=power
    )
    squares = (of_student - of_teacher).square()
    return squares.sum() if reduction == "sum" else squares.mean()


class GKD(Objective):
    r"""Mean of :func:`graph_loss` over the blocks.

    .. math:: L = \frac{1}{|\Lambda|} \sum_{\ell \in \Lambda} \lVert P^S_\ell - P^T_\ell \rVert_F^2

    Graphs are those of one device's batch; with several devices each compares its own share.

    Args:
        pair: The two networks.
        student_features: The student's blocks. By default, as in the official code, every stage but the last,
            and the pooled vector in its place.
        teacher_features: The teacher's, in the same order; by default those of the same names.
        neighbours: Edges that every image of the teacher names; ``None``, as in the published weights, keeps
            all.
        edges: Which edges count.
        power: Exponent of the graphs.
        reduction: Sum or mean over all pairs of images.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, the features do not pair up, a batch has fewer than two images, or
            a number is out of range.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
        neighbours: int | None = None,
        edges: Edges = "all",
        power: int = 1,
        reduction: Reduction = "sum",
    ) -> None:
        super().__init__()
        pair.require_teacher("GKD")
        require_images("GKD", pair.batch_size)
        blocks = (*common_stages(pair)[:-1], "pooled")
        self.student_features = student_features or teacher_features or blocks
        self.teacher_features = teacher_features or self.student_features
        if len(self.student_features) != len(self.teacher_features):
            raise ValueError(
                f"GKD compares blocks two by two and got {len(self.student_features)} of the student "
                f"({', '.join(self.student_features)}) and {len(self.teacher_features)} of the teacher "
                f"({', '.join(self.teacher_features)}); name equally many"
            )
        for student, teacher in zip(self.student_features, self.teacher_features, strict=True):
            pair.shapes(student=student, teacher=teacher)
        if neighbours is not None and not 1 <= neighbours < pair.batch_size:
            raise ValueError(
                f"an image has {pair.batch_size - 1} others in its batch to choose neighbours from, got "
                f"neighbours={neighbours}; name fewer, or none to keep all edges"
            )
        if power < 1:
            raise ValueError(f"a graph is raised to a power of at least 1, got power={power}")
        for name, value, known in (("edges", edges, Edges), ("reduction", reduction, Reduction)):
            if value not in get_args(known):
                raise ValueError(f"{name} is one of {', '.join(get_args(known))}, got {value!r}")
        self.neighbours = neighbours
        self.edges: Edges = edges
        self.power = power
        self.reduction: Reduction = reduction

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        losses = [
            graph_loss(
                student[ours],
                teacher[theirs],
                batch.labels,
                neighbours=self.neighbours,
                edges=self.edges,
                power=self.power,
                reduction=self.reduction,
            )
            for ours, theirs in zip(self.student_features, self.teacher_features, strict=True)
        ]
        return torch.stack(losses).mean()
