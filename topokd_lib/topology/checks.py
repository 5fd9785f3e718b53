"""What functions ask of their arguments before work starts.

A wrong type is a TypeError, a wrong shape or value a ValueError. What has a meaning of its own is checked
beside it: point clouds in :mod:`~topokd_lib.topology.spanning_tree`, diagrams in
:mod:`~topokd_lib.topology.diagrams`.
"""

import math
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = [
    "as_array",
    "check_edges",
    "check_matrix",
    "check_reals",
    "check_square",
    "check_tensor",
    "is_finite",
    "is_real",
    "is_whole",
]


def is_whole(number: Any, least: int | float = -math.inf) -> bool:
    """Whether this is a whole number of at least ``least``."""
    return isinstance(number, (int, Integral)) and int(number) >= least


def is_real(number: Any, least: int | float = -math.inf) -> bool:
    """Whether this is a finite real number of at least ``least``."""
    return isinstance(number, (float, Real)) and math.isfinite(number) and float(number) >= least


def check_tensor(name: str, values: Any) -> None:
    """Raise TypeError unless this is a tensor; ``name`` is plural."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} are a tensor, got {type(values).__name__}; convert with torch.as_tensor")


def check_reals(name: str, values: Any, *axes: str, finite: bool = True) -> None:
    """Raise unless this is a tensor of finite real numbers with these axes, none of them 0."""
    check_tensor(name, values)
    shape = tuple(values.shape)
    if len(shape) != len(axes):
        raise ValueError(f"{name} have the shape ({', '.join(axes)}), got {shape}")
    if not values.is_floating_point():
        raise ValueError(f"{name} have real values, got {values.dtype}; convert with .float()")
    if 0 in shape:
        raise ValueError(f"there is nothing in {name} of shape {shape}: no axis may be 0")
    if finite and not is_finite(values):
        _refuse_infinite(name, values)


def is_finite(values: Float[Tensor, "*axes"]) -> bool:
    """Whether all numbers are finite. Nearly always one sum tells."""
    return math.isfinite(values.detach().sum()) or bool(values.isfinite().all())


def _refuse_infinite(name: str, values: Tensor) -> NoReturn:
    wrong = ~values.isfinite()
    place = tuple(wrong.nonzero()[0].tolist())
    raise ValueError(
        f"{name} are finite: {values[place].item()} at {place} ({int(wrong.sum())} such values in all)"
    )


def check_square(name: str, matrix: Any) -> None:
    """Raise unless this is a square matrix of real numbers; they are not looked at."""
    check_reals(name, matrix, "points", "points", finite=False)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} are a square matrix, got shape {tuple(matrix.shape)}")


def check_matrix(name: str, matrix: Any) -> None:
    """Raise unless this is a symmetric matrix of finite real numbers of at least 0.

    Differences between the triangles that may be roundings are allowed.
    """
    check_square(name, matrix)
    entries = matrix.detach()
    least, greatest = map(float, entries.aminmax())  # not a number, if one is not
    if not math.isfinite(least) or not math.isfinite(greatest):
        _refuse_infinite(name, entries)
    if least < 0:
        raise ValueError(f"{name} are at least 0, found {least}")
    if not torch.equal(entries, entries.T):
        gap = float((entries - entries.T).abs().max())
        if gap > max(1e-4, torch.finfo(entries.dtype).eps ** 0.5) * greatest:
            raise ValueError(
                f"{name} are the same in both directions, but the triangles of the matrix differ by "
                f"{gap:.3g}; symmetrise with (matrix + matrix.T) / 2"
            )


def check_edges(edges: Any, count: int) -> None:
    """Raise unless these are pairs of whole numbers that count ``count`` points from 0."""
    check_tensor("edges", edges)
    whole = not (edges.is_floating_point() or edges.is_complex() or edges.dtype == torch.bool)
    if edges.ndim != 2 or edges.shape[1] != 2 or not whole:
        raise ValueError(
            f"edges are integers of shape (edges, 2), got {edges.dtype} of shape {tuple(edges.shape)}"
        )
    first, last = map(int, edges.aminmax()) if edges.numel() else (0, -1)
    if first < 0 or last >= count:
        edge = int(((edges < 0) | (edges >= count)).any(dim=1).nonzero()[0])
        raise ValueError(
            f"edge {edge} joins {tuple(edges[edge].tolist())}, but there are {count} vertices, counted from 0"
        )


def as_array(name: str, values: Any) -> npt.NDArray[Any]:
    """Real numbers in any form as an array of their type; raise TypeError if they are something else."""
    try:
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of different length, tensors with gradient
        raise TypeError(f"{name} are numbers in an array, got {type(values).__name__}: {error}") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} are real numbers in an array, got {type(values).__name__} of {array.dtype}")
    return array
