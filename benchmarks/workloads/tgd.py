"""From pictures to the persistence images of topology-guided distillation, scanned by rows."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Case, Contender
from topokd_lib.topology import ScanPersistence, signal_diagrams, tgd_official
from topokd_lib.topology.diagrams import PersistenceDiagrams

TITLE = "50 × 50 persistence images of three channels of a 32 × 32 picture (TGD's conventions)"

ONE_LEVEL = 1.001 / 255
"""Cutting off to whole numbers may differ by one."""


def cases(quick: bool) -> Iterator[Case]:
    """In float64 the tails of Gaussians are drawn as officially, in float32 they are left out."""
    yield _case("float32", ScanPersistence(scans=("rows",)))
    if not quick:
        yield _case("float64", ScanPersistence(scans=("rows",), faintest=0.0, precision="float64"))


def photographs(count: int) -> Tensor:
    """Parts of the photographs that come with scikit-learn, small enough to be as rich as those of CIFAR-10.

    A channel has 130 bars longer than 0.02 on average, as the channels of CIFAR-10's test images have.
    """
    from sklearn.datasets import load_sample_images

    small = [torch.from_numpy(photo[::4, ::4].copy()) for photo in load_sample_images().images]
    pictures = torch.cat([photo.unfold(0, 32, 7).unfold(1, 32, 7).flatten(0, 1) for photo in small])
    # Pictures too bright for the window have no image but an artefact, which only float64 can draw.
    seen = ScanPersistence(scans=("rows",))(pictures).amax(dim=(2, 3)).bool().all(dim=1)
    order = torch.randperm(int(seen.sum()), generator=torch.Generator().manual_seed(0))
    return pictures[seen][order[:count]].contiguous()


def official(pictures: Tensor) -> np.ndarray:
    """What the authors' notebook does, channel by channel, with the two packages that it uses."""
    from persim import PersImage
    from ripser import ripser
    from scipy.sparse import coo_matrix

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the class is deprecated
        draw = PersImage(spread=0.01, pixels=[50, 50], specs={"maxBD": 0.3, "minBD": 0.0}, verbose=False)
    made = []
    for channel in pictures.flatten(0, 1).flatten(1).double().numpy() / 255:
        first = np.arange(len(channel) - 1)
        step = np.maximum(channel[:-1], channel[1:])
        every = np.arange(len(channel))
        values = np.concatenate([step, step, channel])
        places = np.concatenate([first, first + 1, every]), np.concatenate([first + 1, first, every])
        filtration = coo_matrix((values, places), shape=(len(channel),) * 2).tocsr()
        bars = ripser(filtration, distance_matrix=True, maxdim=0)["dgms"][0]
        finite = bars[np.isfinite(bars[:, 1])]
        image = np.asarray(draw.transform(finite[finite[:, 1] - finite[:, 0] > 0.02]))
        largest = image.max()
        made.append((image / largest * 255 if largest > 0 else image).astype(np.uint8))
    return np.stack(made).reshape(len(pictures), -1).astype(float)


def _case(name: str, persistence: ScanPersistence) -> Case:
    pictures = photographs(16).repeat(8, 1, 1, 1)  # so that all contenders see the same ones

    def best_of_gudhi(count: int) -> np.ndarray:
        from gudhi.sklearn import CubicalPersistence

        signals = pictures[:count].flatten(0, 1).flatten(1).double().numpy() / 255
        found = CubicalPersistence(homology_dimensions=0).fit_transform(list(signals))
        return _pixels(tgd_official(PersistenceDiagrams.from_list(found, dimension=0)), count)

    def any_number(count: int) -> np.ndarray:
        signals = pictures[:count].flatten(0, 1).flatten(1).double() / 255
        return _pixels(tgd_official(signal_diagrams(signals)), count)

    def ours(count: int) -> np.ndarray:
        return _pixels(persistence(pictures[:count]), count)

    installed = find_spec("ripser") and find_spec("persim")
    contenders = (
        Contender(
            "official: ripser, persim PersImage",
            lambda count: official(pictures[:count]),
            items=16,
            floor=60 if persistence.precision == "float32" else 30,
        )
        if installed
        else Contender("official", missing="ripser or persim not installed (extra: bench)"),
        Contender("gudhi CubicalPersistence, our formula", best_of_gudhi, items=32),
        Contender("ours for real numbers", any_number, items=32),
        Contender("ours for grey levels", ours, items=128),
    )
    return Case(name, contenders, tolerance=ONE_LEVEL)


def _pixels(images: Tensor, count: int) -> np.ndarray:
    return images.reshape(count, -1).numpy().astype(float)
