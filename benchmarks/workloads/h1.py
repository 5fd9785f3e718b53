"""Loops: H0 and H1 of clouds of embeddings, without and with the edges that gradients go to."""

import warnings
from collections.abc import Iterator

import gudhi
import numpy as np
import torch
from gudhi.sklearn import RipsPersistence

from benchmarks.inputs import embeddings, missing
from benchmarks.measure import Case, Contender
from topokd_lib.topology import rips_diagrams

TITLE = "H0 and H1 of a cloud of embeddings"


def cases(quick: bool) -> Iterator[Case]:
    """The official route builds all triangles, whose number grows with the cube of the points."""
    for points, dim in ((64, 64), (128, 64)) if quick else ((32, 64), (64, 64), (64, 256), (128, 64)):
        yield _case(embeddings(16, points, dim))


def _case(clouds: torch.Tensor) -> Case:
    _, points, dim = clouds.shape
    arrays = clouds.numpy()

    def summary(diagrams: list[list[np.ndarray]]) -> np.ndarray:
        """Of every cloud and dimension: number of bars, sums of births and of deaths, longest bar."""
        rows = []
        for bars in (array[np.isfinite(array[:, 1])] for cloud in diagrams for array in cloud):
            length = bars[:, 1] - bars[:, 0]
            rows.append([len(length), bars[:, 0].sum(), bars[:, 1].sum(), length.max(initial=0)])
        return np.array(rows)

    def official(count: int) -> np.ndarray:
        found = []
        for cloud in arrays[:count]:
            tree = gudhi.RipsComplex(points=cloud).create_simplex_tree(max_dimension=2)
            tree.persistence()
            found.append([tree.persistence_intervals_in_dimension(k).reshape(-1, 2) for k in (0, 1)])
        return summary(found)

    def ripser(count: int) -> np.ndarray:
        from ripser import ripser as run

        with warnings.catch_warnings(action="ignore"):  # of square clouds, which could be distances
            return summary([run(cloud, maxdim=1)["dgms"] for cloud in arrays[:count]])

    def giotto_ph(count: int) -> np.ndarray:
        from gph import ripser_parallel

        return summary([ripser_parallel(cloud, maxdim=1, n_threads=1)["dgms"] for cloud in arrays[:count]])

    def ours(count: int, engine: str = "auto", *, gradient: bool = False) -> np.ndarray:
        points = clouds[:count].clone().requires_grad_(gradient)
        h0, h1 = rips_diagrams(points, dimensions=(0, 1), engine=engine)
        if gradient:
            (h0.deaths.sum() + h1.persistence.sum()).backward()
        pairs = zip(h0.to_list(), h1.to_list(), strict=True)
        return summary([[bars.detach().double().numpy() for bars in cloud] for cloud in pairs])

    slow = max(1, 2**17 // points**3)
    return Case(
        f"{points} points in {dim} dimensions",
        (
            Contender("official: gudhi RipsComplex", official, items=slow, floor=20 if points > 64 else None),
            Contender(
                "gudhi RipsPersistence",
                lambda n: summary(
                    RipsPersistence(homology_dimensions=[0, 1]).fit_transform(list(arrays[:n]))
                ),
                items=8,
            ),
            Contender("ripser.py", ripser, items=8, missing=missing("ripser", "ripser")),
            Contender("giotto-ph", giotto_ph, items=8, missing=missing("gph", "topokd-lib[giotto]")),
            Contender(
                "ours with gradient, engine gudhi", lambda n: ours(n, "gudhi", gradient=True), items=slow
            ),
            Contender(
                "ours with gradient, engine giotto-ph",
                lambda n: ours(n, "giotto-ph", gradient=True),
                items=8,
                missing=missing("gph", "topokd-lib[giotto]"),
            ),
            Contender("ours with gradient", lambda n: ours(n, gradient=True), items=8),
            Contender("ours", ours, items=8),
        ),
        tolerance=1e-5,
    )
