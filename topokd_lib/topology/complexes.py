"""Simplicial complexes by hand: faces, boundaries over GF(2), Betti numbers, filtrations.

Written to be read. Everything is a list of simplices, a simplex is a tuple of vertices, and the cost does not
matter: for data see :func:`~topokd_lib.topology.rips.rips_diagrams`.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010, §III.1 and §IV.1. [edelsbrunner2010computational]
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from topokd_lib.topology.checks import as_array, is_real, is_whole

__all__ = [
    "FilteredComplex",
    "Simplex",
    "betti_numbers",
    "boundary_matrix",
    "closure",
    "euler_characteristic",
    "faces",
    "rank_mod_2",
    "triangulated_grid",
]

Simplex = tuple[int, ...]
"""Vertices in ascending order; k + 1 of them make the dimension k."""

Matrix = npt.NDArray[np.bool_]


def faces(simplex: Simplex) -> list[Simplex]:
    """The faces of a simplex of one dimension less: its boundary. A vertex has none.

    Raises:
        TypeError: If the simplex is not a tuple of whole numbers.
        ValueError: If the vertices are not in strictly ascending order, or there are none.

    Example:
        >>> faces((0, 1, 2))
        [(0, 1), (0, 2), (1, 2)]
    """
    _check_simplex(simplex)
    return list(combinations(simplex, len(simplex) - 1)) if len(simplex) > 1 else []


def closure(simplices: Iterable[Simplex]) -> list[Simplex]:
    """The smallest complex with these simplices: they and all their faces, low dimensions first.

    Raises:
        TypeError: If these are not simplices, see :func:`faces`.
        ValueError: See :func:`faces`.

    Example:
        >>> closure([(0, 1), (2,)])
        [(0,), (1,), (2,), (0, 1)]
    """
    found: set[Simplex] = set()
    _check_several(simplices)
    for simplex in simplices:
        _check_simplex(simplex)
        found.update(face for size in range(1, len(simplex) + 1) for face in combinations(simplex, size))
    return sorted(found, key=_by_dimension)


def triangulated_grid(height: int, width: int) -> list[Simplex]:
    """The complex on the pixels of an image: neighbours are joined, and every square is two triangles.

    The pixel in row r and column c is the vertex ``r * width + c``. All squares are cut from upper left to
    lower right, so that a pixel has six neighbours, two of them across a corner.

    Raises:
        ValueError: If there is no pixel.

    Example:
        >>> triangulated_grid(2, 2)[4:]
        [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3), (0, 1, 3), (0, 2, 3)]
    """
    if not (is_whole(height, 1) and is_whole(width, 1)):
        raise ValueError(f"an image has at least one pixel, got {height!r} × {width!r}")
    corners = [row * width + column for row in range(height - 1) for column in range(width - 1)]
    squares = [(a, a + side, a + width + 1) for a in corners for side in (1, width)]
    path = [(a, a + 1) for a in range(height * width - 1)] if 1 in (height, width) else []
    return closure([*squares, *path, (0,)])


def euler_characteristic(simplices: Sequence[Simplex]) -> int:
    r"""Vertices minus edges plus triangles minus …: :math:`\chi = \sum_k (-1)^k n_k`.

    It equals :math:`\sum_k (-1)^k \beta_k`, the same sum over :func:`betti_numbers`.

    Raises:
        ValueError: See :func:`boundary_matrix`.

    Example:
        >>> (
        ...     euler_characteristic(closure([(0, 1), (1, 2), (0, 2)])),
        ...     euler_characteristic(closure([(0, 1, 2)])),
        ... )
        (0, 1)
    """
    _check_complex(simplices)
    return sum((-1) ** (len(simplex) - 1) for simplex in simplices)


def boundary_matrix(simplices: Sequence[Simplex], dimension: int) -> Matrix:
    """The boundary from ``dimension`` to the one below, over GF(2).

    One column per simplex of that dimension, one row per simplex of the dimension below, both in the order
    given; an entry is true where the row is a face of the column. In dimension 0 there are no rows.

    Raises:
        TypeError: If these are not simplices, see :func:`faces`.
        ValueError: If the simplices are no complex: a face is missing, or one comes twice; or if the
            dimension is not a whole number from 0 on.

    Example:
        >>> boundary_matrix(closure([(0, 1), (1, 2)]), dimension=1).astype(int)
        array([[1, 0],
               [1, 1],
               [0, 1]])
    """
    _check_complex(simplices)
    _check_dimension(dimension)
    columns = [simplex for simplex in simplices if len(simplex) == dimension + 1]
    row = {face: index for index, face in enumerate(s for s in simplices if len(s) == dimension)}
    matrix = np.zeros((len(row), len(columns)), dtype=bool)
    for index, simplex in enumerate(columns):
        for face in faces(simplex):
            matrix[row[face], index] = True
    return matrix


def rank_mod_2(matrix: Matrix) -> int:
    """Rank over GF(2), where 1 + 1 = 0, by Gaussian elimination.

    Raises:
        TypeError: If the matrix is not a numpy array.
        ValueError: If it does not have two axes, or an entry is neither 0 nor 1.

    Example:
        The boundary of a triangle. Over the real numbers, without signs, the rank would be 3.

        >>> rank_mod_2(np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=bool))
        2
    """
    if not isinstance(matrix, np.ndarray):
        raise TypeError(f"a matrix is a numpy array, got {type(matrix).__name__}; convert with np.array")
    if matrix.ndim != 2:
        raise ValueError(f"a matrix has two axes, got shape {matrix.shape}")
    if not np.isin(matrix, (0, 1)).all():
        raise ValueError(
            "a matrix over GF(2) holds 0 and 1 alone, or truth values; reduce it with matrix % 2"
        )
    rows = matrix.astype(bool)
    rank = 0
    for column in range(rows.shape[1]):
        candidates = np.flatnonzero(rows[rank:, column])
        if len(candidates):
            pivot = rank + candidates[0]
            rows[[rank, pivot]] = rows[[pivot, rank]]
            others = rows[:, column].copy()
            others[rank] = False
            rows[others] ^= rows[rank]
            rank += 1
    return rank


def betti_numbers(simplices: Sequence[Simplex]) -> tuple[int, ...]:
    r"""Components, loops, voids …: :math:`\dim Z_k - \dim B_k` over GF(2), up to the top dimension.

    Cycles are what the boundary sends to 0, :math:`\dim Z_k = n_k - \operatorname{rank} \partial_k`, and
    boundaries its image, :math:`\dim B_k = \operatorname{rank} \partial_{k+1}`.

    Raises:
        ValueError: See :func:`boundary_matrix`.

    Example:
        A hollow triangle, then a full one.

        >>> betti_numbers(closure([(0, 1), (1, 2), (0, 2)])), betti_numbers(closure([(0, 1, 2)]))
        ((1, 1), (1, 0, 0))
    """
    _check_complex(simplices)
    top = max(map(len, simplices), default=0)
    matrices = [boundary_matrix(simplices, dimension) for dimension in range(top + 1)]
    ranks = [rank_mod_2(matrix) for matrix in matrices]
    return tuple(matrices[k].shape[1] - ranks[k] - ranks[k + 1] for k in range(top))


@dataclass(frozen=True)
class FilteredComplex:
    """A complex that grows: every simplex with the filtration value at which it enters.

    Args:
        values: Filtration value of each simplex. No simplex enters before its faces.

    Raises:
        TypeError: If the values are not a mapping from simplices.
        ValueError: If the simplices are no complex, or a value is not finite or below that of a face.

    Example:
        >>> interval = FilteredComplex({(0,): 0.0, (1,): 1.0, (0, 1): 3.0})
        >>> interval.simplices, interval.at(1.0)
        (((0,), (1,), (0, 1)), [(0,), (1,)])
    """

    values: Mapping[Simplex, float]

    def __post_init__(self) -> None:
        if not isinstance(self.values, Mapping):
            raise TypeError(
                f"a filtration is a mapping from simplices to values, such as {{(0,): 0.0}}, got "
                f"{type(self.values).__name__}"
            )
        _check_complex(list(self.values))
        for simplex, value in self.values.items():
            if not is_real(value):
                raise ValueError(f"filtration values are finite numbers, but {simplex} enters at {value!r}")
            for face in faces(simplex):
                if self.values[face] > value:
                    raise ValueError(
                        f"{simplex} enters at {value}, before its face {face} at {self.values[face]}; "
                        f"no simplex enters before its faces"
                    )

    @property
    def simplices(self) -> tuple[Simplex, ...]:
        """In the order of entry; at equal values low dimensions first, so that faces always come before."""
        return tuple(sorted(self.values, key=lambda simplex: (self.values[simplex], *_by_dimension(simplex))))

    def at(self, value: float) -> list[Simplex]:
        """The complex at a filtration value: what has entered by then.

        Raises:
            ValueError: If the value is not a number; infinity is the whole complex.

        Example:
            >>> FilteredComplex({(0,): 0.0, (1,): 1.0}).at(0.5)
            [(0,)]
        """
        if not (is_real(value) or value in (-math.inf, math.inf)):
            raise ValueError(f"a filtration value is a real number, got {value!r}")
        return [simplex for simplex in self.simplices if self.values[simplex] <= value]

    @classmethod
    def lower_star(
        cls, simplices: Iterable[Simplex], vertex_values: Mapping[int, float]
    ) -> "FilteredComplex":
        """The closure of the simplices; each enters with its last vertex.

        Raises:
            TypeError: If these are not simplices, or the values are no mapping.
            ValueError: If a vertex has no value, or one that is not finite.

        Example:
            >>> FilteredComplex.lower_star([(0, 1)], {0: 2.0, 1: 5.0}).values
            {(0,): 2.0, (1,): 5.0, (0, 1): 5.0}
        """
        if not isinstance(vertex_values, Mapping):
            raise TypeError(
                f"values of vertices are a mapping, such as {{0: 2.0}}, got {type(vertex_values).__name__}; "
                f"make one of a list with dict(enumerate(values))"
            )
        complete = closure(simplices)
        for vertex in sorted({vertex for simplex in complete for vertex in simplex}):
            if vertex not in vertex_values:
                raise ValueError(
                    f"vertex {vertex} has no value; values are there for {sorted(vertex_values)}"
                )
        return cls({simplex: max(vertex_values[vertex] for vertex in simplex) for simplex in complete})

    @classmethod
    def rips(cls, points: npt.ArrayLike, *, dimension: int) -> "FilteredComplex":
        """The Vietoris–Rips filtration: each simplex enters at its longest edge (ε = 2r), a vertex at 0.

        Args:
            points: Coordinates, shape (points, dim).
            dimension: Highest dimension of a simplex. Homology is right below it, not in it.

        Raises:
            TypeError: If the points are not real numbers.
            ValueError: If they do not have two axes or are not finite, or the dimension is not a whole number
                from 0 on.

        Example:
            >>> FilteredComplex.rips([[0.0, 0.0], [3.0, 4.0]], dimension=1).values
            {(0,): 0.0, (1,): 0.0, (0, 1): 5.0}
        """
        cloud = as_array("points", points).astype(np.float64)
        if cloud.ndim != 2 or not np.isfinite(cloud).all():
            raise ValueError(
                f"one cloud has finite coordinates of shape (points, dim), got shape {cloud.shape}"
                f"{'' if np.isfinite(cloud).all() else ' with values that are not finite'}"
            )
        _check_dimension(dimension)
        lengths = np.linalg.norm(cloud[:, None] - cloud[None], axis=2)
        return cls(
            {
                simplex: float(lengths[np.ix_(simplex, simplex)].max())
                for size in range(1, dimension + 2)
                for simplex in combinations(range(len(cloud)), size)
            }
        )


def _by_dimension(simplex: Simplex) -> tuple[int, Simplex]:
    return len(simplex), simplex


def _check_dimension(dimension: int) -> None:
    if not is_whole(dimension, 0):
        raise ValueError(f"dimensions are whole numbers, counted from 0, got {dimension!r}")


def _check_several(simplices: Any) -> None:
    if not isinstance(simplices, Iterable):
        raise TypeError(f"a complex is a list of simplices, got {type(simplices).__name__}")


def _check_simplex(simplex: Simplex) -> None:
    if not isinstance(simplex, tuple) or not all(map(is_whole, simplex)):
        raise TypeError(
            f"a simplex is a tuple of whole numbers, its vertices, such as (0, 2), got {simplex!r}"
        )
    if not simplex or any(a >= b for a, b in pairwise(simplex)):
        raise ValueError(f"a simplex lists its vertices in strictly ascending order, got {simplex}")


def _check_complex(simplices: Sequence[Simplex]) -> None:
    _check_several(simplices)
    for simplex in simplices:
        _check_simplex(simplex)
    known = set(simplices)
    if len(known) < len(simplices):
        raise ValueError("a complex holds every simplex once, got one twice")
    for simplex in simplices:
        for face in faces(simplex):
            if face not in known:
                raise ValueError(
                    f"{simplex} is there, but its face {face} is not; closure() adds what is missing"
                )
