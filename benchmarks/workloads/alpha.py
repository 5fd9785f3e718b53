"""Figures of the book: alpha complexes and Vietoris–Rips of the same points in the plane."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.inputs import annulus
from benchmarks.measure import Case, Contender
from topokd_lib.topology import alpha_diagrams, h0_deaths, rips_diagrams

TITLE = "H0 and H1 of a noisy circle in the plane"


def cases(quick: bool) -> Iterator[Case]:
    """The deaths in dimension 0 are the same and are compared; the loops differ, and so do the times."""
    for points in (300,) if quick else (300, 1000):
        cloud = annulus(points)
        half = torch.cat([cloud] * 4)

        def deaths(diagrams, count: int) -> np.ndarray:
            return np.repeat(np.sort(diagrams[0][0].numpy()[:, 1])[None], count, axis=0)

        def alpha(count: int, clouds=half) -> np.ndarray:
            found = [alpha_diagrams(clouds[:1], unit="diameter") for _ in range(count)]
            return deaths(found[-1], count)

        def rips(count: int, clouds=half) -> np.ndarray:
            found = [rips_diagrams(clouds[:1], dimensions=(0, 1)) for _ in range(count)]
            return deaths(found[-1], count)

        def components(count: int, clouds=half) -> np.ndarray:
            found = [h0_deaths(clouds[:1]) for _ in range(count)]
            return np.repeat(found[-1].numpy(), count, axis=0)

        yield Case(
            f"{points} points",
            (
                Contender("Vietoris–Rips", rips, items=1),
                Contender("H0 alone, minimum spanning tree", components, items=16),
                Contender("ours: alpha complex", alpha, items=4),
            ),
            tolerance=1e-6,
        )
