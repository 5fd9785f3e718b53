"""Persistence by hand: the column algorithm on the boundary matrix.

Written to be read; gudhi computes the same, faster. Columns are sets of row numbers, so that adding two of
them over GF(2) is their symmetric difference.

Reference:
    H. Edelsbrunner, D. Letscher, A. Zomorodian. Topological persistence and simplification. 2002.
    [edelsbrunner2002persistence]
    A. Zomorodian, G. Carlsson. Computing persistent homology. 2005. [zomorodian2005computing]
    C. Chen, M. Kerber. Persistent homology computation with a twist. 2011 (clearing).
    [chen2011twist]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from topokd_lib.topology.complexes import FilteredComplex, Simplex, faces
from topokd_lib.topology.critical import check_options
from topokd_lib.topology.diagrams import PersistenceDiagrams

__all__ = ["Reduction", "reduce_boundary"]


@dataclass(frozen=True)
class Reduction:
    """A reduced boundary matrix: no two columns have their lowest entry in the same row.

    Args:
        filtration: What was reduced.
        columns: Rows that hold a 1, for each simplex in the order of entry.
        chains: What was added up to get each column: the simplices whose boundary it is.
        additions: How many times a column was added to another: the work done.
    """

    filtration: FilteredComplex
    columns: tuple[frozenset[int], ...]
    chains: tuple[frozenset[int], ...]
    additions: int

    @property
    def pairs(self) -> list[tuple[Simplex, Simplex | None]]:
        """The simplex that begins each bar and the one that ends it, ``None`` for an essential bar.

        In the order of birth, bars of length 0 included. Each simplex stands in exactly one pair.
        """
        simplices = self.filtration.simplices
        ends = {max(column): index for index, column in enumerate(self.columns) if column}
        return [
            (simplex, simplices[ends[index]] if index in ends else None)
            for index, simplex in enumerate(simplices)
            if not self.columns[index]
        ]

    @property
    def cycles(self) -> list[list[Simplex]]:
        """For each of :attr:`pairs` a cycle that is there from the birth on and that the death fills.

        For an essential bar, one that nothing fills. The simplex that begins the bar is the youngest of the
        cycle. There are others: which one is found depends on the order of entry.
        """
        simplices = self.filtration.simplices
        ends = {max(column): column for column in self.columns if column}
        return [
            [simplices[part] for part in sorted(ends.get(index, self.chains[index]))]
            for index, column in enumerate(self.columns)
            if not column
        ]

    def diagrams(
        self, dimensions: Sequence[int] = (0,), *, essential: Literal["drop", "keep"] = "drop"
    ) -> tuple[PersistenceDiagrams, ...]:
        """Diagrams in filtration units, a batch of one for each dimension, without bars of length 0.

        Raises:
            ValueError: If the dimensions or ``essential`` make no sense.

        Example:
            >>> interval = FilteredComplex({(0,): 0.0, (1,): 1.0, (0, 1): 3.0})
            >>> reduce_boundary(interval).diagrams(essential="keep")[0][0].tolist()
            [[0.0, inf], [1.0, 3.0]]
        """
        check_options(dimensions, essential)
        values = self.filtration.values
        ends = [
            (birth, values[birth], torch.inf if death is None else values[death])
            for birth, death in self.pairs
        ]
        found = []
        for dimension in dimensions:
            bars = [
                (birth, death)
                for simplex, birth, death in ends
                if len(simplex) == dimension + 1
                and death > birth
                and (death < torch.inf or essential == "keep")
            ]
            tensor = torch.tensor(bars, dtype=torch.float64).reshape(-1, 2)
            found.append(PersistenceDiagrams.from_list([tensor], dimension))
        return tuple(found)


def reduce_boundary(filtration: FilteredComplex, *, clearing: bool = False) -> Reduction:
    """Reduce the boundary matrix of a filtered complex over GF(2), column by column.

    From left to right, as long as the lowest 1 of a column stands in the same row as that of a column further
    left, the other is added to it. A column that ends empty begins a bar; one with its lowest 1 in row i ends
    the bar that simplex i began.

    Args:
        filtration: The complex in its order of entry.
        clearing: Go through the dimensions from high to low, and skip a column once its simplex is known to
            begin a bar: it would end empty. The same result for less work.

    Raises:
        TypeError: If the filtration is no :class:`~topokd_lib.topology.FilteredComplex`.

    Example:
        A triangle: two edges join its corners, the third closes a loop, the face fills it.

        >>> sides = {(0, 1): 1.0, (1, 2): 2.0, (0, 2): 3.0}
        >>> triangle = FilteredComplex({(0,): 0.0, (1,): 0.0, (2,): 0.0, **sides, (0, 1, 2): 4.0})
        >>> reduction = reduce_boundary(triangle)
        >>> reduction.pairs
        [((0,), None), ((1,), (0, 1)), ((2,), (1, 2)), ((0, 2), (0, 1, 2))]
        >>> reduction.cycles[3]
        [(0, 1), (1, 2), (0, 2)]
        >>> reduction.additions, reduce_boundary(triangle, clearing=True).additions
        (2, 0)
    """
    if not isinstance(filtration, FilteredComplex):
        raise TypeError(
            f"a filtration is a FilteredComplex, got {type(filtration).__name__}; make one with "
            f"FilteredComplex({{(0,): 0.0, …}}), .lower_star or .rips"
        )
    simplices = filtration.simplices
    number = {simplex: index for index, simplex in enumerate(simplices)}
    columns = [frozenset(number[face] for face in faces(simplex)) for simplex in simplices]
    chains = [frozenset([index]) for index in range(len(simplices))]
    order = list(range(len(simplices)))
    if clearing:
        order.sort(
            key=lambda index: -len(simplices[index])
        )  # stable: the order of entry stays within a dimension
    ending: dict[int, int] = {}
    additions = 0
    for index in order:
        if clearing and index in ending:
            columns[index], chains[index] = frozenset(), columns[ending[index]]  # a boundary has no boundary
            continue
        column = columns[index]
        while column and max(column) in ending:
            other = ending[max(column)]
            column ^= columns[other]
            chains[index] ^= chains[other]
            additions += 1
        columns[index] = column
        if column:
            ending[max(column)] = index
    return Reduction(filtration, tuple(columns), tuple(chains), additions)
