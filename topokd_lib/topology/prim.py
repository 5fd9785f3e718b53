"""Prim's algorithm on many small graphs, and the lengths of edges: compiled where numba is installed.

numba is optional. Without it Prim's algorithm makes each step for all graphs at once, in numpy. Both find the
same tree, the only one that is shortest when equal edges count as longer the later they come in the order
(i, j) of their ends, i < j. That order makes the tree independent of where Prim begins.

Reference:
    R. C. Prim. Shortest connection networks and some generalizations. 1957. [prim1957shortest]
"""

from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["compiled", "prim", "prim_numpy"]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]


@cache
def compiled() -> ModuleType | None:
    """:mod:`topokd_lib.topology.loops`, or None without numba. Nothing is compiled before it is called."""
    try:
        from topokd_lib.topology import loops
    except ModuleNotFoundError:
        return None
    return loops


def _infinite_bits(dtype: np.dtype[Any]) -> Any:
    """The bits of infinity, read as an integer of the size of the type."""
    return np.array(np.inf, dtype=dtype).view(np.int32 if dtype == np.float32 else np.int64)[()]


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
    scale = norms.dtype.type(factor)
    if norms.dtype == np.float32 and points <= 2**16:
        loops.span_packed(matrices, norms, scale, edges)
    else:
        loops.span(matrices, norms, scale, _infinite_bits(norms.dtype), edges)
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
