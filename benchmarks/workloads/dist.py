"""Distances between diagrams, next to the libraries that have them."""

import warnings
from collections.abc import Iterator

import gudhi
import numpy as np
import torch
from gudhi import hera

from benchmarks.inputs import missing
from benchmarks.measure import Case, Contender
from topokd_lib.topology import (
    PersistenceDiagrams,
    bottleneck_distance,
    sliced_wasserstein_distance,
    wasserstein_distance,
)

TITLE = "Distance of two diagrams"


def cases(quick: bool) -> Iterator[Case]:
    """Diagrams of 50 and 150 bars; 500 in a full run."""
    for bars in (50, 150) if quick else (50, 150, 500):
        generator = torch.Generator().manual_seed(bars)
        pairs = torch.rand(2, 8, bars, 2, generator=generator, dtype=torch.float64).cumsum(dim=3)
        yield from _cases(*pairs)


def _cases(one: torch.Tensor, other: torch.Tensor) -> Iterator[Case]:
    bars = one.shape[1]
    mask = torch.ones(one.shape[:2], dtype=torch.bool)
    arrays = list(zip(one.numpy(), other.numpy(), strict=True))

    def each(distance):
        return lambda count: np.array([distance(*pair) for pair in arrays[:count]])

    def ours(distance, **options):
        def compute(count: int) -> np.ndarray:
            pairs = (PersistenceDiagrams(p[:count], mask[:count], 1) for p in (one, other))
            return distance(*pairs, **options).numpy()

        return compute

    def persim(name: str, **options):
        def distance(a: np.ndarray, b: np.ndarray) -> float:
            import persim

            with warnings.catch_warnings(action="ignore"):
                return getattr(persim, name)(a, b, **options)

        return Contender(f"persim {name}", each(distance), items=4, missing=missing("persim", "persim"))

    yield Case(
        f"bottleneck, {bars} bars",
        (
            Contender("gudhi's hera, exact", each(lambda a, b: hera.bottleneck_distance(a, b, 0.0)), items=4),
            Contender("gudhi", each(gudhi.bottleneck_distance), items=4),
            Contender("ours", ours(bottleneck_distance), items=4),
        ),
        tolerance=1e-2,  # gudhi's may be too large
    )
    yield Case(
        f"Wasserstein of order 1, {bars} bars",
        (
            Contender(
                "gudhi's hera",
                each(lambda a, b: hera.wasserstein_distance(a, b, order=1, delta=1e-3)),
                items=4,
            ),
            Contender("ours", ours(wasserstein_distance), items=4),
        ),
        tolerance=1e-3,
    )
    yield Case(
        f"sliced Wasserstein, 50 directions, {bars} bars",
        (persim("sliced_wasserstein", M=50), Contender("ours", ours(sliced_wasserstein_distance), items=8)),
        tolerance=1e-6,
    )
