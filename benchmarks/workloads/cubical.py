"""Bars of a grey picture in dimension 0 and 1, with and without the pixels that make them."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from gudhi import CubicalComplex
from torch import Tensor

from benchmarks.measure import Case, Contender
from benchmarks.workloads.tgd import photographs
from topokd_lib.topology import cubical_diagrams

TITLE = "cubical persistence of one channel"

LONGEST = 64
"""Bars of each dimension that contenders have to agree on."""

Pairs = list[np.ndarray]


def cases(quick: bool) -> Iterator[Case]:
    """The two constructions, with the pixels that a gradient needs, and without."""
    for side, count in ((32, 96),) if quick else ((32, 96), (224, 4)):
        for construction in ("top-cells", "vertices"):
            for indexed in (True, False):
                yield _case(side, count, construction, indexed=indexed)


def _case(side: int, count: int, construction: str, *, indexed: bool) -> Case:
    small = photographs(32).flatten(0, 1).float()
    # A large picture is a small one enlarged, with noise, so that pixels differ.
    pictures = torch.nn.functional.interpolate(small[:count, None], size=(side, side), mode="bilinear")[:, 0]
    pictures = pictures + torch.rand(pictures.shape, generator=torch.Generator().manual_seed(0))
    arrays = pictures.double().numpy()

    def gudhi_pixels(image: np.ndarray) -> Pairs:
        option = "vertices" if construction == "vertices" else "top_dimensional_cells"
        grid = CubicalComplex(**{option: image})
        grid.compute_persistence()
        if indexed:
            name = (
                "vertices_of_persistence_pairs"
                if construction == "vertices"
                else "cofaces_of_persistence_pairs"
            )
            pixels = image.ravel(order="F")
            return [pixels[places.astype(int)] for places in getattr(grid, name)()[0]]
        return [grid.persistence_intervals_in_dimension(dimension) for dimension in (0, 1)]

    def cripser(image: np.ndarray) -> Pairs:
        from cripser import compute_ph

        found = compute_ph(image, filtration="V" if construction == "vertices" else "T", maxdim=1)
        return [found[found[:, 0] == dimension][:, 1:3] for dimension in (0, 1)]

    def each(compute: Callable[[np.ndarray], Pairs], items: int) -> np.ndarray:
        return np.stack([_longest(compute(image)) for image in arrays[:items]])

    def gudhi_values(items: int) -> np.ndarray:
        from gudhi.sklearn import CubicalPersistence

        kind = "vertices" if construction == "vertices" else "top_dimensional_cells"
        found = CubicalPersistence(homology_dimensions=[0, 1], input_type=kind).fit_transform(
            list(arrays[:items])
        )
        return np.stack([_longest(pairs) for pairs in found])

    def ours(engine: str, items: int) -> np.ndarray:
        batch = pictures[:items].requires_grad_(indexed)
        with torch.set_grad_enabled(indexed):
            found = cubical_diagrams(batch, construction=construction, engine=engine)
        return np.concatenate(
            [_longest_of_all(diagrams.persistence.detach(), diagrams.mask) for diagrams in found], axis=1
        )

    few = max(1, count // 8)
    missing: dict[str, Any] = {"missing": "not installed (extra: bench)"}
    name = "CubicalComplex with pixels" if indexed else "CubicalComplex"
    contenders = [Contender(f"gudhi {name}", partial(each, gudhi_pixels), items=few)]
    if not indexed:
        contenders.append(Contender("gudhi CubicalPersistence", gudhi_values, items=count))
    contenders.append(
        Contender("cripser", partial(each, cripser), items=few)
        if find_spec("cripser")
        else Contender("cripser", **missing)
    )
    contenders.append(
        Contender("ours, engine='gudhi'", partial(ours, "gudhi"), items=few if indexed else count)
    )
    contenders.append(Contender("ours", partial(ours, "auto"), items=count))
    kind = "with pixels" if indexed else "values only"
    return Case(f"{side} × {side}, {construction}, {kind}", tuple(contenders), tolerance=1e-6)


def _longest(pairs: Pairs) -> np.ndarray:
    """Persistences of the longest finite bars of each dimension, in order; zeros if there are fewer."""
    rows = []
    for bars in pairs:
        lengths = bars[:, 1] - bars[:, 0]
        finite = np.sort(lengths[lengths < 1e300])[::-1][:LONGEST]
        rows.append(np.pad(finite, (0, LONGEST - len(finite))))
    return np.concatenate(rows)


def _longest_of_all(lengths: Tensor, mask: Tensor) -> np.ndarray:
    """The same of diagrams of one dimension."""
    kept = torch.where(mask, lengths, 0).sort(dim=1, descending=True).values[:, :LONGEST]
    return torch.nn.functional.pad(kept, (0, LONGEST - kept.shape[1])).numpy()
