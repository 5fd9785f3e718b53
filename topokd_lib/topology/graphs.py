"""Similarity graphs of point clouds, and what their Laplacian says: spectrum and smoothness of signals.

Vertices are the points of a cloud and edges weigh how alike two points are. The components that such a graph
has when only its strongest edges are kept are those of H0; here all edges count, by their weight.

Reference:
    D. Shuman et al. The Emerging Field of Signal Processing on Graphs. 2013. [shuman2013emerging]
    F. Chung. Spectral Graph Theory. 1997, §1.2. [chung1997spectral]
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from topokd_lib.topology.checks import check_matrix, check_reals, is_whole

__all__ = [
    "cosine_graph",
    "graph_spectrum",
    "nearest_neighbours",
    "normalised_adjacency",
    "normalised_laplacian",
    "signal_smoothness",
    "spectral_distance",
]


def cosine_graph(points: Float[Tensor, "vertices dim"]) -> Float[Tensor, "vertices vertices"]:
    r"""Cosine of the angle between any two points, seen from the origin; no vertex is joined to itself.

    .. math:: A_{ij} = \max(0, \cos \angle(x_i, x_j)) \text{ for } i \ne j, \qquad A_{ii} = 0

    Points at an obtuse angle are not joined: a weight below 0 has no meaning as a similarity, and degrees
    would no longer be positive. What a ReLU has passed has no obtuse angles. A point at the origin has no
    direction, is not joined to any other, and gets no gradient.

    Raises:
        TypeError: If the points are not a tensor.
        ValueError: If they are not one cloud of shape (vertices, dim), not real or not finite, or fewer than
            two.

    Example:
        >>> cosine_graph(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])).round(decimals=4)
        tensor([[0.0000, 0.0000, 0.7071],
                [0.0000, 0.0000, 0.7071],
                [0.7071, 0.7071, 0.0000]])
    """
    check_reals("points", points, "vertices", "dim")
    count = len(points)
    if count < 2:
        raise ValueError(f"a graph of similarities needs at least 2 points, got {count}")
    lengths: Tensor = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    directions = points / lengths.masked_fill(lengths == 0, torch.inf)
    cosines = directions @ directions.T
    itself = torch.eye(count, dtype=torch.bool, device=points.device)
    # Neither relu nor clamp: both stop the gradient at 0, and points at a right angle may become more alike.
    return cosines.masked_fill((cosines < 0) | itself, 0.0)


def normalised_adjacency(
    adjacency: Float[Tensor, "vertices vertices"],
) -> Float[Tensor, "vertices vertices"]:
    r"""Weights divided by the square roots of both ends' degrees.

    .. math:: \hat A = D^{-1/2} A D^{-1/2}, \qquad D_{ii} = \sum_j A_{ij}

    Its eigenvalues lie between −1 and 1, and do not change if all weights are multiplied by a number. A
    vertex without edges keeps its zeros.

    Raises:
        TypeError: If the weights are not a tensor.
        ValueError: If they are not a symmetric matrix of finite numbers of at least 0.

    Example:
        >>> path = torch.tensor([[0.0, 2.0, 0.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
        >>> normalised_adjacency(path)[0].round(decimals=4)
        tensor([0.0000, 0.7071, 0.0000])
    """
    check_matrix("weights", adjacency)
    return _normalised(adjacency)


def _normalised(adjacency: Tensor) -> Tensor:
    degrees = adjacency.sum(dim=1)
    inverse = degrees.masked_fill(degrees <= 0, torch.inf).rsqrt()
    return adjacency * torch.outer(inverse, inverse)


def nearest_neighbours(
    adjacency: Float[Tensor, "vertices vertices"], count: int
) -> Bool[Tensor, "vertices vertices"]:
    """Which edges remain if every vertex names its ``count`` strongest; one end is enough.

    Only edges of positive weight are named, so a vertex with few of them names all it has.

    Raises:
        TypeError: If the weights are not a tensor.
        ValueError: See :func:`normalised_adjacency`; or if ``count`` is not a whole number from 1 on.

    Example:
        The first two vertices name each other, and the third names the second:

        >>> weights = torch.tensor([[0.0, 0.9, 0.1], [0.9, 0.0, 0.3], [0.1, 0.3, 0.0]])
        >>> nearest_neighbours(weights, 1).int()
        tensor([[0, 1, 0],
                [1, 0, 1],
                [0, 1, 0]], dtype=torch.int32)
    """
    check_matrix("weights", adjacency)
    if not is_whole(count, 1):
        raise ValueError(f"a vertex keeps at least one neighbour, got {count!r}")
    strongest = adjacency.topk(min(count, len(adjacency)), dim=1).indices
    named = torch.zeros_like(adjacency, dtype=torch.bool).scatter_(1, strongest, value=True) & (adjacency > 0)
    return named | named.T


def normalised_laplacian(
    adjacency: Float[Tensor, "vertices vertices"],
) -> Float[Tensor, "vertices vertices"]:
    r"""The symmetric normalised Laplacian.

    .. math:: L = I - D^{-1/2} A D^{-1/2}

    A vertex without edges has a zero on the diagonal as well, as in ``scipy.sparse.csgraph.laplacian``, so
    that the number of zero eigenvalues is the number of components.

    Raises:
        TypeError: If the weights are not a tensor.
        ValueError: See :func:`normalised_adjacency`.

    Example:
        >>> normalised_laplacian(torch.tensor([[0.0, 4.0], [4.0, 0.0]]))
        tensor([[ 1., -1.],
                [-1.,  1.]])
    """
    check_matrix("weights", adjacency)
    joined = (adjacency.sum(dim=1) > 0).to(adjacency.dtype)
    return torch.diag(joined) - _normalised(adjacency)


def graph_spectrum(adjacency: Float[Tensor, "vertices vertices"]) -> Float[Tensor, " vertices"]:
    """Eigenvalues of the normalised Laplacian, ascending, between 0 and 2.

    There is one 0 for each component; small ones after that are components that hang together by little.
    Half precision is computed in float32.

    Raises:
        TypeError: If the weights are not a tensor.
        ValueError: See :func:`normalised_adjacency`.

    Example:
        Two pairs of vertices that have nothing to do with each other:

        >>> pair = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> graph_spectrum(torch.block_diag(pair, pair)).round(decimals=4).abs()
        tensor([0., 0., 2., 2.])
    """
    laplacian = normalised_laplacian(adjacency)
    single = laplacian.to(torch.promote_types(laplacian.dtype, torch.float32))
    eigenvalues: Tensor = torch.linalg.eigvalsh(single)
    return eigenvalues


def spectral_distance(
    first: Float[Tensor, "vertices vertices"], second: Float[Tensor, "vertices vertices"]
) -> Float[Tensor, ""]:
    r"""Euclidean distance of the sorted spectra of two graphs with equally many vertices.

    .. math:: \Big( \sum_i (\lambda_i(L) - \lambda_i(L'))^2 \Big)^{1/2} \le \lVert L - L' \rVert_F

    The bound is the inequality of Hoffman and Wielandt. The spectrum does not know which vertex is which, so
    this distance compares shapes where the right-hand side compares the same points.

    Raises:
        TypeError: If one is not a tensor.
        ValueError: See :func:`normalised_adjacency`; or if the numbers of vertices differ.

    Example:
        >>> triangle = torch.ones(3, 3) - torch.eye(3)
        >>> path = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> round(spectral_distance(triangle, path).item(), 4)
        0.7071
    """
    spectra = graph_spectrum(first), graph_spectrum(second)
    if len(spectra[0]) != len(spectra[1]):
        raise ValueError(
            f"spectra are compared of graphs with equally many vertices, got {len(spectra[0])} and "
            f"{len(spectra[1])}"
        )
    difference = spectra[0] - spectra[1]
    distance: Tensor = torch.linalg.vector_norm(difference)
    return distance


def signal_smoothness(
    adjacency: Float[Tensor, "vertices vertices"], signals: Float[Tensor, "vertices signals"]
) -> Float[Tensor, " signals"]:
    r"""How much each signal changes along the edges of a graph, between 0 (not at all) and 2.

    .. math:: \frac{x^\top L x}{x^\top x} = \frac{1}{2 \, x^\top x} \sum_{i,j} A_{ij}
              \Big( \frac{x_i}{\sqrt{D_{ii}}} - \frac{x_j}{\sqrt{D_{jj}}} \Big)^2

    If the signals are the indicators of classes, low values mean that like is joined with like.

    Args:
        adjacency: Weights of the edges.
        signals: A number for every vertex, one signal per column.

    Raises:
        TypeError: If weights or signals are not tensors.
        ValueError: See :func:`normalised_adjacency`; or if the signals are not finite real numbers, one for
            each vertex, or a signal is 0 at every vertex: nothing can be said of a class that has no point.

    Example:
        Two pairs; labels that agree with them are perfectly smooth, others are not:

        >>> pair = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> labels = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> signal_smoothness(torch.block_diag(pair, pair), labels)
        tensor([0., 1.])
    """
    laplacian = normalised_laplacian(adjacency)
    check_reals("signals", signals, "vertices", "signals")
    if len(signals) != len(laplacian):
        raise ValueError(
            f"a signal has a number for each of the {len(laplacian)} vertices, got signals of shape "
            f"{tuple(signals.shape)}"
        )
    sizes = signals.square().sum(dim=0)
    if (empty := (sizes == 0).nonzero().flatten()).numel():
        raise ValueError(
            f"signal {int(empty[0])} is 0 at every vertex and has no smoothness; leave out classes without a "
            f"point"
        )
    return (signals * (laplacian @ signals)).sum(dim=0) / sizes
