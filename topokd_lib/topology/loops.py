"""Loops over small graphs, clouds and diagrams, which numba turns into machine code at their first call.

numba is optional; :func:`topokd_lib.topology.prim.compiled` says whether there is code to call. Results are
written into arrays that the caller has made.
"""

import math
from collections.abc import Callable
from inspect import unwrap
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

__all__ = [
    "centre",
    "draw_bars",
    "measure_edges",
    "pull_bars",
    "pull_ends",
    "sort_edges",
    "span",
    "span_packed",
]

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]


def machine_code(loops: Callable[..., Any]) -> Callable[..., Any]:
    """Compile, and keep the result for the next process if there is a folder for it."""
    loops = unwrap(loops)  # tests wrap every function, to check shapes
    # Sums may be made in any order, so that they are vectorised.
    options: Any = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc"}}
    try:
        compiled: Callable[..., Any] = numba.njit(cache=True, **options)(loops)
    except RuntimeError:
        compiled = numba.njit(**options)(loops)
    return compiled


@machine_code
def centre(points: FloatArray, centred: FloatArray) -> None:
    """Subtract the mean of every cloud."""
    mean = np.empty(points.shape[2], points.dtype)
    for cloud in range(len(points)):
        mean[:] = 0
        for point in range(points.shape[1]):
            for axis in range(points.shape[2]):
                mean[axis] += points[cloud, point, axis]
        mean /= points.shape[1]
        for point in range(points.shape[1]):
            for axis in range(points.shape[2]):
                centred[cloud, point, axis] = points[cloud, point, axis] - mean[axis]


@machine_code
def span(
    matrices: FloatArray, norms: FloatArray, factor: float, infinite: np.signedinteger[Any], edges: IntArray
) -> None:
    """Prim's algorithm; see :func:`topokd_lib.topology.prim.prim`.

    Lengths are compared by their bits, as integers: numbers from 0 on have the same order, and compilers
    vectorise the minimum of integers. So whole rows are faster than a list of the points that are left.
    ``infinite`` are the bits of infinity.
    """
    batch, points = norms.shape
    length = np.empty(points, norms.dtype)
    joined = np.empty(points, norms.dtype)
    key = np.full(points, infinite)
    partner = np.zeros_like(key)
    bits = length.view(key.dtype)
    for graph in range(batch):
        key[:] = infinite
        joined[:] = 0
        partner[:] = 0
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


@machine_code
def span_packed(matrices: FloatArray, norms: FloatArray, factor: np.float32, edges: IntArray) -> None:
    """:func:`span` for float32 and at most 2¹⁶ points, in one pass over a row instead of three.

    An edge is one integer: the bits of its length, then its ends. The smaller integer comes first in the
    order of lengths and, among equal ones, of pairs; the least one names the edge that it belongs to.
    """
    batch, points = norms.shape
    none = np.int64(2**63 - 1)
    key = np.empty(points, np.int64)
    joined = np.empty(points, np.float32)
    for graph in range(batch):
        key[:] = none
        joined[:] = 0
        new: Any = np.int64(0)
        for step in range(points - 1):
            least = key[new] = none
            joined[new] = np.inf
            for j in range(points):
                x = norms[graph, new] + norms[graph, j] + factor * matrices[graph, new, j]
                bits = np.float32(x if x > joined[j] else joined[j]).view(np.int32)
                edge = np.int64(bits) << 32 | min(new, j) << 16 | max(new, j)
                key[j] = min(key[j], edge)
                least = min(least, key[j])
            first, second = least >> 16 & 0xFFFF, least & 0xFFFF
            edges[graph, step, 0] = first
            edges[graph, step, 1] = second
            new = second if joined[first] > 0 else first


@machine_code
def measure_edges(points: FloatArray, edges: IntArray, lengths: FloatArray) -> None:
    """Euclidean lengths, in float64 inside."""
    for cloud in range(len(edges)):
        for edge in range(edges.shape[1]):
            i, j = edges[cloud, edge]
            squared, longest = np.float64(0), np.float64(0)
            for axis in range(points.shape[2]):
                side = np.float64(points[cloud, j, axis]) - np.float64(points[cloud, i, axis])
                squared += side * side
            if squared < 1e-280 or squared > 1e280:
                # Dividing by the longest side first keeps squares from overflowing and vanishing.
                for axis in range(points.shape[2]):
                    side = np.float64(points[cloud, j, axis]) - np.float64(points[cloud, i, axis])
                    longest = max(longest, abs(side))
                squared = np.float64(0)
                for axis in range(points.shape[2]):
                    side = np.float64(points[cloud, j, axis]) - np.float64(points[cloud, i, axis])
                    squared += (side / longest) ** 2 if longest > 0 else 0.0
            lengths[cloud, edge] = np.sqrt(squared) * (longest if longest > 0 else 1.0)


@machine_code
def sort_edges(edges: IntArray, lengths: FloatArray) -> None:
    """The shortest first, in place; by insertion, quadratic as Prim's algorithm is, and stable."""
    for cloud in range(len(edges)):
        for edge in range(1, edges.shape[1]):
            length, i, j = lengths[cloud, edge], edges[cloud, edge, 0], edges[cloud, edge, 1]
            place = edge
            while place > 0 and lengths[cloud, place - 1] > length:
                lengths[cloud, place] = lengths[cloud, place - 1]
                edges[cloud, place, 0] = edges[cloud, place - 1, 0]
                edges[cloud, place, 1] = edges[cloud, place - 1, 1]
                place -= 1
            lengths[cloud, place] = length
            edges[cloud, place, 0] = i
            edges[cloud, place, 1] = j


