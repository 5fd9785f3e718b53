"""Betti curves and persistence entropy: how many bars live, and how unequal they are.

Reference:
    N. Atienza, R. Gonzalez-Díaz, M. Soriano-Trigueros. On the stability of persistent entropy and new summary
    functions for topological data analysis. Pattern Recognition 107, 2020.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from topokd_lib.topology.diagrams import PersistenceDiagrams, check_diagrams, require_finite, split
from topokd_lib.topology.landscapes import check_positions

__all__ = ["betti_curve", "persistence_entropy"]

_CHUNK = 2**20
"""Comparisons held at a time, so that memory does not grow with the number of diagrams."""


def betti_curve(
    diagrams: PersistenceDiagrams, positions: Float[Tensor, " positions"]
) -> Int[Tensor, "batch positions"]:
    r"""The number of bars alive at every position: the Betti number of the complex there.

    .. math:: \beta(t) = \#\{(b, d) : b \le t < d\}

    Steps have no useful gradient, so none is given; a loss can compare landscapes instead. The curve counts
    only the bars it is given: for the Betti number in dimension 0 keep the essential bar,
    ``rips_diagrams(…, essential="keep")``.

    Args:
        diagrams: One curve is made of each.
        positions: Filtration values :math:`t`, in any order.

    Raises:
        TypeError: If diagrams or positions are something else.
        ValueError: If there is no position, or one is not finite; or if a bar is not a number or dies before
            it is born.

    Example:
        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 2.0], [0.0, 1.0]]], dimension=0)
        >>> betti_curve(diagrams, torch.tensor([0.0, 0.9, 1.0, 2.0]))
        tensor([[2, 2, 1, 0]])
    """
    check_positions(positions)
    check_diagrams(diagrams)
    parts = []
    for pairs, mask in split(diagrams, _CHUNK // len(positions)):
        t = positions.to(pairs)
        alive = mask[..., None] & (pairs[..., :1] <= t) & (t < pairs[..., 1:])
        parts.append(alive.sum(dim=1))
    return torch.cat(parts)


def persistence_entropy(
    diagrams: PersistenceDiagrams, *, normalised: bool = False
) -> Float[Tensor, " batch"]:
    r"""Entropy, in nats, of the shares that the bars have in the total persistence.

    .. math:: E = -\sum_i \frac{p_i}{P} \ln \frac{p_i}{P}, \qquad p_i = d_i - b_i, \quad P = \sum_i p_i

    From 0, one bar has it all, to :math:`\ln n` for :math:`n` equal bars; blind to the scale. Bars of
    length 0 add nothing and have the gradient 0 (their true one is infinite). A diagram without bars of
    positive length has the entropy 0.

    Args:
        diagrams: One number is made of each.
        normalised: Divide by :math:`\ln n`, where :math:`n` counts bars of positive length, so that values
            go from 0 to 1 and diagrams of different size compare; 0 for a single bar.

    Raises:
        TypeError: If the diagrams are something else.
        ValueError: If a bar is infinite or not a number, or dies before it is born.

    Differs from:
        giotto-tda counts in bits (divide by ln 2), and its ``normalize`` divides by the binary logarithm of
        :math:`P` instead of :math:`n`. gudhi counts in nats.

    Example:
        >>> diagrams = PersistenceDiagrams.from_list([[[0.0, 1.0], [1.0, 2.0]], [[0.0, 5.0]]], dimension=1)
        >>> persistence_entropy(diagrams)
        tensor([0.6931, 0.0000])
    """
    require_finite(diagrams, "the shares of an entropy")
    used = diagrams.mask & (diagrams.persistence > 0)
    total = torch.where(used, diagrams.persistence, 0).sum(dim=1, keepdim=True)
    shares = torch.where(used, diagrams.persistence, 1) / torch.where(total > 0, total, 1)
    # A share of 1 where there is no bar: its logarithm is 0, whatever is multiplied by it.
    shares = torch.where(used, shares, 1)
    entropy = torch.where(used, -shares * shares.log(), 0).sum(dim=1)
    if normalised:
        entropy = entropy / used.sum(dim=1).clamp(min=2).to(entropy.dtype).log()
    return entropy
