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

__all__ = ["draw"]

WEIGHTS = ("constant", "persistence", "tanh", "topkd")
"""Compiled loops know weights by their number."""

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
        few: Tensor = _DrawingOfFew.apply(pairs, mask, image)
        return few
    if pairs.requires_grad and torch.is_grad_enabled():
        picture: Tensor = _Drawing.apply(pairs, mask, image)
        return picture
    return _picture(image, pairs, mask)[0]


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
            return _differentiable_gradient(ctx.image, pairs, mask, gradient), None, None
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


def _differentiable_gradient(
    image: "PersistenceImage", pairs: Tensor, mask: Tensor, gradient: Tensor
) -> Tensor:
    picture = _picture(image, pairs, mask)[0]
    found: Tensor = torch.autograd.grad(picture, pairs, gradient, create_graph=True)[0]
    return found


class _Drawing(torch.autograd.Function):
    """:func:`_picture` with a derivative that uses the tables again: a third of autograd's operations."""

    @staticmethod
    def forward(ctx: Any, pairs: Tensor, mask: Tensor, image: "PersistenceImage") -> Tensor:
        picture, *tables = _picture(image, pairs, mask)
        ctx.save_for_backward(pairs, mask, *tables)
        ctx.image = image
        return picture

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        pairs, mask, weights, along, across = ctx.saved_tensors
        image: PersistenceImage = ctx.image
        if torch.is_grad_enabled():  # a derivative of this is wanted
            return _differentiable_gradient(image, pairs, mask, gradient), None, None
        births, persistence = pairs[..., 0], pairs[..., 1] - pairs[..., 0]
        seen = gradient.mT if across is None else across @ gradient.mT
        by_weight = (along * seen).sum(dim=2) * _factor(image)
        if not mask.all():
            by_weight *= mask
        slope = _table_slope(image, along, persistence, image.persistence_range)
        by_persistence = weights * slope.mul_(seen).sum(dim=2)
        by_birth = -by_persistence
        if across is not None:
            slope = _table_slope(image, across, births, image.birth_range)
            by_birth += weights * slope.mul_(along @ gradient).sum(dim=2)
        if image.weight == "topkd":
            by_birth += by_weight * 1000 / (100 * births + 1)
        if image.weight != "constant":
            by_weight *= 1.0 if image.weight == "persistence" else 10 * (1 - persistence.tanh().square())
            by_birth -= by_weight
            by_persistence += by_weight
        return torch.stack([by_birth, by_persistence], dim=2), None, None


def _picture(
    image: "PersistenceImage", pairs: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Pictures, the bars' weights, and their tables along persistence and across births.

    There is no second table if all bars are born where an image of width 0 lies.
    """
    births, persistence = pairs[..., 0], pairs[..., 1] - pairs[..., 0]
    first, last = image.birth_range
    still = first == last and not torch.is_grad_enabled() and not (births != first).any()
    weights = _weights(image, first if still else births, persistence)
    if not mask.all():
        weights = weights * mask
    along = _table(image, persistence, image.persistence_range, image.resolution[0])
    if still:
        return (weights[:, None] @ along).mT, weights, along, None
    across = _table(image, births, image.birth_range, image.resolution[1] if first < last else 1)
    return (along * weights[..., None]).mT @ across, weights, along, across


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
    offsets = _offsets(image, centres, limits, steps)
    if image.value == "density":
        return _exp(offsets)
    return (offsets.erf() / 2).diff(dim=-1)


def _table_slope(
    image: "PersistenceImage", table: Tensor, centres: Tensor, limits: tuple[float, float]
) -> Float[Tensor, "batch bars steps"]:
    """The derivative of a table with respect to the centres."""
    offsets = _offsets(image, centres, limits, table.shape[2])
    if image.value == "density":
        return offsets.mul_(math.sqrt(2) / image.bandwidth).mul_(table)
    return _exp(offsets).diff(dim=-1).mul_(-1 / (image.bandwidth * math.sqrt(2 * math.pi)))


def _offsets(
    image: "PersistenceImage", centres: Tensor, limits: tuple[float, float], steps: int
) -> Float[Tensor, "batch bars places"]:
    """From every bar to every place, in units of √2 bandwidths: to points, or to the edges of cells."""
    count = steps + 1 if image.value == "mass" else steps
    places = torch.linspace(*limits, count, dtype=centres.dtype, device=centres.device)
    return (places - centres[..., None]).mul_(1 / (image.bandwidth * math.sqrt(2)))


def _exp(offsets: Tensor) -> Tensor:
    """exp(-x²), and 0 long before results are so small that processors compute them many times slower."""
    least = -600.0 if offsets.dtype == torch.float64 else -60.0
    return F.threshold((offsets * offsets).neg_(), least, -math.inf).exp_()
