"""How the pixels of persistence images are computed: Gaussians as products of two tables.

An image is one matrix product of the bars' tables along persistence and across births, instead of an
exponential per bar and pixel. In dimension 0, where all bars are born together, one table is left.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.topology.prim import compiled

if TYPE_CHECKING:
    from topokd_lib.topology.images import PersistenceImage

__all__ = ["WEIGHTS", "draw"]

WEIGHTS = ("constant", "persistence", "tanh", "topkd")
"""Of bars; compiled loops know them by their place here."""

_FEW = 2**13
"""Entries of both tables up to which a loop is faster than torch."""


def draw(
    image: "PersistenceImage", pairs: Float[Tensor, "batch bars 2"], mask: Bool[Tensor, "batch bars"]
) -> Float[Tensor, "batch persistence birth"]:
    """The pictures of some diagrams, differentiable with respect to births and deaths.

    All columns of a range of width 0 are the same: one is returned, and stands for all of them.
    """
    entries = len(pairs) * pairs.shape[1] * sum(image.resolution)
    plain = pairs.device.type == "cpu" and pairs.dtype in (torch.float32, torch.float64)
    if entries <= _FEW and plain and compiled():
        picture: Tensor = _DrawingOfFew.apply(pairs, mask, image)
        return picture
    return _picture(image, pairs, mask)


class _DrawingOfFew(torch.autograd.Function):
    """:func:`_picture` bar by bar, compiled: for few bars torch's operations cost more than what they do."""

    @staticmethod
    def forward(ctx: Any, pairs: Tensor, mask: Tensor, image: "PersistenceImage") -> Tensor:
        ctx.save_for_backward(pairs, mask)
        ctx.image = image
        births, (rows, columns) = image.birth_range, image.resolution
        picture = pairs.new_empty(len(pairs), rows, columns if births[0] < births[1] else 1)
        arrays = _array(pairs), _array(mask)
        compiled().draw_bars(*arrays, *_settings(image), picture.numpy())  # type: ignore[union-attr]
        return picture

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        pairs, mask = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this is wanted
            picture = _picture(ctx.image, pairs, mask)
            return torch.autograd.grad(picture, pairs, gradient, create_graph=True)[0], None, None
        pulled = torch.empty_like(pairs, memory_format=torch.contiguous_format)
        arrays = _array(pairs), _array(mask)
        compiled().pull_bars(  # type: ignore[union-attr]
            *arrays, *_settings(ctx.image), _array(gradient), pulled.numpy()
        )
        return pulled, None, None


def _array(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy()


def _settings(image: "PersistenceImage") -> tuple[Any, ...]:
    births, persistences = (
        tuple(map(float, limits)) for limits in (image.birth_range, image.persistence_range)
    )
    weight = WEIGHTS.index(image.weight)
    return births, persistences, float(image.bandwidth), image.value == "mass", weight, float(image.scale)


def _picture(
    image: "PersistenceImage", pairs: Tensor, mask: Tensor
) -> Float[Tensor, "batch persistence birth"]:
    """Pictures by torch. One table is enough if all bars are born where an image of width 0 lies."""
    births, persistence = pairs[..., 0], pairs[..., 1] - pairs[..., 0]
    first, last = image.birth_range
    constant = not (pairs.requires_grad and torch.is_grad_enabled())
    still = constant and first == last and not (births != first).any()
    weights = _weights(image, first if still else births, persistence)
    if not mask.all():
        weights = weights * mask
    along = _table(image, persistence, image.persistence_range, image.resolution[0])
    if still:
        return (weights[:, None] @ along).mT
    across = _table(image, births, image.birth_range, image.resolution[1] if first < last else 1)
    return (along * weights[..., None]).mT @ across


def _factor(image: "PersistenceImage") -> float:
    """What tables leave out: the constant of the Gaussian density, and the scale."""
    constant = 1.0 if image.value == "mass" else 1 / (2 * math.pi * image.bandwidth**2)
    return constant / image.scale


def _weights(image: "PersistenceImage", births: Tensor | float, persistence: Tensor) -> Tensor:
    """The weight of every bar, times the factor; of a single birth if all are the same."""
    factor = _factor(image)
    match image.weight:
        case "constant":
            return torch.full_like(persistence, factor)
        case "persistence":
            return persistence * factor
        case "tanh":
            return persistence.tanh() * (10 * factor)
        case "topkd":
            within = 100 * births + 1
            logarithm = within.log() if isinstance(within, Tensor) else math.log(within)
            return (persistence.tanh() + logarithm) * (10 * factor)


def _table(
    image: "PersistenceImage", centres: Tensor, limits: tuple[float, float], steps: int
) -> Float[Tensor, "batch bars steps"]:
    """The Gaussian of each bar along one axis: at points, up to a constant, or its mass in cells."""
    count = steps + 1 if image.value == "mass" else steps
    places = torch.linspace(*limits, count, dtype=centres.dtype, device=centres.device)
    offsets = (places - centres[..., None]).mul_(1 / (image.bandwidth * math.sqrt(2)))
    if image.value == "density":
        return _exp(offsets)
    return (offsets.erf() / 2).diff(dim=-1)


def _exp(offsets: Tensor) -> Tensor:
    """exp(-x²), and 0 long before results are so small that processors compute them many times slower."""
    least = -600.0 if offsets.dtype == torch.float64 else -60.0
    return F.threshold((offsets * offsets).neg_(), least, -math.inf).exp_()
