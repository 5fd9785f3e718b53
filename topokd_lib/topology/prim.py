"""Prim's algorithm on many small graphs, and the lengths of edges: compiled where numba is installed.

numba is optional. Without it Prim's algorithm makes each step for all graphs at once, in numpy. Both find the
same tree, the only one that is shortest when equal edges count as longer the later they come in the order
(i, j) of their ends, i < j. That order makes the tree independent of where Prim begins.

Reference:
    R. C. Prim. Shortest connection networks and some generalizations. 1957. [prim1957shortest]
"""

from functools import cache
from inspect import unwrap
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Compiled", "compiled", "prim", "prim_numpy"]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]


class Compiled(NamedTuple):
    """Loops over graphs and edges as machine code. They write into their last array.

    Args:
        prim: See :func:`prim`.
        measure: Euclidean lengths of edges, from points (batch, points, dim) and edges (batch, edges, 2).
        pull: Gradient with respect to the points, from points, edges, lengths and the lengths' gradient.
    """

    prim: Any
    measure: Any
    pull: Any


def prim(matrices: FloatArray, norms: FloatArray, factor: float) -> IntArray:
    """Edges (i, j), i < j, of the minimum spanning trees, in the order in which Prim finds them.

    The length of an edge is ``norms[i] + norms[j] + factor * matrix[i, j]``, rounded in that order and cut
    off at 0: squared distances, if the matrix holds inner products and the factor is -2; the entries
    themselves, if the norms are 0 and the factor is 1.

    Args:
        matrices: Symmetric, float32 or float64, shape (batch, points, points).
        norms: Shape (batch, points), of the same type.
        factor: See above.
    """
    loops = compiled()
    if loops is None:
        return prim_numpy(matrices, norms, factor)
    batch, points = norms.shape
    edges = np.empty((batch, points - 1, 2), dtype=np.int64)
    integer = np.int32 if norms.dtype == np.float32 else np.int64
    length, joined = np.empty((2, points), dtype=norms.dtype)
    key, partner = np.empty((2, points), dtype=integer)
    infinite = np.array(np.inf, dtype=norms.dtype).view(integer)[()]
    scale = norms.dtype.type(factor)
    loops.prim(matrices, norms, scale, length, length.view(integer), joined, key, partner, infinite, edges)
    return edges


def prim_numpy(matrices: FloatArray, norms: FloatArray, factor: float) -> IntArray:
    """:func:`prim` without numba: every step for all graphs at once."""
    batch, points = norms.shape
    graphs, places = np.arange(batch), np.arange(points)
    edges = np.empty((batch, points - 1, 2), dtype=np.int64)
    key = np.full_like(norms, np.inf)
    joined = np.zeros_like(norms)
    partner = np.zeros((batch, points), dtype=np.int64)
    new = np.zeros(batch, dtype=np.int64)
    scale = norms.dtype.type(factor)
    for step in range(points - 1):
        joined[graphs, new] = key[graphs, new] = np.inf
        length = np.maximum(norms[graphs, new, None] + norms + scale * matrices[graphs, new], joined)
        closer = (length < key) | ((length == key) & (new[:, None] < partner))
        partner = np.where(closer, new[:, None], partner)
        key = np.minimum(key, length)
        pair = np.minimum(partner, places) * points + np.maximum(partner, places)
        pair[key > key.min(axis=1, keepdims=True)] = points**2
        new = pair.argmin(axis=1)
        edges[:, step] = np.stack(divmod(pair[graphs, new], points), axis=1)
    return edges


@cache
def compiled() -> Compiled | None:
    """The compiled loops, or None without numba. Nothing is compiled before it is called."""
    try:
        import numba
    except ModuleNotFoundError:
        return None

    def compile_loops(loops: Any, **options: Any) -> Any:
        loops = unwrap(loops)  # tests wrap every function, to check shapes
        try:
            return numba.njit(nogil=True, error_model="numpy", cache=True, **options)(loops)
        except RuntimeError:  # there is no folder for the cache
            return numba.njit(nogil=True, error_model="numpy", **options)(loops)

    # Sums in any order, so that they are vectorised.
    measure = compile_loops(_measure, fastmath={"reassoc"})
    return Compiled(compile_loops(_prim), measure, compile_loops(_pull))


def _prim(
    matrices: FloatArray,
    norms: FloatArray,
    factor: float,
    length: FloatArray,
    bits: IntArray,
    joined: FloatArray,
    key: IntArray,
    partner: IntArray,
    infinite: int,
    edges: IntArray,
) -> None:
    """``bits`` views ``length``: numbers from 0 on are ordered as their bits are when read as integers.

    Compilers vectorise the minimum of integers, and then whole rows are faster than a list of open points.
    """
    batch, points = norms.shape
    for graph in range(batch):
        for j in range(points):
            key[j] = infinite
            joined[j] = 0
            partner[j] = 0
        new = partner[0]
        for step in range(points - 1):
            joined[new] = np.inf
            key[new] = infinite
            for j in range(points):
                x = norms[graph, new] + norms[graph, j] + factor * matrices[graph, new, j]
                length[j] = x if x > joined[j] else joined[j]
            for j in range(points):
                # Of two edges to j the one from the smaller point comes first in the order of pairs.
                closer = (bits[j] < key[j]) | ((bits[j] == key[j]) & (new < partner[j]))
                partner[j] = new if closer else partner[j]
                key[j] = min(key[j], bits[j])
            least = infinite
            for j in range(points):
                least = min(least, key[j])
            first, second, found = points, points, 0
            for j in range(points):
                if key[j] == least:
                    low, high = min(partner[j], j), max(partner[j], j)
                    if low < first or (low == first and high < second):
                        first, second, found = low, high, j
            edges[graph, step, 0] = first
            edges[graph, step, 1] = second
            new = partner[0] * 0 + found


def _measure(points: FloatArray, edges: IntArray, lengths: FloatArray) -> None:
    for cloud in range(len(edges)):
        for edge in range(edges.shape[1]):
            i, j = edges[cloud, edge]
            squared = np.float64(0)
            for axis in range(points.shape[2]):
                side = np.float64(points[cloud, j, axis]) - np.float64(points[cloud, i, axis])
                squared += side * side
            lengths[cloud, edge] = np.sqrt(squared)
            if squared < 1e-280 or squared > 1e280:
                # Dividing by the longest side first keeps squares from overflowing and vanishing.
                longest = np.abs(points[cloud, j] - points[cloud, i]).max()
                if longest > 0:
                    scaled = (points[cloud, j] - points[cloud, i]) / longest
                    lengths[cloud, edge] = longest * np.sqrt((scaled * scaled).sum())


def _pull(
    points: FloatArray, edges: IntArray, lengths: FloatArray, gradient: FloatArray, pulled: FloatArray
) -> None:
    pulled[:] = 0
    for cloud in range(len(edges)):
        for edge in range(edges.shape[1]):
            i, j = edges[cloud, edge]
            if lengths[cloud, edge] > 0:
                for axis in range(points.shape[2]):
                    unit = (points[cloud, j, axis] - points[cloud, i, axis]) / lengths[cloud, edge]
                    pulled[cloud, j, axis] += gradient[cloud, edge] * unit
                    pulled[cloud, i, axis] -= gradient[cloud, edge] * unit
