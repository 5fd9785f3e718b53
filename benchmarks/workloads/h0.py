"""From point clouds to H0 diagrams and their persistence images as TopKD makes them."""

from collections.abc import Iterator
from contextlib import ExitStack
from unittest.mock import patch

import gudhi
import numpy as np
import torch
from gudhi.representations import PersistenceImage as GudhiImage
from gudhi.sklearn import RipsPersistence
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist

from benchmarks.inputs import embeddings, missing
from benchmarks.measure import Case, Contender
from topokd_lib.topology import PersistenceDiagrams, PersistenceImage, h0_deaths, rips_diagrams

TITLE = "H0 of a cloud of embeddings"

SIZES = ((64, 64), (64, 256), (128, 256))
MORE_SIZES = ((64, 512), (256, 64), (256, 512))


def cases(quick: bool) -> Iterator[Case]:
    """Diagrams alone, then with the 20 × 20 images: minibatches of CIFAR networks' features."""
    sizes = SIZES if quick else SIZES + MORE_SIZES
    for case in (_with_image, _diagram):
        for points, dim in sizes:
            yield case(embeddings(2**16 // points, points, dim))  # of which ours takes some 20 ms, too


def official(cloud: np.ndarray) -> np.ndarray:
    """jekim5418/TopKD, ripsnet_utils.py: all edges in a simplex tree."""
    tree = gudhi.RipsComplex(points=cloud).create_simplex_tree(max_dimension=1)
    tree.persistence()
    bars = tree.persistence_intervals_in_dimension(0)
    return bars[np.isfinite(bars).all(axis=1)]


def best_of_gudhi(clouds: np.ndarray) -> list[np.ndarray]:
    found = RipsPersistence(homology_dimensions=0).fit_transform(list(clouds))
    return [bars[np.isfinite(bars).all(axis=1)] for bars in found]


def without_numba() -> ExitStack:
    """Our own routes for machines without numba."""
    stack = ExitStack()
    for module in ("drawing", "prim", "spanning_tree"):
        stack.enter_context(patch(f"topokd_lib.topology.{module}.compiled", lambda: None))
    return stack


def _with_image(clouds: torch.Tensor) -> Case:
    _, points, dim = clouds.shape
    arrays = clouds.numpy()
    image = PersistenceImage.topkd_official(rips_diagrams(clouds[:128].double())[0])
    official_image = GudhiImage(
        bandwidth=image.bandwidth,
        weight=lambda bar: 10 * np.tanh(bar[1]) + 10 * np.log(100 * bar[0] + 1),
        resolution=[20, 20],
        im_range=[*image.birth_range, *image.persistence_range],
    )

    def official_route(count: int) -> np.ndarray:
        images = official_image.fit_transform([official(cloud) for cloud in arrays[:count]])
        return (images / image.scale).reshape(count, 20, 20)

    def peer(count: int) -> np.ndarray:
        return image(PersistenceDiagrams.from_list(best_of_gudhi(arrays[:count]), dimension=0)).numpy()

    def ours(count: int) -> np.ndarray:
        return image(rips_diagrams(clouds[:count])[0]).numpy()

    def plain(count: int) -> np.ndarray:
        with without_numba():
            return ours(count)

    return Case(
        f"diagram and TopKD's image, {points} points in {dim} dimensions",
        (
            Contender(
                "official: RipsComplex, gudhi's image",
                official_route,
                items=32,
                floor=25 if dim < 256 else 18,
            ),
            Contender("gudhi RipsPersistence, our image", peer, items=64, floor=4),
            Contender("ours without numba", plain, items=256),
            Contender("ours", ours, items=len(clouds)),
        ),
        tolerance=1e-5,
    )


def _diagram(clouds: torch.Tensor) -> Case:
    _, points, dim = clouds.shape
    arrays, exact = clouds.numpy(), clouds.double().numpy()

    def deaths(bars: list[np.ndarray]) -> np.ndarray:
        return np.stack([np.sort(array[:, 1]) for array in bars])

    def giotto_ph(count: int) -> np.ndarray:
        from gph import ripser_parallel

        found = [ripser_parallel(cloud, maxdim=0, n_threads=1)["dgms"][0] for cloud in arrays[:count]]
        return deaths([bars[np.isfinite(bars[:, 1])] for bars in found])

    return Case(
        f"diagram, {points} points in {dim} dimensions",
        (
            Contender(
                "scipy single linkage",
                lambda count: np.stack([linkage(pdist(c), "single")[:, 2] for c in exact[:count]]),
                items=32,
            ),
            Contender(
                "official: gudhi RipsComplex",
                lambda count: deaths([official(c) for c in arrays[:count]]),
                items=16,
            ),
            Contender("gudhi RipsPersistence", lambda count: deaths(best_of_gudhi(arrays[:count])), items=32),
            Contender("giotto-ph", giotto_ph, items=16, missing=missing("gph", "topokd-lib[giotto]")),
            Contender("ours", lambda count: h0_deaths(clouds[:count]).numpy(), items=len(clouds)),
        ),
        tolerance=1e-6,
    )
