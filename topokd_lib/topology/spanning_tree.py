"""The minimum spanning tree of a point cloud, whose edges are the deaths of its dimension 0.

A tree is chosen on plain arrays, from inner products; the edges that were chosen are measured again, from
differences of coordinates, with gradient.

Reference:
    R. C. Prim. Shortest connection networks and some generalizations. 1957. [prim1957shortest]
    J. C. Gower, G. J. S. Ross. Minimum spanning trees and single linkage cluster analysis. 1969.
    [gower1969mst]
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from topokd_lib.errors import InvalidPoints
from topokd_lib.topology.checks import check_tensor
from topokd_lib.topology.prim import compiled, prim

__all__ = ["check_axes", "check_points", "edge_lengths", "h0_deaths", "minimum_spanning_tree", "mst_edges"]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

_CHUNK = 2**18
"""Numbers held at a time, of which all passes over them stay in the cache of a core."""

_ROUNDING = 1e-4
"""Triangles of a matrix that differ by less, relative to its largest distance, differ by roundings."""

_CLOSE = {np.dtype(np.float32): 1e-1, np.dtype(np.float64): 1e-4}
"""If the closest two points are nearer than this, as squares relative to the cloud's radius, products lose
the digits that tell distances apart: more than 1e-6 and 1e-11 of a distance."""


def check_points(points: Tensor) -> None:
    """Raise unless ``points`` is a batch of point clouds with at least one point each, all finite.

    Raises:
        InvalidPoints: With the first cloud and point that are wrong, counted from 0.

    Example:
        >>> check_points(torch.zeros(5, 2))
        Traceback (most recent call last):
        topokd_lib.errors.InvalidPoints: point clouds have the axes (batch, points, dim), got shape (5, 2); …
    """
    check_axes(points)
    if not torch.stack(points.detach().aminmax()).isfinite().all():  # NaN is the least and the greatest
        finite = points.detach().isfinite()
        cloud, point, axis = (int(i) for i in (~finite).nonzero()[0])
        value = points[cloud, point, axis].item()
        raise InvalidPoints(
            f"coordinates must be finite: cloud {cloud}, point {point} has {value} on axis {axis} "
            f"({int((~finite).sum())} such values in all); look for an exploding network or a division by 0"
        )


def check_axes(points: Any) -> None:
    """Raise InvalidPoints unless the axes and the type are right; coordinates are not looked at."""
    if not isinstance(points, Tensor):
        raise InvalidPoints(f"points are a tensor, got {type(points).__name__}; convert with torch.as_tensor")
    shape = tuple(points.shape)
    if points.ndim != 3:
        hint = "add a batch axis with points[None]" if points.ndim == 2 else "flatten the features of a point"
        raise InvalidPoints(f"point clouds have the axes (batch, points, dim), got shape {shape}; {hint}")
    if not points.is_floating_point():
        raise InvalidPoints(f"points have real coordinates, got {points.dtype}; convert with points.float()")
    if 0 in shape:
        raise InvalidPoints(f"there is nothing in point clouds of shape {shape}: no axis may be 0")


def edge_lengths(
    points: Float[Tensor, "batch points dim"], edges: Int[Tensor, "batch edges 2"]
) -> Float[Tensor, "batch edges"]:
    r"""Euclidean length of each edge, differentiable with respect to the points.

    The gradient is the unit vector along the edge at its two ends. An edge between equal points has the
    length 0 and the gradient 0, one of its subgradients, so that duplicates do not make a NaN. Half
    precision is measured in float32.

    Raises:
        InvalidPoints: If the axes or the type of the points are wrong; see :func:`check_points`.
        TypeError: If the edges are not a tensor.
        ValueError: If the edges are not pairs of whole numbers that count the points of as many clouds.

    Example:
        >>> edge_lengths(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[[0, 1], [1, 1]]]))
        tensor([[5., 0.]])
    """
    check_axes(points)
    check_tensor("edges", edges)
    batch, count, _ = points.shape
    if edges.ndim != 3 or edges.shape[0] != batch or edges.shape[2] != 2 or edges.dtype != torch.int64:
        raise ValueError(
            f"edges are pairs of int64 of shape ({batch}, edges, 2), one list for each cloud, got "
            f"{edges.dtype} of shape {tuple(edges.shape)}"
        )
    if edges.numel() and not (edges.min() >= 0 and edges.max() < count):
        raise ValueError(
            f"the ends of edges count points, here from 0 to {count - 1}, got {edges.min().item()} to "
            f"{edges.max().item()}"
        )
    return _lengths(points, edges)


def _lengths(points: Tensor, edges: Tensor) -> Tensor:
    if points.dtype in (torch.float16, torch.bfloat16):
        points = points.float()
    if points.device.type == "cpu" and compiled():
        lengths: Tensor = _EdgeLengths.apply(points, edges)
        return lengths
    return _edge_lengths(points, edges)


def _edge_lengths(points: Tensor, edges: Tensor) -> Tensor:
    start, end = (
        points.gather(1, ends[..., None].expand(-1, -1, points.shape[2])) for ends in edges.unbind(2)
    )
    difference = end - start
    # Dividing by the longest side first keeps squares from overflowing and vanishing.
    side = difference.detach().abs().amax(dim=2, keepdim=True)
    squared = (difference / side.masked_fill(side == 0, 1.0)).square().sum(dim=2)
    side = side.squeeze(2)
    return side * torch.sqrt(squared + (side == 0))


class _EdgeLengths(torch.autograd.Function):
    """:func:`_edge_lengths`, compiled, forward and backward."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, edges: Tensor) -> Tensor:
        lengths = points.new_empty(edges.shape[:2])
        compiled().measure_edges(_array(points), _array(edges), lengths.numpy())  # type: ignore[union-attr]
        ctx.save_for_backward(points, edges, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        points, edges, lengths = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this is wanted
            again = _edge_lengths(points, edges)
            return torch.autograd.grad(again, points, gradient, create_graph=True)[0], None
        pulled = torch.empty_like(points, memory_format=torch.contiguous_format)
        arrays = map(_array, (points, edges, lengths, gradient, pulled))
        compiled().pull_ends(*arrays)  # type: ignore[union-attr]
        return pulled, None


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().numpy())


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
    for part in matrices.split(max(1, _CHUNK // matrices.shape[1] ** 2)):
        lengths = part.numpy()
        edges = prim(lengths, np.zeros(lengths.shape[:2], lengths.dtype), 1.0)
        keys = lengths[np.arange(len(edges))[:, None], edges[..., 0], edges[..., 1]]
        order = np.lexsort((edges[..., 1], edges[..., 0], keys), axis=1)
        trees.append(np.take_along_axis(edges, order[..., None], axis=1))
    return torch.from_numpy(np.concatenate(trees)).to(distances.device)


def _checked_distances(distances: Any) -> Tensor:
    """The matrices on the CPU, exactly symmetric, in float32 or float64; see :func:`mst_edges`."""
    if not isinstance(distances, Tensor):
        kind = type(distances).__name__
        raise ValueError(f"distances are a tensor, got {kind}; convert with torch.as_tensor")  # noqa: TRY004
    shape = tuple(distances.shape)
    if distances.ndim != 3 or shape[1] != shape[2]:
        hint = "; add a batch axis with distances[None]" if distances.ndim == 2 else ""
        raise ValueError(f"distances are square matrices (batch, points, points), got shape {shape}{hint}")
    if 0 in shape:
        raise ValueError(f"there is nothing in distances of shape {shape}: no axis may be 0")
    if not distances.is_floating_point():
        raise ValueError(f"distances are real, got {distances.dtype}; convert with distances.float()")
    matrices: Tensor = distances.detach().cpu()
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


def minimum_spanning_tree(points: Float[Tensor, "batch points dim"]) -> Int[Tensor, "batch edges 2"]:
    """Edges (i, j), i < j, of a Euclidean minimum spanning tree of every cloud, the shortest first.

    ``m`` points give ``m - 1`` edges. With ties there are several such trees, all with the same lengths; one
    of them is returned.

    The tree is chosen without gradient, on the CPU, in ``O(m²)`` per cloud, from the inner products of the
    centred cloud, whose precision is that of the points. Where two points are so close together that
    products would not tell distances apart, the cloud is done again in float64, and where even that is not
    enough from differences. So a cloud that lies a hundred units away from the origin or that has duplicates
    keeps its digits, which the usual short cut loses.

    Raises:
        InvalidPoints: See :func:`check_points`.

    Example:
        >>> points = torch.tensor([[[0.0], [5.0], [1.0]]])
        >>> minimum_spanning_tree(points).tolist()
        [[[0, 2], [1, 2]]]
    """
    check_axes(points)
    return torch.cat([edges for _, edges, _ in _trees(points)])


def h0_deaths(points: Float[Tensor, "batch points dim"]) -> Float[Tensor, "batch edges"]:
    r"""Finite deaths of the Vietoris–Rips :math:`H_0`, ascending: exact, and differentiable.

    They are the lengths of the edges of a minimum spanning tree [gower1969mst], in the unit of the edge
    length (the radius convention halves them). Unlike in :func:`~topokd_lib.topology.rips.rips_diagrams`
    bars of length 0 are kept: ``m`` points always give ``m - 1`` deaths, so that clouds of equal size can be
    compared rank by rank.

    Differentiable wherever no two lengths are equal: the tree stays the same under small moves of the
    points. At ties the gradient is that of one of the trees. A few clouds are worked on at a time, so that
    only the result grows with the batch.

    Raises:
        InvalidPoints: See :func:`check_points`.

    Example:
        The sides 3 and 4 of a right triangle join its corners; the hypotenuse comes too late.

        >>> h0_deaths(torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]]))
        tensor([[3., 4.]])
    """
    check_axes(points)
    deaths = [
        _lengths(part, edges) if part.requires_grad else lengths for part, edges, lengths in _trees(points)
    ]
    return torch.cat(deaths) if len(deaths) > 1 else deaths[0]


def _trees(points: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """A few clouds at a time, the edges of their trees, the shortest first, and the lengths of these."""
    count, dim = points.shape[1:]
    size = max(1, min(len(points), _CHUNK // (count * max(count, dim))))
    dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    centred, products = (torch.empty(size, count, width, dtype=dtype).numpy() for width in (dim, count))
    for part in points.split(size) if len(points) > size else (points,):
        clouds = _array(part.detach().to("cpu", dtype))
        edges, lengths, precise = _trees_of_products(clouds, centred[: len(clouds)], products[: len(clouds)])
        if not precise.all():
            check_points(points)
            edges[~precise], lengths[~precise] = _careful_trees(clouds[~precise])
        yield part, torch.from_numpy(edges).to(points.device), torch.from_numpy(lengths).to(points.device)


def _trees_of_products(
    clouds: FloatArray, centred: FloatArray, products: FloatArray
) -> tuple[IntArray, FloatArray, npt.NDArray[np.bool_]]:
    """Trees, their lengths, and whether inner products were precise enough to choose the tree.

    The second and third array are room to work in: pages that are new cost more than what is done with them.
    """
    close = _CLOSE[clouds.dtype]
    loops = compiled()
    with np.errstate(over="ignore", invalid="ignore"):
        if loops:
            loops.centre(clouds, centred)
        else:
            np.subtract(clouds, clouds.mean(axis=1, keepdims=True), out=centred)
        np.matmul(centred, centred.transpose(0, 2, 1), out=products)  # numpy computes one triangle only
        norms = np.ascontiguousarray(np.einsum("bii->bi", products))
        edges, lengths = _shortest_first(clouds, prim(products, norms, -2.0))
        precise = (lengths[:, :1] ** 2 > close * norms.max(axis=1, keepdims=True)).all(axis=1)
    return edges, lengths, precise


def _careful_trees(clouds: FloatArray) -> tuple[IntArray, FloatArray]:
    """The same in float64 for clouds of any scale; from differences where products are not enough."""
    largest = np.abs(clouds).max(axis=(1, 2), keepdims=True)
    scaled = clouds.astype(np.float64) / np.maximum(largest, np.finfo(clouds.dtype).tiny)
    room = np.empty_like(scaled), np.empty((len(scaled), *scaled.shape[1:2] * 2))
    edges, _, precise = _trees_of_products(scaled, *room)
    for cloud in np.flatnonzero(~precise):
        distances = squareform(pdist(scaled[cloud], "sqeuclidean"))[None]
        edges[cloud] = prim(distances, np.zeros(distances.shape[:2]), 1.0)[0]
    return _shortest_first(clouds, edges)


def _shortest_first(clouds: FloatArray, edges: IntArray) -> tuple[IntArray, FloatArray]:
    """The edges, in place if they can be, and their lengths, measured from differences."""
    if loops := compiled():
        lengths = np.empty(edges.shape[:2], clouds.dtype)
        loops.measure_edges(clouds, edges, lengths)
        loops.sort_edges(edges, lengths)
        return edges, lengths
    lengths = _edge_lengths(torch.from_numpy(clouds), torch.from_numpy(edges)).numpy()
    order = np.arange(len(edges))[:, None], lengths.argsort(axis=1, kind="stable")
    return edges[order], lengths[order]
