"""Vietoris–Rips persistence of batches of point clouds, differentiable with respect to the points.

The filtration value of a simplex is its longest edge (its diameter). Texts that grow balls of radius r
around the points write ε = 2r: their values are half of these.

Every number of a Rips diagram is the length of one edge. An engine only has to say which edge: it may work on
plain arrays, and :func:`~topokd_lib.topology.spanning_tree.edge_lengths` measures the edges again, with
gradient. This is the classical subgradient of persistence: defined almost everywhere, and at ties one of
several.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010, §III.2 and §VII. [edelsbrunner2010computational]
    M. Carrière et al. Optimizing persistent homology based functions. ICML 2021. [carriere2021optimizing]
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.spatial.distance import pdist, squareform
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from topokd_lib.errors import did_you_mean
from topokd_lib.topology.critical import check_options, finish
from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.spanning_tree import (
    check_axes,
    check_points,
    edge_lengths,
    h0_deaths,
    minimum_spanning_tree,
)

__all__ = ["check_points", "h0_deaths", "minimum_spanning_tree", "rips_diagrams"]

Edges = npt.NDArray[np.int64]

Engine = Callable[[Tensor, Sequence[int], float, bool], tuple[PersistenceDiagrams, ...]]
"""Points, dimensions, longest edge, whether to keep essential bars → one batch of diagrams per dimension."""


def rips_diagrams(
    points: Float[Tensor, "batch points dim"],
    *,
    dimensions: Sequence[int] = (0,),
    engine: Literal["auto", "mst", "gudhi"] = "auto",
    essential: Literal["drop", "keep"] = "drop",
    max_edge_length: float | None = None,
) -> tuple[PersistenceDiagrams, ...]:
    """Persistence diagrams of the Euclidean Vietoris–Rips filtration of every cloud.

    Values are edge lengths (ε = 2r). Bars of length 0 are left out, as all libraries do: a duplicate of a
    point adds no bar. All points are born at 0, so ``m`` distinct points give ``m - 1`` finite bars in
    dimension 0.

    Args:
        points: Clouds of one size. Gradients flow back to them with every engine and in every dimension.
        dimensions: Homology dimensions, in the order in which they are returned.
        engine: ``"mst"``: a minimum spanning tree, dimension 0 only, much the fastest.
            ``"gudhi"``: the simplex tree, any dimension; its cost grows with the number of simplices,
            ``points ** (dimension + 2)``. ``"auto"``: the first for dimension 0 alone, else the second.
        essential: What to do with bars that never die: ``"drop"`` them, or ``"keep"`` them with the death
            infinity. In dimension 0 there is one for each connected component at the end.
        max_edge_length: Edges longer than this never enter; ``None``: all do.

    Raises:
        InvalidPoints: See :func:`check_points`.
        ValueError: If the dimensions, the engine or the longest edge make no sense together.

    Differs from:
        jekim5418/TopKD (ripsnet_utils.py) computes the same diagrams, one cloud at a time, without
        gradient.

    Example:
        The corners of a unit square: three bars join them, one loop lives from the side to the diagonal.

        >>> square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
        >>> h0, h1 = rips_diagrams(square, dimensions=(0, 1))
        >>> h0.deaths
        tensor([[1., 1., 1.]])
        >>> h1[0]
        tensor([[1.0000, 1.4142]])
    """
    check_axes(points)
    _check_options(dimensions, engine, essential, max_edge_length)
    if engine == "auto":
        engine = "mst" if set(dimensions) == {0} else "gudhi"
    limit = np.inf if max_edge_length is None else max_edge_length
    return ENGINES[engine](points, dimensions, limit, essential == "keep")


def _spanning_tree(
    points: Tensor, dimensions: Sequence[int], limit: float, keep: bool
) -> tuple[PersistenceDiagrams, ...]:
    if set(dimensions) != {0}:
        raise ValueError(
            f"a minimum spanning tree knows dimension 0 only, asked for {tuple(dimensions)}; "
            f"use engine='gudhi' or 'auto'"
        )
    deaths = h0_deaths(points)
    if limit < np.inf:
        deaths = torch.where(deaths > limit, torch.inf, deaths)
    if keep:
        deaths = torch.cat([deaths, deaths.new_full((len(deaths), 1), torch.inf)], dim=1)
    return (finish(torch.zeros_like(deaths), deaths, 0, keep=keep),)


def _gudhi(
    points: Tensor, dimensions: Sequence[int], limit: float, keep: bool
) -> tuple[PersistenceDiagrams, ...]:
    check_points(points)
    top = max(dimensions)
    bars = [_critical_edges(cloud, top, limit) for cloud in points.detach().cpu().double().numpy()]
    diagrams = []
    for dimension in dimensions:
        edges = pad_sequence(
            [torch.from_numpy(cloud[dimension]) for cloud in bars], batch_first=True, padding_value=0
        ).to(points.device)
        births = edge_lengths(points, edges[..., :2])
        deaths = edge_lengths(points, edges[..., 2:].clamp(min=0))
        deaths = torch.where(edges[..., 2] < 0, torch.inf, deaths)
        diagrams.append(finish(births, deaths, dimension, keep=keep))
    return tuple(diagrams)


def _critical_edges(points: npt.NDArray[np.float64], top: int, limit: float) -> list[Edges]:
    """Per dimension one row per bar: the two ends of the edge it is born with and of the one it dies with.

    A bar of dimension 0 is born with a vertex, written as an edge from it to itself. An essential bar
    dies with the edge (-1, -1).
    """
    from gudhi import SimplexTree

    lengths = squareform(pdist(points - points.mean(axis=0)))
    # From the enclosing radius on one vertex is joined to all others: a cone, where nothing changes.
    limit = min(limit, lengths.max(axis=1).min())
    tree = SimplexTree.create_from_array(lengths, max_filtration=limit)
    tree.expansion(top + 1)
    # gudhi leaves out the top dimension of a complex, which here is short of triangles when edges are cut.
    tree.compute_persistence(persistence_dim_max=tree.dimension() <= top)
    joins, regular, components, essential = tree.flag_persistence_generators()
    bars = [np.concatenate([_rows(joins[:, [0, 0, 1, 2]]), _immortal(np.stack([components] * 2, axis=1))])]
    for dimension in range(1, top + 1):
        finite = regular[dimension - 1] if dimension <= len(regular) else np.empty((0, 4))
        endless = essential[dimension - 1] if dimension <= len(essential) else np.empty((0, 2))
        bars.append(np.concatenate([_rows(finite), _immortal(endless)]))
    return bars


def _rows(edges: npt.NDArray[Any]) -> Edges:
    return edges.reshape(-1, 4).astype(np.int64)


def _immortal(births: npt.NDArray[Any]) -> Edges:
    births = births.reshape(-1, 2).astype(np.int64)
    return np.concatenate([births, np.full_like(births, -1)], axis=1)


ENGINES: dict[str, Engine] = {"mst": _spanning_tree, "gudhi": _gudhi}


def _check_options(
    dimensions: Sequence[int], engine: str, essential: str, max_edge_length: float | None
) -> None:
    check_options(dimensions, essential)
    if engine not in (*ENGINES, "auto"):
        known = ["auto", *ENGINES]
        raise ValueError(
            f"there is no engine {engine!r}.{did_you_mean(engine, known)} Known: {', '.join(known)}."
        )
    if max_edge_length is not None and not max_edge_length >= 0:
        raise ValueError(f"the longest edge is a length of at least 0 or None, got {max_edge_length}")
