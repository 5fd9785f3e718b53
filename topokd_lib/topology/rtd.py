"""Representation topology divergence: what changes when the student's graph is laid over the teacher's.

Reference:
    S. Barannikov, I. Trofimov, N. Balabin, E. Burnaev. Representation Topology Divergence: A Method for
    Comparing Neural Network Representations. ICML 2022. [barannikov2022rtd]
    I. Trofimov et al. Learning Topology-Preserving Data Representations. ICLR 2023. [trofimov2023rtdae]
    E. Tulchinskii et al. RTD-Lite. AISTATS 2025. [tulchinskii2025rtdlite]
"""

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.checks import check_matrix
from topokd_lib.topology.distance_matrices import (
    check_same_samples,
    edge_weights,
    pairwise_distances,
    scale_distances,
)
from topokd_lib.topology.spanning_tree import mst_edges

__all__ = ["cross_barcode", "rtd1", "rtd_lite_barcode"]


def rtd1(
    student: Float[Tensor, "points student_dim"],
    teacher: Float[Tensor, "points teacher_dim"],
    *,
    normalise: Literal["quantile", "mean", "max", "none"] = "quantile",
    engine: Literal["auto", "giotto-ph", "gudhi"] = "auto",
) -> Float[Tensor, ""]:
    r"""The divergence in dimension 1, symmetrised: half the length of all bars of both cross-barcodes.

    .. math:: \mathrm{RTD}_1 = \frac{1}{2} \sum_{(b, d) \in \mathcal{B}_1(T, S)} (d - b)
              + \frac{1}{2} \sum_{(b, d) \in \mathcal{B}_1(S, T)} (d - b)

    It sees labelled components *and* loops, and it is never smaller than RTD-Lite, which sees the components
    alone; 0 if the distances are equal, and not only then. Differentiable with respect to the student, but
    meant for evaluation: the cost is that of the loops of twice as many points, and its gradient touches few
    of the teacher's edges.

    Args:
        student: One point per image.
        teacher: The same images; no gradient flows into them.
        normalise: The unit of the distances, see :func:`~topokd_lib.topology.scale_distances`.
        engine: See :func:`cross_barcode`.

    Raises:
        TypeError: If student or teacher are not tensors.
        ImportError: If giotto-ph is asked for and not installed.
        ValueError: If the numbers of points differ, there are fewer than two, or an option is unknown.
        InvalidPoints: If a coordinate is not finite.

    Differs from:
        The code of the loss (danchern97/RTD_AE) keeps the 50 longest bars and reads some deaths from another
        matrix to spread the gradient, which makes its value depend on the order of ties; this is its exact
        form. IlyaTrofimov/RTD averages over ten subsets of 500 points.

    Example:
        Three images on a line, the last two exchanged: no loop, so this is RTD-Lite.

        >>> teacher, student = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [1.0]])
        >>> rtd1(student, teacher, normalise="none").item(), rtd1(teacher, teacher).item()
        (1.0, 0.0)
    """
    check_same_samples(student, teacher, "RTD")
    a = scale_distances(pairwise_distances(teacher.detach()), normalise)
    b = scale_distances(pairwise_distances(student), normalise)
    both = [cross_barcode(a, b, engine=engine), cross_barcode(b, a, engine=engine)]
    return torch.stack([(bars[:, 1] - bars[:, 0]).sum() for bars in both]).sum() / 2


def cross_barcode(
    first: Float[Tensor, "points points"],
    second: Float[Tensor, "points points"],
    *,
    engine: Literal["auto", "giotto-ph", "gudhi"] = "auto",
) -> Float[Tensor, "bars 2"]:
    r"""R-Cross-Barcode of dimension 1, from the graph ``first`` to the union of both; differentiable.

    Bars of the flag complex of the doubled graph, with the first graph glued to its minimum with the second:

    .. math:: \begin{pmatrix} 0 & a \\ a & \min(a, b) \end{pmatrix}

    Homology is taken modulo 2. Births and deaths are in the unit of the distances.

    Args:
        first: Distances :math:`a` between the points, symmetric.
        second: Distances :math:`b` between the same points.
        engine: ``"giotto-ph"`` (``pip install 'topokd-lib[giotto]'``), ``"gudhi"``, a hundred times slower at
            64 points, or ``"auto"``: the first where it is installed.

    Returns:
        Birth and death of every bar of positive length, in the order of birth.

    Raises:
        TypeError: If the distances are not tensors.
        ImportError: If giotto-ph is asked for and not installed.
        ValueError: If the distances are not two symmetric matrices of one size, of finite numbers of at least
            0, or there is no such engine.

    Example:
        Three images on a line, the last two exchanged.

        >>> teacher, student = (
        ...     pairwise_distances(torch.tensor(places))
        ...     for places in ([[0.0], [1.0], [3.0]], [[0.0], [3.0], [1.0]])
        ... )
        >>> cross_barcode(teacher, student)
        tensor([[1., 2.]])
    """
    _check_graphs(first, second)
    a, c = first, torch.minimum(first, second)
    doubled = torch.cat([torch.cat([torch.zeros_like(a), a], dim=1), torch.cat([a, c], dim=1)])
    edges = torch.from_numpy(_generators(doubled.detach().cpu().double().numpy(), engine)).to(a.device)
    bars = torch.stack([edge_weights(doubled, edges[:, :2]), edge_weights(doubled, edges[:, 2:])], dim=1)
    bars = bars[bars[:, 1] > bars[:, 0]]
    return bars[bars[:, 0].argsort(stable=True)]


