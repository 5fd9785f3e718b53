"""Sublevel persistence of one-dimensional signals, exact, on whole batches, differentiable.

The samples are the vertices of a path. A component of {x ≤ ε} is born at a local minimum; at a local maximum
two of them meet, and the younger one, whose minimum is higher, dies. Nothing else happens: only dimension 0
has bars.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010, §VII.1 and §VI.3. [edelsbrunner2010computational]
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.checks import check_tensor
from topokd_lib.topology.critical import Places, check_function, check_options, diagrams_at
from topokd_lib.topology.diagrams import PersistenceDiagrams

__all__ = ["signal_diagrams"]


def signal_diagrams(
    signals: Float[Tensor, "batch samples"],
    *,
    superlevel: bool = False,
    essential: Literal["drop", "keep"] = "drop",
) -> PersistenceDiagrams:
    r"""Persistence diagrams of dimension 0 of every signal, filtered by its value.

    Sample i enters at :math:`x_i`, the step between neighbours at :math:`\max(x_i, x_{i+1})`. Births and
    deaths are in the unit of the signal, and each is the value of one sample: the gradient goes to that
    sample. Bars of length 0 are left out; bars are ordered by where they are born.

    A minimum and the lower one of the maxima beside it are a pair as soon as the minimum beyond that maximum
    is lower still. All such pairs of all signals are taken out at once, until every signal is left with its
    lowest minimum, the essential bar. An ordinary signal needs about as many rounds as the logarithm of its
    length; the worst one, an oscillation that widens steadily, one per period.

    Args:
        signals: Signals of one length.
        superlevel: Filter from above. Births and deaths are those of ``-signals``, so that a bar still dies
            no earlier than it is born: a peak of height 3 is born at -3.
        essential: ``"drop"`` the bar of the lowest minimum, or ``"keep"`` it, with the death infinity.

    Raises:
        TypeError: If the signals are not a tensor.
        ValueError: If the signals are not a batch, empty, not real or not finite.

    Differs from:
        jeunsom/TGD (GenPI_Images.ipynb) computes the same bars by ripser on a sparse matrix, in float32, one
        image channel at a time, and keeps those longer than 0.02. The channel is read row by row as one
        signal, the end of a row joined to the start of the next.

    Example:
        An image of 3 × 3 pixels, row by row and column by column.

        >>> image = torch.tensor([[26.0, 128, 51], [153, 13, 76], [76, 76, 230]])
        >>> scans = torch.stack([image.flatten(), image.T.flatten()])
        >>> rows, columns = signal_diagrams(scans).to_list()
        >>> rows.tolist()
        [[26.0, 153.0], [51.0, 128.0]]
        >>> columns.tolist()
        [[26.0, 153.0], [76.0, 128.0], [51.0, 76.0]]
    """
    check_tensor("signals", signals)
    if signals.ndim != 2:
        hint = "add a batch axis with signals[None]" if signals.ndim == 1 else "flatten the axes of a signal"
        raise ValueError(f"signals have the axes (batch, samples), got shape {tuple(signals.shape)}; {hint}")
    check_function("signals", signals, "(signal, sample)")
    check_options((0,), essential)
    function = -signals if superlevel else signals
    # float32 holds every number of half precision exactly, and numpy has no bfloat16.
    exact = function.detach().cpu()
    places = _pairs((exact if exact.dtype == torch.float64 else exact.float()).numpy())
    return diagrams_at(function, places, 0, keep=essential == "keep")


def _pairs(signals: npt.NDArray[np.floating[Any]]) -> list[Places]:
    """Minima and the maxima at which they die, ordered by where they are born, signal by signal.

    Of equal samples the first counts as the lowest, which makes the order total. ``low`` and ``high`` are
    places in the signals laid end to end: every minimum, and the maximum to its right. The last minimum of a
    signal has none, written -1 and infinitely high, and serves the first one of the next signal too.
    """
    batch, samples = signals.shape
    flat = np.append(signals.ravel(), np.inf)  # place -1
    rising = signals[:, 1:] >= signals[:, :-1]
    end = np.ones((batch, 1), dtype=bool)
    minimum = np.hstack([end, ~rising]) & np.hstack([rising, end])
    maximum = np.hstack([~end, rising]) & np.hstack([~rising, ~end])  # at an end nothing meets
    low = np.flatnonzero(minimum)
    last = np.cumsum(minimum.sum(axis=1)) - 1
    high = np.full(len(low), -1)
    between = np.ones(len(low), dtype=bool)
    between[last] = False
    high[between] = np.flatnonzero(maximum)

    born, dead = [], []
    while len(low) > batch:
        left = np.roll(high, 1)
        to_left = flat[left] <= flat[high]
        wall = np.where(to_left, left, high)
        older = np.where(to_left, flat[np.roll(low, 1)] <= flat[low], flat[np.roll(low, -1)] < flat[low])
        dies = older & (wall >= 0)
        born.append(low[dies])
        dead.append(wall[dies])
        gone = np.where(to_left, np.roll(np.arange(len(low)), 1), np.arange(len(low)))[dies]
        low, high = low[~dies], np.delete(high, gone)

    births = np.concatenate([*born, low])
    deaths = np.concatenate([*dead, np.full(len(low), -1)])
    order = births.argsort()
    births, deaths = births[order], deaths[order]
    first = np.searchsorted(births, np.arange(1, batch) * samples)
    rows = np.stack([births % samples, np.where(deaths < 0, -1, deaths % samples)], axis=1)
    return np.split(rows, first)
