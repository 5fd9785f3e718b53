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
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy.spatial.distance import pdist, squareform
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from topokd_lib.errors import did_you_mean
from topokd_lib.topology.checks import is_real
from topokd_lib.topology.critical import check_options, finish
from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.prim import compiled
from topokd_lib.topology.spanning_tree import (
    check_axes,
    check_points,
    edge_lengths,
    h0_deaths,
    minimum_spanning_tree,
)

__all__ = ["check_points", "h0_deaths", "minimum_spanning_tree", "rips_diagrams"]

Edges = npt.NDArray[np.int64]

_FEW = 1000
"""Points up to which cohomology is chosen; its bits take 60 MB there."""

Engine = Callable[[Tensor, Sequence[int], float, bool], tuple[PersistenceDiagrams, ...]]
"""Points, dimensions, longest edge, whether to keep essential bars → one batch of diagrams per dimension."""


def rips_diagrams(
    points: Float[Tensor, "batch points dim"],
    *,
    dimensions: Sequence[int] = (0,),
    engine: Literal["auto", "mst", "cohomology", "gudhi", "giotto-ph"] = "auto",
    essential: Literal["drop", "keep"] = "drop",
    max_edge_length: float | None = None,
) -> tuple[PersistenceDiagrams, ...]:
    """Persistence diagrams of the Euclidean Vietoris–Rips filtration of every cloud.

    Values are edge lengths (ε = 2r). Bars of length 0 are left out, as all libraries do: a duplicate of a
    point adds no bar. All points are born at 0, so ``m`` distinct points give ``m - 1`` finite bars in
    dimension 0. Bars come in the order of their deaths, then of their births. Every engine computes
    modulo 2. gudhi's own default is 11, where a loop is filled if twice the loop is: a
    projective plane has none.

    Args:
        points: Clouds of one size. Gradients flow back to them with every engine and in every dimension.
        dimensions: Homology dimensions, in the order in which they are returned.
        engine: What finds the edges. ``"mst"``: a minimum spanning tree, dimension 0 only, much the fastest.
            ``"cohomology"``: dimensions 0 and 1 in compiled code, several times as fast as the others;
            needs numba, and memory that grows with ``points ** 3``, 60 MB for 1,000. ``"gudhi"``: any
            dimension; its cost grows quickly with gradient, where it has to build all simplices,
            ``points ** (dimension + 2)`` of them, and slowly without. ``"giotto-ph"``: any dimension; chooses
            in float32, so that of edges that differ by roundings it may take the other one. ``"auto"``: the
            tree in dimension 0; for dimension 1 of up to 1,000 points cohomology if numba is installed; else
            giotto-ph if a gradient is wanted and it is installed, else gudhi.
        essential: What to do with bars that never die: ``"drop"`` them, or ``"keep"`` them with the death
            infinity. In dimension 0 there is one for each connected component at the end.
        max_edge_length: Edges longer than this never enter; ``None``: all do.

    Raises:
        InvalidPoints: See :func:`check_points`.
        ImportError: If the engine is not installed.
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
    limit = np.inf if max_edge_length is None else max_edge_length
    keep = essential == "keep"
    if engine != "auto":
        return ENGINES[engine](points, dimensions, limit, keep)
    found = {0: _spanning_tree(points, (0,), limit, keep)[0]} if 0 in dimensions else {}
    if above := [dimension for dimension in dimensions if dimension > 0]:
        found |= zip(above, _best_above(points, above)(points, above, limit, keep), strict=True)
    return tuple(found[dimension] for dimension in dimensions)


def _best_above(points: Tensor, dimensions: Sequence[int]) -> Engine:
    if list(dimensions) == [1] and points.shape[1] <= _FEW and compiled():
        return _cohomology
    differentiable = points.requires_grad and torch.is_grad_enabled()
    return _giotto_ph if differentiable and find_spec("gph") else _gudhi


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


def _cohomology(
    points: Tensor, dimensions: Sequence[int], limit: float, keep: bool
) -> tuple[PersistenceDiagrams, ...]:
    if not set(dimensions) <= {0, 1}:
        raise ValueError(
            f"engine='cohomology' knows dimensions 0 and 1 only, asked for {tuple(dimensions)}; use "
            f"engine='gudhi' or 'auto'"
        )
    if not compiled():
        raise ImportError(
            "engine='cohomology' needs numba, which is not installed: pip install 'topokd-lib[fast]'; "
            "engine='gudhi' computes the same"
        )
    from topokd_lib.topology.cohomology import critical_edges

    return _measured(points, critical_edges, dimensions, limit, keep)


def _gudhi(
    points: Tensor, dimensions: Sequence[int], limit: float, keep: bool
) -> tuple[PersistenceDiagrams, ...]:
    if points.requires_grad and torch.is_grad_enabled():
        return _measured(points, _critical_edges, dimensions, limit, keep)
    from gudhi.sklearn import RipsPersistence

    check_points(points)
    clouds = list(points.detach().cpu().double().numpy())
    ripser = RipsPersistence(homology_dimensions=list(dimensions), threshold=limit, homology_coeff_field=2)
    dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    diagrams = []
    for dimension, bars in zip(dimensions, zip(*ripser.fit_transform(clouds), strict=True), strict=True):
        ordered = [array[np.lexsort(array.T)] for array in bars]
        pairs = pad_sequence([torch.from_numpy(array) for array in ordered], batch_first=True)
        births, deaths = pairs.to(points.device, dtype).unbind(2)
        diagrams.append(finish(births, deaths, dimension, keep=keep))
    return tuple(diagrams)


def _giotto_ph(
    points: Tensor, dimensions: Sequence[int], limit: float, keep: bool
) -> tuple[PersistenceDiagrams, ...]:
    if not find_spec("gph"):
        raise ImportError(
            "the engine 'giotto-ph' is not installed: pip install 'topokd-lib[giotto]' (Python before 3.13); "
            "engine='gudhi' computes the same"
        )
    return _measured(points, _generators, dimensions, limit, keep)


def _measured(
    points: Tensor,
    critical_edges: Callable[[npt.NDArray[np.float64], int, float], list[Edges]],
    dimensions: Sequence[int],
    limit: float,
    keep: bool,
) -> tuple[PersistenceDiagrams, ...]:
    """Diagrams with gradient, from an engine that names the edges with which bars begin and end."""
    check_points(points)
    top = max(dimensions)
    bars = []
    for cloud in points.detach().cpu().double().numpy():
        lengths = squareform(pdist(cloud - cloud.mean(axis=0)))
        found = critical_edges(lengths, top, limit)
        bars.append([edges[_order(lengths, edges)] for edges in found])
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


def _order(lengths: npt.NDArray[np.float64], edges: Edges) -> npt.NDArray[np.int64]:
    """By death, then by birth; essential bars last."""
    births, deaths = lengths[edges[:, 0], edges[:, 1]], lengths[edges[:, 2], edges[:, 3]]
    order: npt.NDArray[np.int64] = np.lexsort((births, np.where(edges[:, 2] < 0, np.inf, deaths)))
    return order


def _critical_edges(lengths: npt.NDArray[np.float64], top: int, limit: float) -> list[Edges]:
    """Per dimension one row per bar: the two ends of the edge it is born with and of the one it dies with.

    A bar of dimension 0 is born with a vertex, written as an edge from it to itself. An essential bar
    dies with the edge (-1, -1).
    """
    from gudhi import SimplexTree

    # From the enclosing radius on one vertex is joined to all others: a cone, where nothing changes.
    limit = min(limit, lengths.max(axis=1).min())
    tree = SimplexTree.create_from_array(lengths, max_filtration=limit)
    tree.expansion(top + 1)
    # gudhi leaves out the top dimension of a complex, which here is short of triangles when edges are cut.
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=tree.dimension() <= top)
    joins, regular, components, essential = tree.flag_persistence_generators()
    bars = [np.concatenate([_rows(joins[:, [0, 0, 1, 2]]), _immortal(np.stack([components] * 2, axis=1))])]
    for dimension in range(1, top + 1):
        finite = regular[dimension - 1] if dimension <= len(regular) else np.empty((0, 4))
        endless = essential[dimension - 1] if dimension <= len(essential) else np.empty((0, 2))
        bars.append(np.concatenate([_rows(finite), _immortal(endless)]))
    return bars


def _generators(lengths: npt.NDArray[np.float64], top: int, limit: float) -> list[Edges]:
    """The same from giotto-ph."""
    from gph import ripser_parallel

    found = ripser_parallel(
        lengths, maxdim=top, thresh=limit, coeff=2, metric="precomputed", return_generators=True, n_threads=1
    )
    joins, regular, components, essential = found["gens"]
    bars = [np.concatenate([_rows(joins[:, [0, 0, 1, 2]]), _immortal(np.stack([components] * 2, axis=1))])]
    bars += [
        np.concatenate([_rows(finite), _immortal(endless)])
        for finite, endless in zip(regular, essential, strict=True)
    ]
    return bars


def _rows(edges: npt.NDArray[Any]) -> Edges:
    return edges.reshape(-1, 4).astype(np.int64)


def _immortal(births: npt.NDArray[Any]) -> Edges:
    births = births.reshape(-1, 2).astype(np.int64)
    return np.concatenate([births, np.full_like(births, -1)], axis=1)


ENGINES: dict[str, Engine] = {
    "mst": _spanning_tree,
    "cohomology": _cohomology,
    "gudhi": _gudhi,
    "giotto-ph": _giotto_ph,
}


def _check_options(
    dimensions: Sequence[int], engine: str, essential: str, max_edge_length: float | None
) -> None:
    check_options(dimensions, essential)
    if engine not in (*ENGINES, "auto"):
        known = ["auto", *ENGINES]
        raise ValueError(
            f"there is no engine {engine!r}.{did_you_mean(engine, known)} Known: {', '.join(known)}."
        )
    if max_edge_length not in (None, np.inf) and not is_real(max_edge_length, 0):
        raise ValueError(f"the longest edge is a length of at least 0 or None, got {max_edge_length!r}")
