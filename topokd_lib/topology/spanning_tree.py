"""The minimum spanning tree of a point cloud, whose edges are the deaths of its dimension 0.

Reference:
    R. C. Prim. Shortest connection networks and some generalizations. 1957. [prim1957shortest]
    J. C. Gower, G. J. S. Ross. Minimum spanning trees and single linkage cluster analysis. 1969.
    [gower1969mst]
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology.prim import CHUNK, prim

__all__ = ["check_points", "edge_lengths", "h0_deaths", "minimum_spanning_tree", "mst_edges"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_ROUNDING = 1e-4
"""Triangles of a matrix that differ by less, relative to its largest distance, differ by roundings."""

_CHUNK = 2**18
"""Distances held at a time: 2 MB, so that memory does not grow with the batch."""

_CLOSE = 1e-2
"""Pairs closer than this share of the cloud's radius lose digits in the product formula."""


def check_points(points: Tensor) -> None:
    """Raise unless ``points`` is a batch of point clouds with at least one point each, all finite.

    Raises:
        InvalidPoints: With the first cloud and point that are wrong, counted from 0.
    """
    shape = tuple(points.shape)
    if points.ndim != 3:
        hint = "add a batch axis with points[None]" if points.ndim == 2 else "flatten the features of a point"
        raise InvalidPoints(f"point clouds have the axes (batch, points, dim), got shape {shape}; {hint}")
    if not points.is_floating_point():
        raise InvalidPoints(f"points have real coordinates, got {points.dtype}; convert with points.float()")
    if 0 in shape:
        raise InvalidPoints(f"there is nothing in point clouds of shape {shape}: no axis may be 0")
    finite = points.detach().isfinite()
    if not finite.all():
        cloud, point, axis = (int(i) for i in (~finite).nonzero()[0])
        value = points[cloud, point, axis].item()
        raise InvalidPoints(
            f"coordinates must be finite: cloud {cloud}, point {point} has {value} on axis {axis} "
            f"({int((~finite).sum())} such values in all); look for an exploding network or a division by 0"
        )


def edge_lengths(
    points: Float[Tensor, "batch points dim"], edges: Int[Tensor, "batch edges 2"]
) -> Float[Tensor, "batch edges"]:
    r"""Euclidean length of each edge, differentiable with respect to the points.

    The gradient is the unit vector along the edge at its two ends. An edge between equal points has the
    length 0 and the gradient 0, one of its subgradients, so that duplicates do not make a NaN. Half
    precision is measured in float32.

    Example:
        >>> edge_lengths(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[[0, 1], [1, 1]]]))
        tensor([[5., 0.]])
    """
    if points.dtype in (torch.float16, torch.bfloat16):
        points = points.float()
    start, end = (
        points.gather(1, ends[..., None].expand(-1, -1, points.shape[2])) for ends in edges.unbind(2)
    )
    difference = end - start
    # Dividing by the longest side first keeps squares from overflowing and vanishing.
    side = difference.detach().abs().amax(dim=2, keepdim=True)
    squared = (difference / side.masked_fill(side == 0, 1.0)).square().sum(dim=2)
    side = side.squeeze(2)
    return side * torch.sqrt(squared + (side == 0))


