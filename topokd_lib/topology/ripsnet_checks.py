"""Is RipsNet a function of the shape? Its answers to moved and disturbed clouds beside the exact ones.

Exact Rips persistence does not change under isometries, and one outlier may change it by as much as the cloud
is wide. RipsNet is the reverse: nothing makes it forget where a cloud lies, and with mean pooling a few
points among many can move its answer only a little. The first is a defect, the second is what it was invented
for.

Reference:
    T. de Surrel et al. RipsNet. 2022, §4. [desurrel2022ripsnet]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.checks import is_real, is_whole
from topokd_lib.topology.images import PersistenceImage
from topokd_lib.topology.rips import rips_diagrams
from topokd_lib.topology.ripsnet import RipsNet, check_drawn
from topokd_lib.topology.spanning_tree import check_points

__all__ = ["CHANGES", "ImageChange", "Robustness", "examine_ripsnet", "robustness"]

Clouds = Float[Tensor, "clouds points dim"]


def _rotated(clouds: Tensor, random: torch.Generator) -> Tensor:
    width = clouds.shape[2]
    rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=random))
    return torch.matmul(clouds, rotation.to(clouds))


def _permuted(clouds: Tensor, random: torch.Generator) -> Tensor:
    """In another order than the given one, if there is one."""
    order = torch.randperm(clouds.shape[2], generator=random)
    if torch.equal(order, order.sort().values):
        order = order.roll(1)
    return clouds[..., order.to(clouds.device)]


def _noisy(clouds: Tensor, random: torch.Generator, share: float) -> Tensor:
    noise = torch.randn(clouds.shape, generator=random).to(clouds)
    return clouds + share * clouds.std(dim=(1, 2), keepdim=True) * noise


def _with_outliers(clouds: Tensor, random: torch.Generator, share: float) -> Tensor:
    count, points, width = clouds.shape
    replaced = round(share * points)
    if not replaced:
        return clouds
    chosen = torch.rand(count, points, generator=random).argsort(dim=1)[:, :replaced].to(clouds.device)
    low, high = clouds.amin(dim=1, keepdim=True), clouds.amax(dim=1, keepdim=True)
    fresh = low + (high - low) * torch.rand(count, replaced, width, generator=random).to(clouds)
    return clouds.scatter(1, chosen[..., None].expand(-1, -1, width), fresh)


_CHANGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "rotation": _rotated,
    "permuted_coordinates": _permuted,
    "translation": lambda clouds, _: clouds + clouds.std() / 2,
    "scale_1.1": lambda clouds, _: 1.1 * clouds,
    "scale_0.8": lambda clouds, _: 0.8 * clouds,
    "noise_0.2": lambda clouds, random: _noisy(clouds, random, 0.2),
    "outliers_0.1": lambda clouds, random: _with_outliers(clouds, random, 0.1),
    "collapse": lambda clouds, _: clouds.mean(dim=1, keepdim=True).expand_as(clouds),
}

CHANGES = tuple(_CHANGES)
"""What :func:`examine_ripsnet` does to clouds; the first three change no distance."""


@dataclass(frozen=True)
class ImageChange:
    """How far images move when their clouds are changed.

    Args:
        name: One of :data:`CHANGES`.
        exact: Mean squared difference per pixel of the exact images before and after.
        estimated: The same of RipsNet's.
    """

    name: str
    exact: float
    estimated: float


@dataclass(frozen=True)
class Robustness:
    """Images of disturbed clouds. All numbers are mean squared errors per pixel.

    Args:
        share: Of the points that were replaced, or noise in units of the cloud's standard deviation.
        exact: Between the exact images of disturbed and clean clouds.
        estimated: Between RipsNet's images of the disturbed and the exact ones of the clean clouds.
        estimated_change: Between RipsNet's images of disturbed and clean clouds.
    """

    share: float
    exact: float
    estimated: float
    estimated_change: float


@torch.no_grad()
def examine_ripsnet(
    network: RipsNet,
    image: PersistenceImage,
    clouds: Float[Tensor, "clouds points dim"],
    *,
    dimension: int = 0,
    seed: int = 0,
) -> list[ImageChange]:
    """Rotate, move, scale and disturb clouds, and see what becomes of both kinds of images.

    Args:
        network: Of images such as ``image`` draws.
        image: What the network imitates.
        clouds: Preferably ones that it has not learned from.
        dimension: Homology dimension.
        seed: Of rotation, permutation and noise.

    Raises:
        InvalidPoints: See :func:`~topokd_lib.topology.check_points`.
        TypeError: If network or image are something else.
        ValueError: If the network does not read these clouds or draws other images.

    Example:
        A rotation changes no distance, and no exact image.

        >>> random = torch.Generator().manual_seed(0)
        >>> clouds = torch.randn(4, 16, 3, generator=random)
        >>> image = PersistenceImage.fit(rips_diagrams(clouds)[0], resolution=(5, 5))
        >>> changes = examine_ripsnet(RipsNet(dim=3, pixels=25), image, clouds)
        >>> changes[0].name, changes[0].exact < 1e-6
        ('rotation', True)
    """
    _check_seed(seed)
    exact, estimated = _both(network, image, clouds, dimension)
    rows = []
    for name, change in _CHANGES.items():
        moved = change(clouds, torch.Generator().manual_seed(seed))
        exact_after, estimated_after = _both(network, image, moved, dimension)
        rows.append(ImageChange(name, _mse(exact_after, exact), _mse(estimated_after, estimated)))
    return rows


@torch.no_grad()
def robustness(
    network: RipsNet,
    image: PersistenceImage,
    clouds: Float[Tensor, "clouds points dim"],
    *,
    shares: Sequence[float] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.33),
    kind: Literal["outliers", "noise"] = "outliers",
    dimension: int = 0,
    seed: int = 0,
) -> list[Robustness]:
    """Exact images and RipsNet's when clouds are disturbed more and more.

    Args:
        network: Of images such as ``image`` draws.
        image: What the network imitates.
        clouds: Clean ones.
        shares: How much they are disturbed.
        kind: ``"outliers"`` replaces a share of the points by uniform ones in the cloud's bounding box, as
            the experiments of RipsNet do; ``"noise"`` adds to all of them a Gaussian of that share of the
            cloud's standard deviation.
        dimension: Homology dimension.
        seed: Of the disturbance.

    Raises:
        InvalidPoints: See :func:`~topokd_lib.topology.check_points`.
        TypeError: If network or image are something else.
        ValueError: If a share is negative or, of outliers, above 1, the kind is unknown, or network, image
            and clouds do not fit.

    Example:
        >>> random = torch.Generator().manual_seed(0)
        >>> clouds = torch.randn(4, 16, 3, generator=random)
        >>> image = PersistenceImage.fit(rips_diagrams(clouds)[0], resolution=(5, 5))
        >>> rows = robustness(RipsNet(dim=3, pixels=25), image, clouds, shares=(0.0, 0.5))
        >>> [(row.share, row.exact > 0) for row in rows]
        [(0.0, False), (0.5, True)]
    """
    if kind not in ("outliers", "noise"):
        raise ValueError(f"clouds are disturbed by 'outliers' or 'noise', got {kind!r}")
    given = tuple(shares) if isinstance(shares, Sequence) else ()
    known = bool(given) and all(is_real(share, 0) for share in given)
    if not known or (kind == "outliers" and max(given) > 1):
        raise ValueError(f"shares of points are from 0 to 1, and noise is at least 0, got {shares!r}")
    _check_seed(seed)
    disturb = _with_outliers if kind == "outliers" else _noisy
    clean, estimated_clean = _both(network, image, clouds, dimension)
    rows = []
    for share in shares:
        disturbed = disturb(clouds, torch.Generator().manual_seed(seed), share)
        exact, estimated = _both(network, image, disturbed, dimension)
        rows.append(
            Robustness(share, _mse(exact, clean), _mse(estimated, clean), _mse(estimated, estimated_clean))
        )
    return rows


def _both(
    network: RipsNet, image: PersistenceImage, clouds: Tensor, dimension: int
) -> tuple[Float[Tensor, "clouds pixels"], Float[Tensor, "clouds pixels"]]:
    check_points(clouds)
    check_drawn(network, image)
    clouds = clouds.to(network.input_mean)
    (diagrams,) = rips_diagrams(clouds, dimensions=(dimension,))
    return image(diagrams).flatten(1).to(clouds), torch.as_tensor(network(clouds))


def _check_seed(seed: int) -> None:
    if not is_whole(seed):
        raise ValueError(f"a seed is a whole number, got {seed!r}")


def _mse(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean())
