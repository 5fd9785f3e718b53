"""Persistence of functions on the vertices of a graph, differentiable with respect to the function.

The lower-star filtration lets a vertex enter at its value and an edge with its later end.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010, §VI.3. [edelsbrunner2010computational]
"""

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor

from topokd_lib.topology.checks import check_edges, check_tensor
from topokd_lib.topology.critical import check_function, check_options, diagrams_at, lower_star_places
from topokd_lib.topology.diagrams import PersistenceDiagrams

__all__ = ["graph_diagrams"]


def graph_diagrams(
    values: Float[Tensor, "batch vertices"],
    edges: Int[Tensor, "edges 2"],
    *,
    dimensions: Sequence[int] = (0,),
    superlevel: bool = False,
    essential: Literal["drop", "keep"] = "drop",
) -> tuple[PersistenceDiagrams, ...]:
    """Persistence diagrams of several functions on one graph, each by its lower-star filtration.

    Births and deaths are in the unit of the function, and each is the value of one vertex: the gradient goes
    there. Bars of length 0 are left out. Nothing fills the loops of a graph: in dimension 1 all bars are
    essential, one for each independent loop, and there are none at all in higher dimensions.

    Args:
        values: One function per row, a value for each vertex.
        edges: Ends of the edges, counted from 0; direction, loops at a vertex and repetitions do not matter.
        dimensions: Homology dimensions, in the order in which they are returned.
        superlevel: Filter from above. Births and deaths are those of ``-values``.
        essential: What to do with bars that never die: ``"drop"`` them, or ``"keep"`` them with the death
            infinity.

    Raises:
        TypeError: If values or edges are not tensors.
        ValueError: If the values are not a batch, empty, not real or not finite, an edge ends at a vertex
            that is not there, or an option is unknown.

    Example:
        A triangle with a tail. The end of the tail is lower than where it is attached.

        >>> import torch
        >>> edges = torch.tensor([[0, 1], [1, 2], [2, 0], [2, 3]])
        >>> values = torch.tensor([[0.0, 1.0, 3.0, 2.0]])
        >>> h0, h1 = graph_diagrams(values, edges, dimensions=(0, 1), essential="keep")
        >>> h0[0].tolist(), h1[0].tolist()
        ([[2.0, 3.0], [0.0, inf]], [[3.0, inf]])
    """
    check_tensor("values", values)
    if values.ndim != 2:
        hint = "; add a batch axis with values[None]" if values.ndim == 1 else ""
        raise ValueError(f"values have the axes (batch, vertices), got shape {tuple(values.shape)}{hint}")
    check_function("values", values, "(function, vertex)")
    check_options(dimensions, essential)
    check_edges(edges, values.shape[1])
    function = -values if superlevel else values
    pairs = edges[edges[:, 0] != edges[:, 1]].tolist()
    generators = [_generators(row, pairs) for row in function.detach().double().tolist()]
    return tuple(
        diagrams_at(
            function,
            [lower_star_places(found, dimension) for found in generators],
            dimension,
            keep=essential == "keep",
        )
        for dimension in dimensions
    )


def _generators(values: list[float], edges: list[list[int]]) -> Any:
    from gudhi import SimplexTree

    tree = SimplexTree()
    for vertex, value in enumerate(values):
        tree.insert([vertex], value)
    for edge in edges:
        tree.insert(edge, max(values[vertex] for vertex in edge))
    # gudhi leaves out the top dimension of a complex unless told: the loops, or, without edges, everything.
    tree.compute_persistence(persistence_dim_max=True)
    return tree.lower_star_persistence_generators()