def mst_edges(distances: Float[Tensor, "batch points points"]) -> Int[Tensor, "batch edges 2"]:
    """Edges (i, j), i < j, of the minimum spanning tree of every complete graph, the shortest first.

    Of equally long edges the one that comes first in the order of (i, j) counts as shorter. So there is only
    one minimum spanning tree, the one that Kruskal's algorithm finds after a stable sort. ``m`` points give
    ``m - 1`` edges, also where distances are 0.

    The tree is chosen without gradient, on the CPU. Gather from the distances to have one.

    Args:
        distances: Symmetric matrices of any finite lengths of at least 0: they need not be distances in a
            space. The diagonal is not read.

    Raises:
        ValueError: If the matrices are not square, empty, not real, not finite, negative or not symmetric.
            Differences between the triangles that are roundings are allowed: the upper one counts.

    Example:
        Three sides of a square of four equal ones, in the order of their ends.

        >>> square = torch.tensor([[[0.0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]]])
        >>> mst_edges(square).tolist()
        [[[0, 1], [0, 3], [1, 2]]]
    """
    matrices = _checked_distances(distances)
    trees = []
    for part in matrices.split(max(1, CHUNK // matrices.shape[1] ** 2)):
        lengths = part.numpy()
        edges = prim(lengths, np.zeros(lengths.shape[:2], lengths.dtype), 1.0)
        trees.append(
            _shortest_first(edges, lengths[np.arange(len(edges))[:, None], edges[..., 0], edges[..., 1]])
        )
    return torch.from_numpy(np.concatenate(trees)).to(distances.device)


def _checked_distances(distances: Tensor) -> Tensor:
    """The matrices on the CPU, exactly symmetric, in float32 or float64; see :func:`mst_edges`."""
    shape = tuple(distances.shape)
    if distances.ndim != 3 or shape[1] != shape[2]:
        hint = "; add a batch axis with distances[None]" if distances.ndim == 2 else ""
        raise ValueError(f"distances are square matrices (batch, points, points), got shape {shape}{hint}")
    if 0 in shape:
        raise ValueError(f"there is nothing in distances of shape {shape}: no axis may be 0")
    if not distances.is_floating_point():
        raise ValueError(f"distances are real, got {distances.dtype}; convert with distances.float()")
    matrices = distances.detach().cpu()
    if matrices.dtype != torch.float64:
        matrices = matrices.float()
    wrong = ~(matrices.isfinite() & (matrices >= 0))
    wrong.diagonal(dim1=1, dim2=2).fill_(False)  # noqa: FBT003
    if wrong.any():
        place = tuple(int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"distances are finite and at least 0: {matrices[place].item()} at (graph, i, j) = {place} "
            f"({int(wrong.sum())} such values in all)"
        )
    if not torch.equal(matrices, matrices.mT):
        gap = (matrices - matrices.mT).abs().amax(dim=(1, 2))
        uneven = gap > _ROUNDING * matrices.amax(dim=(1, 2))
        if uneven.any():
            graph = int(uneven.nonzero()[0])
            raise ValueError(
                f"distances are the same in both directions, but the triangles of graph {graph} differ by "
                f"{gap[graph].item():.3g}; symmetrise with (distances + distances.mT) / 2"
            )
        matrices = matrices.triu() + matrices.triu(1).mT
    return matrices.contiguous()


def _shortest_first(edges: IntArray, lengths: npt.NDArray[np.floating[Any]]) -> IntArray:
    order = np.lexsort((edges[..., 1], edges[..., 0], lengths), axis=1)
    return np.take_along_axis(edges, order[..., None], axis=1)


def minimum_spanning_tree(points: Float[Tensor, "batch points dim"]) -> Int[Tensor, "batch edges 2"]:
    """Edges of a Euclidean minimum spanning tree of every cloud, the shortest first.

    ``m`` points give ``m - 1`` edges; the end that is listed first was in the tree before the other. With
    ties there are several such trees, all with the same lengths; one of them is returned.

    The tree is chosen without gradient, on the CPU, in float64 and on centred clouds, by Prim's algorithm on
    whole batches: ``O(m²)`` per cloud. The common short cut, float32 distances by a matrix product, is off
    by a per cent for a cloud that lies a hundred units away from the origin.

    Raises:
        InvalidPoints: See :func:`check_points`.

    Example:
        >>> points = torch.tensor([[[0.0], [5.0], [1.0]]])
        >>> minimum_spanning_tree(points).tolist()
        [[[0, 2], [2, 1]]]
    """
    check_points(points)
    clouds = points.detach().cpu()
    chunk = max(1, _CHUNK // points.shape[1] ** 2)
    trees = [
        _prim(_squared_distances(clouds[start : start + chunk].double().numpy()))
        for start in range(0, len(clouds), chunk)
    ]
    return torch.from_numpy(np.concatenate(trees)).to(points.device)


def h0_deaths(points: Float[Tensor, "batch points dim"]) -> Float[Tensor, "batch edges"]:
    r"""Finite deaths of the Vietoris–Rips :math:`H_0`, ascending: exact, and differentiable.

    They are the lengths of the edges of a minimum spanning tree [gower1969mst], in the unit of the edge
    length (the radius convention halves them). Unlike in :func:`~topokd_lib.topology.rips.rips_diagrams`
    bars of length 0 are kept: ``m`` points always give ``m - 1`` deaths, so that clouds of equal size can be
    compared rank by rank.

    Differentiable wherever no two lengths are equal: the tree stays the same under small moves of the
    points. At ties the gradient is that of one of the trees.

    Raises:
        InvalidPoints: See :func:`check_points`.

    Example:
        The sides 3 and 4 of a right triangle join its corners; the hypotenuse comes too late.

        >>> h0_deaths(torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]]))
        tensor([[3., 4.]])
    """
    return edge_lengths(points, minimum_spanning_tree(points)).sort(dim=1).values


def _squared_distances(clouds: FloatArray) -> FloatArray:
    """Squared distances up to one factor per cloud, with a relative error of about 1e-11 at most."""
    x = clouds / np.maximum(np.abs(clouds).max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    x -= x.mean(axis=1, keepdims=True)
    norms = np.einsum("bpd,bpd->bp", x, x)
    squared: FloatArray = x @ x.transpose(0, 2, 1)
    squared *= -2
    squared += norms[:, :, None]
    squared += norms[:, None, :]
    diagonal = np.arange(x.shape[1])
    squared[:, diagonal, diagonal] = np.inf
    closest = squared.reshape(len(x), -1).min(axis=1)
    for cloud in np.flatnonzero(closest <= _CLOSE**2 * norms.max(axis=1)):
        squared[cloud] = squareform(pdist(x[cloud], "sqeuclidean"))
    return squared


def _prim(distances: FloatArray) -> npt.NDArray[np.int64]:
    """Prim's algorithm in two passes: the order in which points join, then the point each one joins."""
    batch, count, _ = distances.shape
    clouds = np.arange(batch)
    order = np.zeros((batch, count), dtype=np.int64)
    joined = np.zeros((batch, count))
    joined[:, 0] = np.inf
    nearest = np.maximum(distances[:, 0], joined)
    for step in range(1, count):
        new = nearest.argmin(axis=1)
        order[:, step] = new
        joined[clouds, new] = np.inf
        np.minimum(nearest, distances[clouds, new], out=nearest)
        np.maximum(nearest, joined, out=nearest)

    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(count)[None], axis=1)
    before = np.where(rank[:, None, :] < rank[:, :, None], distances, np.inf)
    children = order[:, 1:]
    parents = np.take_along_axis(before.argmin(axis=2), children, axis=1)
    lengths = distances[clouds[:, None], parents, children]
    edges = np.stack([parents, children], axis=2)
    return np.take_along_axis(edges, lengths.argsort(axis=1, kind="stable")[:, :, None], axis=1)
