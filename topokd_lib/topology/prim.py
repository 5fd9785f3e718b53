"""Prim's algorithm on many small complete graphs: compiled where numba is installed, else numpy.

Both find the same tree, the only one that is shortest when equal edges count as longer the later they come in
the order (i, j) of their ends, i < j. That order makes the tree independent of where Prim begins.

Reference:
    R. C. Prim. Shortest connection networks and some generalizations. 1957. [prim1957shortest]
"""

from collections.abc import Callable
from functools import cache
from inspect import unwrap
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CHUNK", "prim", "prim_numpy"]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

CHUNK = 2**17
"""Numbers in the matrices of one call: half a megabyte, which stays in the cache of a core."""


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
    compiled = _compiled()
    if compiled is None:
        return prim_numpy(matrices, norms, factor)
    batch, points = norms.shape
    edges = np.empty((batch, points - 1, 2), dtype=np.int64)
    integer = np.int32 if norms.dtype == np.float32 else np.int64
    length, joined = np.empty((2, points), dtype=norms.dtype)
    key, partner = np.empty((2, points), dtype=integer)
    infinite = np.array(np.inf, dtype=norms.dtype).view(integer)[()]
    compiled(
        matrices,
        norms,
        norms.dtype.type(factor),
        edges,
        length,
        length.view(integer),
        joined,
        key,
        partner,
        infinite,
    )
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
def _compiled() -> Callable[..., None] | None:
    try:
        import numba
    except ModuleNotFoundError:
        return None
    loops = unwrap(_loops)  # tests wrap every function, to check shapes
    try:
        compiled: Callable[..., None] = numba.njit(nogil=True, error_model="numpy", cache=True)(loops)
    except RuntimeError:  # there is no folder for the cache
        compiled = numba.njit(nogil=True, error_model="numpy")(loops)
    return compiled


def _loops(
    matrices: FloatArray,
    norms: FloatArray,
    factor: float,
    edges: IntArray,
    length: FloatArray,
    bits: IntArray,
    joined: FloatArray,
    key: IntArray,
    partner: IntArray,
    infinite: int,
) -> None:
    """For numba. ``bits`` views ``length``: numbers from 0 on are ordered as their bits read as integers are.

    Integers have a minimum that compilers vectorise, and a whole row is faster than a list of open points.
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
            first, second = points, points
            for j in range(points):
                if key[j] == least:
                    low, high = min(partner[j], j), max(partner[j], j)
                    if low < first or (low == first and high < second):
                        first, second, found = low, high, j
            edges[graph, step, 0] = first
            edges[graph, step, 1] = second
            new = partner[0] * 0 + found