def rtd_lite_barcode(
    first: Float[Tensor, "points points"], second: Float[Tensor, "points points"]
) -> Float[Tensor, "bars 2"]:
    """Cross-barcode of RTD-Lite from the graph ``first`` to the union of both.

    Each edge of the tree of the union, in the order of length, gives birth to a bar; it dies when the first
    graph, in which the earlier of these edges are contracted, connects its ends. The lengths add up to the
    weight of the first tree minus that of the union's.

    Args:
        first: Distances between the points, symmetric.
        second: Likewise, between the same points.

    Returns:
        Birth and death of every bar of positive length, in the order of birth, in the unit of the distances;
        none for a single point.

    Raises:
        TypeError: If the distances are not tensors.
        ValueError: See :func:`cross_barcode`.

    Example:
        >>> teacher, student = torch.tensor([[0.0, 3.0], [3.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> rtd_lite_barcode(teacher, student)
        tensor([[1., 3.]])
    """
    _check_graphs(first, second)
    union = torch.minimum(first, second)
    tree, other = mst_edges(union[None])[0], mst_edges(first[None])[0].tolist()
    births, deaths = edge_weights(union, tree), []
    lengths = edge_weights(first, mst_edges(first[None])[0])
    contracted: list[tuple[int, int]] = []
    for u, v in tree.tolist():
        deaths.append(lengths[_connecting(contracted, other, u, v, len(first))])
        contracted.append((u, v))
    bars = torch.stack([births, torch.stack(deaths)], dim=1)
    return bars[bars[:, 1] > bars[:, 0]]


def _check_graphs(first: Tensor, second: Tensor) -> None:
    for distances in (first, second):
        check_matrix("distances", distances)
    if first.shape != second.shape:
        raise ValueError(
            f"two graphs on the same points have distance matrices of one shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}"
        )


def _connecting(contracted: list[tuple[int, int]], other: list[list[int]], u: int, v: int, count: int) -> int:
    """Index of the edge of a tree, in order of length, that first connects u and v after the contraction."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, two in contracted:
        parent[root(one)] = root(two)
    for index, (one, two) in enumerate(other):
        parent[root(one)] = root(two)
        if root(u) == root(v):
            return index
    raise AssertionError("a spanning tree connects everything")


def _generators(lengths: npt.NDArray[np.float64], engine: str) -> npt.NDArray[np.int64]:
    """Per finite bar of dimension 1 the edge it is born with and the edge it dies with."""
    match engine:
        case "giotto-ph":
            return _giotto(lengths)
        case "gudhi":
            return _gudhi(lengths)
        case "auto":
            try:
                return _giotto(lengths)
            except ImportError:
                return _gudhi(lengths)
    raise ValueError(f"there is no engine {engine!r}; known: auto, giotto-ph, gudhi")


def _giotto(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    try:
        from gph import ripser_parallel
    except ModuleNotFoundError as error:
        raise ImportError(
            "the engine 'giotto-ph' is not installed: pip install 'topokd-lib[giotto]', or engine='gudhi'"
        ) from error
    found = ripser_parallel(lengths, maxdim=1, coeff=2, metric="precomputed", return_generators=True)
    finite = found["gens"][1]
    edges = finite[0] if len(finite) else np.empty((0, 4))
    return np.asarray(edges, dtype=np.int64).reshape(-1, 4)


def _gudhi(lengths: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    from gudhi import SimplexTree

    # From the enclosing radius on one vertex is joined to all others: a cone, where nothing changes.
    tree = SimplexTree.create_from_array(lengths, max_filtration=lengths.max(axis=1).min())
    tree.expansion(2)
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=tree.dimension() <= 1)
    regular = tree.flag_persistence_generators()[1]
    return np.asarray(regular[0] if regular else np.empty((0, 4)), dtype=np.int64).reshape(-1, 4)
