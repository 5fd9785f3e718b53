"""Persistence images of diagrams that are there already, by density and by mass, forward and backward."""

import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from gudhi.representations import PersistenceImage as GudhiImage
from torch import Tensor

from benchmarks.inputs import missing
from benchmarks.measure import Case, Contender
from topokd_lib.topology import PersistenceDiagrams, PersistenceImage

TITLE = "Persistence image of a diagram, weight = persistence"


def cases(quick: bool) -> Iterator[Case]:  # noqa: ARG001
    """A minibatch's 63 bars as TopKD draws them, and a larger diagram as RipsNet's tutorial does."""
    for bars, side in ((63, 20), (200, 50)):
        generator = torch.Generator().manual_seed(bars)
        pairs = torch.rand(256, bars, 2, generator=generator).cumsum(dim=2)
        yield _density(pairs, side)
        yield _mass(pairs, side)
        yield _gradient(pairs, side)


def _image(side: int, value: str) -> PersistenceImage:
    return PersistenceImage((0.0, 1.0), (0.0, 1.0), bandwidth=0.1, resolution=(side, side), value=value)


def _ours(image: PersistenceImage, pairs: Tensor) -> Callable[[int], np.ndarray]:
    mask = torch.ones(pairs.shape[:2], dtype=torch.bool)
    return lambda count: image(PersistenceDiagrams(pairs[:count], mask[:count], 1)).numpy()


def _naive(pairs: Tensor, side: int) -> Tensor:
    births, persistence = pairs[..., 0, None, None], (pairs[..., 1] - pairs[..., 0])[..., None, None]
    places = torch.linspace(0, 1, side)
    squares = (places[:, None] - persistence) ** 2 + (places - births) ** 2
    return (persistence * torch.exp(-squares / 0.02) / (0.02 * torch.pi)).sum(dim=1)


def _density(pairs: Tensor, side: int) -> Case:
    image, arrays = _image(side, "density"), list(pairs.double().numpy())
    gudhi = GudhiImage(
        bandwidth=0.1, weight=lambda bar: bar[1], resolution=[side, side], im_range=[0, 1, 0, 1]
    )

    return Case(
        f"density, {pairs.shape[1]} bars, {side} × {side}",
        (
            Contender(
                "gudhi", lambda n: gudhi.fit_transform(arrays[:n]).reshape(n, side, side), items=16, floor=10
            ),
            Contender("torch, an exponential per pixel", lambda n: _naive(pairs[:n], side).numpy(), items=16),
            Contender("ours", _ours(image, pairs), items=256),
        ),
        tolerance=1e-5,
    )


def _mass(pairs: Tensor, side: int) -> Case:
    image, arrays = _image(side, "mass"), list(pairs.double().numpy())

    def persim(count: int) -> np.ndarray:
        from persim import PersistenceImager

        imager = PersistenceImager(
            (0, 1), (0, 1), pixel_size=1 / side, weight="persistence", weight_params={"n": 1.0}
        )
        imager.kernel_params = {"sigma": [[0.01, 0.0], [0.0, 0.01]]}  # the covariance
        with warnings.catch_warnings(action="ignore"):
            pictures = imager.transform([array.copy() for array in arrays[:count]], skew=True)
        return np.stack([picture.T for picture in pictures])

    return Case(
        f"mass, {pairs.shape[1]} bars, {side} × {side}",
        (
            Contender("persim", persim, items=8, missing=missing("persim", "persim")),
            Contender("ours", _ours(image, pairs), items=256),
        ),
        tolerance=1e-5,
    )


def _gradient(pairs: Tensor, side: int) -> Case:
    image = _image(side, "density")
    pixels = torch.linspace(-1, 1, side**2).reshape(side, side)

    def step(count: int, draw: Callable[[PersistenceDiagrams], Tensor]) -> np.ndarray:
        leaf = pairs[:count].clone().requires_grad_()
        mask = torch.ones(leaf.shape[:2], dtype=torch.bool)
        (draw(PersistenceDiagrams(leaf, mask, 1)) * pixels).sum().backward()
        return leaf.grad.numpy()

    def naive(diagrams: PersistenceDiagrams) -> Tensor:
        return _naive(diagrams.pairs, side)

    return Case(
        f"density forward and backward, {pairs.shape[1]} bars, {side} × {side}",
        (
            Contender("torch, an exponential per pixel", lambda n: step(n, naive), items=16),
            Contender("ours", lambda n: step(n, image), items=64),
        ),
        tolerance=1e-5,
    )