@machine_code
def pull_ends(
    points: FloatArray, edges: IntArray, lengths: FloatArray, gradient: FloatArray, pulled: FloatArray
) -> None:
    """Gradient with respect to the points, from that with respect to the lengths: a pull at both ends."""
    pulled[:] = 0
    for cloud in range(len(edges)):
        for edge in range(edges.shape[1]):
            i, j = edges[cloud, edge]
            if lengths[cloud, edge] > 0:
                for axis in range(points.shape[2]):
                    unit = (points[cloud, j, axis] - points[cloud, i, axis]) / lengths[cloud, edge]
                    pulled[cloud, j, axis] += gradient[cloud, edge] * unit
                    pulled[cloud, i, axis] -= gradient[cloud, edge] * unit


@machine_code
def _weigh(weight: int, birth: float, persistence: float, found: FloatArray) -> None:
    """A weight of ``drawing.WEIGHTS``, and its derivatives with respect to birth and persistence."""
    found[0], found[1], found[2] = 1.0, 0.0, 0.0
    if weight == 1:
        found[0], found[2] = persistence, 1.0
    elif weight > 1:
        found[0] = 10 * math.tanh(persistence)
        found[2] = 10 - found[0] ** 2 / 10
        if weight == 3:
            found[0] += 10 * math.log(100 * birth + 1)
            found[1] = 1000 / (100 * birth + 1)


@machine_code
def _tabulate(
    centre: float,
    limits: tuple[float, float],
    bandwidth: float,
    mass: bool,
    table: FloatArray,
    slope: FloatArray,
) -> None:
    """The Gaussian density at points, or the mass in cells, and the derivative with respect to the centre."""
    steps = len(table)
    step = (limits[1] - limits[0]) / max(1, steps if mass else steps - 1)
    for place in range(steps):
        x = (limits[0] + place * step - centre) / bandwidth
        density = math.exp(-x * x / 2) / (bandwidth * math.sqrt(2 * math.pi))
        table[place], slope[place] = density, density * x / bandwidth
        if mass:
            y = x + step / bandwidth
            after = math.exp(-y * y / 2) / (bandwidth * math.sqrt(2 * math.pi))
            table[place] = (math.erf(y / math.sqrt(2)) - math.erf(x / math.sqrt(2))) / 2
            slope[place] = density - after


@machine_code
def draw_bars(
    pairs: FloatArray,
    mask: npt.NDArray[np.bool_],
    births: tuple[float, float],
    persistences: tuple[float, float],
    bandwidth: float,
    mass: bool,
    weight: int,
    scale: float,
    picture: FloatArray,
) -> None:
    """Persistence images, bar by bar: see :class:`~topokd_lib.topology.images.PersistenceImage`."""
    along, across = np.empty((2, picture.shape[1])), np.empty((2, picture.shape[2]))
    found = np.empty(3)
    picture[:] = 0
    for diagram, bar in np.argwhere(mask):
        birth = np.float64(pairs[diagram, bar, 0])
        persistence = np.float64(pairs[diagram, bar, 1]) - birth
        _weigh(weight, birth, persistence, found)
        _tabulate(persistence, persistences, bandwidth, mass, along[0], along[1])
        _tabulate(birth, births, bandwidth, mass, across[0], across[1])
        for row in range(picture.shape[1]):
            amount = found[0] * along[0, row] / scale
            for column in range(picture.shape[2]):
                picture[diagram, row, column] += amount * across[0, column]


@machine_code
def pull_bars(
    pairs: FloatArray,
    mask: npt.NDArray[np.bool_],
    births: tuple[float, float],
    persistences: tuple[float, float],
    bandwidth: float,
    mass: bool,
    weight: int,
    scale: float,
    gradient: FloatArray,
    pulled: FloatArray,
) -> None:
    """Gradient with respect to births and deaths, from that with respect to the pixels."""
    along, across = np.empty((2, gradient.shape[1])), np.empty((2, gradient.shape[2]))
    found = np.empty(3)
    pulled[:] = 0
    for diagram, bar in np.argwhere(mask):
        birth = np.float64(pairs[diagram, bar, 0])
        persistence = np.float64(pairs[diagram, bar, 1]) - birth
        _weigh(weight, birth, persistence, found)
        _tabulate(persistence, persistences, bandwidth, mass, along[0], along[1])
        _tabulate(birth, births, bandwidth, mass, across[0], across[1])
        by_weight, by_birth, by_persistence = 0.0, 0.0, 0.0
        for row in range(gradient.shape[1]):
            level, tilt = 0.0, 0.0
            for column in range(gradient.shape[2]):
                level += gradient[diagram, row, column] * across[0, column]
                tilt += gradient[diagram, row, column] * across[1, column]
            by_weight += level * along[0, row]
            by_persistence += level * along[1, row]
            by_birth += tilt * along[0, row]
        by_persistence = found[0] * by_persistence + found[2] * by_weight
        by_birth = found[0] * by_birth + found[1] * by_weight
        pulled[diagram, bar, 0] = (by_birth - by_persistence) / scale
        pulled[diagram, bar, 1] = by_persistence / scale
