"""Planar cubical persistence with the pixels that make each bar, by merging components in compiled code.

One sweep through the pixels from dark to bright joins components of the dark part: dimension 0. A second from
bright to dark joins components of what is left over, with the outside of the picture as the oldest of them:
by Alexander duality every component that ends is a hole that begins. Where the dark part joins through sides
only, the rest joins through corners, and the other way round.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010. [edelsbrunner2010computational]
"""

from collections.abc import Callable
from functools import cache
from typing import Any, no_type_check

import numpy as np
import numpy.typing as npt

__all__ = ["merged_pixels"]

Pixels = npt.NDArray[np.int64]


def merged_pixels(image: npt.NDArray[np.floating[Any]], *, corners: bool) -> tuple[Pixels, Pixels]:
    """Places (birth, death) of the bars of dimension 0 and 1, as numbers of pixels row by row.

    The component of the darkest pixel comes last in dimension 0 and dies at -1, never. Bars of length 0 are
    left out.

    Args:
        image: Height and width.
        corners: Whether pixels of the dark part also join through corners.

    Raises:
        ImportError: If numba is not installed.
    """
    height, width = image.shape
    framed = np.zeros((height + 2, width + 2))  # so that every pixel has eight neighbours
    framed[1:-1, 1:-1] = image
    numbers = np.full(framed.shape, -1)
    numbers[1:-1, 1:-1] = np.arange(image.size).reshape(image.shape)
    places = np.flatnonzero(numbers.ravel() >= 0)
    order = places[image.ravel().argsort()]
    below = width + 2
    sides = np.array([-below, -1, 1, below])
    around = np.array([*sides, -below - 1, -below + 1, below - 1, below + 1])
    nothing, frame = np.empty(0, np.int64), np.flatnonzero(numbers.ravel() < 0)
    sweep = _compiled_sweep()
    components = sweep(framed.ravel(), order, around if corners else sides, nothing)
    holes = sweep(framed.ravel(), order[::-1].copy(), sides if corners else around, frame)
    endless = np.array([[numbers.ravel()[order[0]], -1]])
    return np.concatenate([numbers.ravel()[components], endless]), numbers.ravel()[holes[:, ::-1]]


@cache
def _compiled_sweep() -> Callable[..., Pixels]:
    try:
        from numba import njit
    except ImportError as error:
        raise ImportError(
            "engine='numba' needs numba, which is not installed: pip install 'topokd-lib[fast]', or take "
            "engine='gudhi', which gives the same bars"
        ) from error
    try:
        compiled: Callable[..., Pixels] = njit(cache=True, nogil=True)(_sweep)
    except RuntimeError:  # there is no folder for the cache
        compiled = njit(nogil=True)(_sweep)
    return compiled


@no_type_check  # numba reads the function as it stands here
def _sweep(values, order, neighbours, outside):
    """Join places in ``order``; whenever two components meet, the younger one ends: (its first place, here).

    ``neighbours`` are what to add to a place, and ``outside`` are places that are one component from the
    start, older than all others.
    """
    parent = np.full(len(values), -1, np.int64)
    age = np.full(len(values), -1, np.int64)
    for place in outside:
        parent[place] = outside[0]
    bars = np.empty((len(order), 2), np.int64)
    count = 0
    for time, place in enumerate(order):
        parent[place], age[place] = place, time
        root = place
        for step in neighbours:
            other = place + step
            if parent[other] < 0:
                continue
            while parent[other] != other:
                parent[other] = parent[parent[other]]
                other = parent[other]
            if other == root:
                continue
            young, old = (other, root) if age[other] > age[root] else (root, other)
            if values[young] != values[place]:
                bars[count, 0], bars[count, 1] = young, place
                count += 1
            parent[young] = old
            root = old
    return bars[:count].copy()
