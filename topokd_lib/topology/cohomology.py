"""Pieces and loops of a Rips filtration from its edges alone: persistent cohomology in compiled code.

A triangle enters with its longest edge. If some point is nearer to both ends of an edge than they are to each
other, the loop that this edge closes is filled in the same moment and nobody sees it. The few other edges are
those of the relative neighbourhood graph. Each joins two pieces, and is an edge of the minimum spanning tree,
or begins a bar of dimension 1.

Of these the longest comes first. All triangles on an edge are its column, and the first of them to enter
fills the loop, unless it fills another one: then the column of that one is added, modulo 2, until the first
triangle is free.

numba is needed: :func:`topokd_lib.topology.prim.compiled` says whether it is there.

Reference:
    V. de Silva, D. Morozov, M. Vejdemo-Johansson. Dualities in persistent (co)homology. 2011.
    [desilva2011dualities]
    U. Bauer. Ripser: efficient computation of Vietoris–Rips persistence barcodes. 2021, on apparent pairs.
    [bauer2021ripser]
    G. T. Toussaint. The relative neighbourhood graph of a finite planar set. 1980. [toussaint1980relative]
"""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from topokd_lib.topology.loops import machine_code

__all__ = ["critical_edges"]

IntArray = npt.NDArray[np.int64]


def critical_edges(lengths: npt.NDArray[np.float64], top: int, limit: float) -> list[IntArray]:
    """For dimension 0 and, if ``top`` is 1, for dimension 1: one row of four points per bar.

    They are the ends of the edge with which the bar begins, in dimension 0 a point twice, and of the edge
    with which it ends, -1 and -1 if it never does. Bars of length 0 are among them where edges are equally
    long.

    Args:
        lengths: Of all edges, symmetric.
        top: 0 or 1.
        limit: Longer edges never enter.
    """
    points = len(lengths)
    # From the enclosing radius on one vertex is joined to all others: a cone, where nothing changes.
    limit = min(limit, lengths.max(axis=1).min())
    upper = _upper_triangle(points)
    values = lengths.ravel()[upper]
    entered = int(np.count_nonzero(values <= limit))
    ends = np.stack(np.divmod(upper[values.argsort()[:entered]], points), axis=1)
    joins, roots, births, deaths = _bars(ends, points)
    born = np.concatenate([ends[joins, 0], roots])
    ends = np.concatenate([ends, [[-1, -1]]])  # of the edge -1, which is none
    joins = np.concatenate([joins, np.full_like(roots, -1)])
    pieces = np.concatenate([np.stack([born, born], axis=1), ends[joins]], axis=1)
    loops = np.concatenate([ends[births], ends[deaths]], axis=1)
    return [pieces, loops][: top + 1]


@lru_cache(maxsize=8)
def _upper_triangle(points: int) -> IntArray:
    return np.flatnonzero(np.triu(np.ones((points, points), bool), 1))


@machine_code
def _triangle(rank: IntArray, ends: IntArray, edge: int, point: int) -> Any:
    """The number of the triangle on an edge and a point: by its longest edge, then by the point across."""
    points = len(rank)
    i, j = ends[edge]
    a, b = rank[i, point], rank[j, point]
    if a < edge and b < edge:
        return edge * points + point
    return a * points + j if a > b else b * points + i


@machine_code
def _add_column(column: npt.NDArray[np.uint64], rank: IntArray, ends: IntArray, edge: int) -> None:
    """Modulo 2: a bit for each triangle that enters."""
    for point in range(len(rank)):
        triangle = _triangle(rank, ends, edge, point)
        if triangle < len(ends) * len(rank):
            column[triangle >> 6] ^= np.uint64(1) << np.uint64(triangle & 63)


@machine_code
def _next(column: npt.NDArray[np.uint64], triangle: int) -> int:
    """The first triangle in the column that enters after this one, or a number too large for any."""
    word = triangle >> 6
    while word < len(column) and column[word] == 0:
        word += 1
    triangle = word << 6
    if word < len(column):
        bits = column[word]
        while bits & np.uint64(1) == 0:
            bits >>= np.uint64(1)
            triangle += 1
    return triangle


@machine_code
def _pieces(rank: IntArray, ends: IntArray) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """The first witness of each edge, or -1; edges that join; a point of each piece left; other edges.

    A witness is a point nearer to both ends than they are to each other.
    """
    witness = np.full(len(ends), -1)
    root = np.arange(len(rank))
    joining = np.zeros(len(ends), np.bool_)
    for edge in range(len(ends)):
        i, j = ends[edge]
        for point in range(len(rank)):
            if rank[i, point] < edge and rank[j, point] < edge:
                witness[edge] = point
                break
        if witness[edge] < 0:
            while root[i] != i:
                root[i] = root[root[i]]
                i = root[i]
            while root[j] != j:
                root[j] = root[root[j]]
                j = root[j]
            joining[edge] = i != j
            root[max(i, j)] = min(i, j)
    others = np.flatnonzero((witness < 0) & ~joining)
    return witness, np.flatnonzero(joining), np.flatnonzero(root == np.arange(len(rank))), others


@machine_code
def _with_room(array: IntArray, size: int) -> IntArray:
    """The array, or if it is shorter a longer one that begins with it."""
    if size <= len(array):
        return array
    longer = np.empty(2 * size, np.int64)
    longer[: len(array)] = array
    return longer


@machine_code
def _bars(ends: IntArray, points: int) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Edges that join pieces, a point of each piece at the end, edges that begin loops and that end them.

    A death of -1 is none. ``ends`` are those of the edges that enter, the shortest first.
    """
    rank = np.full((points, points), len(ends))
    for edge in range(len(ends)):
        i, j = ends[edge]
        rank[i, j] = rank[j, i] = edge
    witness, joins, roots, births = _pieces(rank, ends)
    deaths, fills = np.full(len(births), -1), np.full(len(births), -1)
    last, before = np.full(len(ends), -1), np.full(len(births), -1)  # of the loops that an edge ends, a chain
    start, stop = np.zeros(len(births), np.int64), np.zeros(len(births), np.int64)
    parts, used = np.empty(64, np.int64), 0  # the edges whose columns were added up, loop after loop
    column = np.zeros(len(ends) * points // 64 + 1, np.uint64)
    for loop in range(len(births) - 1, -1, -1):
        start[loop] = added = used
        parts = _with_room(parts, used + 1)
        parts[used] = births[loop]
        used += 1
        triangle = births[loop] * points  # no triangle on an edge enters before it
        while True:
            for part in range(added, used):
                _add_column(column, rank, ends, parts[part])
            added = used
            triangle = _next(column, triangle)
            longest = triangle // points
            if longest >= len(ends):
                break
            if triangle == longest * points + witness[longest]:  # it fills the loop that this edge closes
                parts = _with_room(parts, used + 1)
                parts[used] = longest
                used += 1
                continue
            other = last[longest]
            while other >= 0 and fills[other] != triangle:
                other = before[other]
            if other < 0:
                deaths[loop], fills[loop] = longest, triangle
                before[loop], last[longest] = last[longest], loop
                break
            parts = _with_room(parts, used + stop[other] - start[other])
            for part in range(start[other], stop[other]):
                parts[used] = parts[part]
                used += 1
        stop[loop] = used
        for part in range(start[loop], used):  # twice is nothing: the column is empty again
            _add_column(column, rank, ends, parts[part])
    return joins, roots, births, deaths
