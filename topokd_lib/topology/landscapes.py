"""Persistence landscapes and silhouettes: diagrams as functions of the filtration value.

Reference:
    P. Bubenik. Statistical topological data analysis using persistence landscapes. JMLR 16, 2015.
    F. Chazal et al. Stochastic convergence of persistence landscapes and silhouettes. SoCG 2014.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.topology.checks import check_tensor, is_real, is_whole
from topokd_lib.topology.diagrams import PersistenceDiagrams, check_diagrams, require_finite, split

__all__ = ["persistence_landscape", "persistence_silhouette"]

_CHUNK = 2**18
"""Tent values held at a time, so that memory does not grow with the number of diagrams."""

_FACTORS = {"bubenik": 1.0, "gudhi": math.sqrt(2)}


def persistence_landscape(
    diagrams: PersistenceDiagrams,
    positions: Float[Tensor, " positions"],
    *,
    levels: int = 5,
    convention: Literal["bubenik", "gudhi"] = "bubenik",
) -> Float[Tensor, "batch levels positions"]:
    r"""The highest tents over every position, level by level.

    Every bar is a tent of slope 1, which stands on birth and death:

    .. math:: \Lambda_{(b, d)}(t) = \max(0, \min(t - b, d - t)), \qquad
              \lambda_k(t) = k\text{-th largest of all } \Lambda_{(b, d)}(t)

    Levels beyond the number of bars are 0. The tent of an essential bar rises forever. Differentiable with
    respect to births and deaths wherever no two tents cross and no tent has its top or its foot; and stable:
    no value moves by more than the bottleneck distance of the diagrams.

    Args:
        diagrams: One landscape is made of each.
        positions: Filtration values :math:`t`, in any order.
        levels: How many functions, :math:`\lambda_1` to :math:`\lambda_K`.
        convention: ``"bubenik"``: slope 1, the formula above and giotto-tda. ``"gudhi"``: times
            :math:`\sqrt 2`, as in gudhi.representations, which measures the tents in the rotated plane.

    Raises:
        TypeError: If diagrams or positions are something else.
        ValueError: If a position or birth is not finite, a bar dies before it is born, there is no position
            or no level, or the convention is unknown.

    Example:
        A bar from 0 to 4 and one from 1 to 3.

        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 4.0], [1.0, 3.0]]], dimension=1)
        >>> persistence_landscape(diagrams, torch.arange(5.0), levels=2)
        tensor([[[0., 1., 2., 1., 0.],
                 [0., 0., 1., 0., 0.]]])
    """
    check_positions(positions)
    factor = _factor(convention)
    if not is_whole(levels, 1):
        raise ValueError(f"a landscape has at least one level, got levels={levels!r}")
    _check_births(diagrams)
    parts = []
    for pairs, mask in split(diagrams, _CHUNK // len(positions)):
        tents = _tents(pairs, mask, positions.to(pairs))
        present = min(levels, tents.shape[1])
        top = tents.topk(present, dim=1).values
        parts.append(torch.cat([top, top.new_zeros(len(top), levels - present, len(positions))], dim=1))
    return factor * torch.cat(parts)


def persistence_silhouette(
    diagrams: PersistenceDiagrams,
    positions: Float[Tensor, " positions"],
    *,
    power: float = 1.0,
    convention: Literal["bubenik", "gudhi"] = "bubenik",
) -> Float[Tensor, "batch positions"]:
    r"""The mean of all tents, weighted by a power of the persistence.

    .. math:: \phi(t) = \frac{\sum_{(b, d)} (d - b)^q \, \Lambda_{(b, d)}(t)}{\sum_{(b, d)} (d - b)^q}

    A small power :math:`q` lets the many short bars speak, a large one the long bars; 0 weighs all the same.
    A diagram without bars, or with bars of length 0 only, is the function 0. Differentiable as a landscape
    is, and without its kinks where tents cross.

    Args:
        diagrams: One silhouette is made of each.
        positions: Filtration values :math:`t`, in any order.
        power: :math:`q`, at least 0.
        convention: See :func:`persistence_landscape`; giotto-tda has the first.

    Raises:
        TypeError: If diagrams or positions are something else.
        ValueError: If a position or bar is not finite, a bar dies before it is born, there is no position,
            the power is negative or the convention unknown.

    Example:
        Both bars below have their top at 2, of height 2 and 1: (4 × 2 + 2 × 1) / (4 + 2).

        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 4.0], [1.0, 3.0]]], dimension=1)
        >>> persistence_silhouette(diagrams, torch.tensor([2.0]))
        tensor([[1.6667]])
    """
    check_positions(positions)
    factor = _factor(convention)
    if not is_real(power, 0):
        raise ValueError(f"the power of a silhouette is finite and at least 0, got {power!r}")
    require_finite(diagrams, "the weights of a silhouette")
    parts = []
    for pairs, mask in split(diagrams, _CHUNK // len(positions)):
        lengths = pairs[..., 1] - pairs[..., 0]
        # Powers relative to the longest bar: they cannot overflow, nor all vanish.
        longest = F.pad(torch.where(mask, lengths, 0).detach(), (0, 1)).amax(dim=1, keepdim=True)
        used = mask & (lengths > 0)
        shares = torch.where(used, lengths, 1) / torch.where(longest > 0, longest, 1)
        weights = torch.where(used, shares**power, 0)
        total = weights.sum(dim=1, keepdim=True)
        weights = weights / torch.where(total > 0, total, 1)
        parts.append((weights[:, None] @ _tents(pairs, mask, positions.to(pairs))).squeeze(1))
    return factor * torch.cat(parts)


def _tents(
    pairs: Float[Tensor, "batch bars 2"], mask: Tensor, positions: Tensor
) -> Float[Tensor, "batch bars positions"]:
    rising = positions - pairs[..., :1]
    falling = pairs[..., 1:] - positions
    return torch.where(mask[..., None], torch.minimum(rising, falling).clamp(min=0), 0)


def check_positions(positions: Tensor) -> None:
    """Raise unless ``positions`` is a row of at least one finite filtration value."""
    check_tensor("positions", positions)
    if positions.ndim != 1 or len(positions) == 0 or not positions.is_floating_point():
        raise ValueError(
            f"positions are a row of one or more real filtration values, such as torch.linspace(0, 1, 100), "
            f"got {positions.dtype} of shape {tuple(positions.shape)}"
        )
    if not positions.isfinite().all():
        raise ValueError(
            f"positions are finite filtration values, got {positions[~positions.isfinite()][0].item()}"
        )


def _check_births(diagrams: PersistenceDiagrams) -> None:
    check_diagrams(diagrams)
    wrong = diagrams.mask & ~diagrams.births.isfinite()
    if wrong.any():
        index, bar = (int(i) for i in wrong.nonzero()[0])
        raise ValueError(
            f"diagram {index} has the bar (birth, death) = {tuple(diagrams.pairs[index, bar].tolist())}; "
            f"a tent stands on a finite birth"
        )


def _factor(convention: str) -> float:
    if convention not in _FACTORS:
        raise ValueError(f"tents follow the convention 'bubenik' or 'gudhi' (times √2), got {convention!r}")
    return _FACTORS[convention]
