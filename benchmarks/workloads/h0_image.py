"""From point clouds to H0 persistence images as TopKD makes them: the target of its topological loss."""

from collections.abc import Iterator

import gudhi
import numpy as np
import torch
from gudhi.representations import PersistenceImage as GudhiImage
from gudhi.sklearn import RipsPersistence

from benchmarks.measure import Case, Contender
from topokd_lib.topology import PersistenceDiagrams, rips_diagrams
from topokd_lib.topology.images import PersistenceImage

TITLE = "H0 diagram and 20 × 20 persistence image of a cloud (TopKD's conventions)"


def cases(quick: bool) -> Iterator[Case]:
    """Clouds of one minibatch of 64 embeddings, as wide as the features of two CIFAR networks."""
    for width in (64,) if quick else (64, 256):
        yield _case(points=64, width=width)


def _case(points: int, width: int) -> Case:
    clouds = torch.rand(128, points, width, generator=torch.Generator().manual_seed(width))
    image = PersistenceImage.topkd_official(rips_diagrams(clouds)[0])
    births, persistences = image.birth_range, image.persistence_range
    official_image = GudhiImage(
        bandwidth=image.bandwidth,
        weight=lambda bar: 10 * np.tanh(bar[1]) + 10 * np.log(100 * bar[0] + 1),
        resolution=[20, 20],
        im_range=[*births, *persistences],
    )

    def official(count: int) -> np.ndarray:
        diagrams = []
        for cloud in clouds[:count].numpy():
            tree = gudhi.RipsComplex(points=cloud).create_simplex_tree(max_dimension=1)
            tree.persistence()
            bars = tree.persistence_intervals_in_dimension(0)
            diagrams.append(bars[np.isfinite(bars).all(axis=1)])
        images = official_image.fit_transform(diagrams) / image.scale
        return images.reshape(count, 20, 20)

    def best_of_gudhi(count: int) -> np.ndarray:
        found = RipsPersistence(homology_dimensions=0).fit_transform(list(clouds[:count].numpy()))
        finite = [bars[np.isfinite(bars).all(axis=1)] for bars in found]
        return image(PersistenceDiagrams.from_list(finite, dimension=0)).numpy()

    def ours(count: int) -> np.ndarray:
        return image(rips_diagrams(clouds[:count])[0]).numpy()

    contenders = (
        Contender("official: RipsComplex, gudhi image", official, items=16),
        Contender("gudhi RipsPersistence, our image", best_of_gudhi, items=32),
        Contender("ours", ours, items=128),
    )
    return Case(f"{points} points in {width} dimensions", contenders, tolerance=1e-4)
