r"""Distances between persistence diagrams: bottleneck, Wasserstein, sliced Wasserstein, and sorted deaths.

All but the last compare matchings. A bar may be matched to a bar of the other diagram or to the diagonal, so
that diagrams of different size have a distance; bars of length 0 change nothing.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010, §VIII.2. [edelsbrunner2010computational]
    M. Kerber, D. Morozov, A. Nigmetov. Geometry helps to compare persistence diagrams. 2017.
        [kerber2017geometry]
    M. Carrière, M. Cuturi, S. Oudot. Sliced Wasserstein kernel for persistence diagrams. ICML 2017.
        [carriere2017sliced]
"""

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from topokd_lib.topology.checks import check_tensor, is_real, is_whole
from topokd_lib.topology.diagrams import PersistenceDiagrams, check_diagrams, require_finite

__all__ = [
    "bottleneck_distance",
    "optimal_matching",
    "sliced_wasserstein_distance",
    "sorted_deaths_distance",
    "wasserstein_distance",
]

_CHUNK = 2**18
"""Projections held at a time, so that memory does not grow with the number of diagrams."""


def bottleneck_distance(
    first: PersistenceDiagrams,
    second: PersistenceDiagrams,
    *,
    exact: bool = True,
    relative_error: float = 0.01,
) -> Float[Tensor, " batch"]:
    r"""The longest step of the best matching, diagram by diagram.

    .. math:: d_B = \min_{\text{matchings}} \max_{(x, y)} \lVert x - y \rVert_\infty

    Rips diagrams are stable in it: if every point moves by at most :math:`r`, births and deaths (edge
    lengths) move by at most :math:`2r`. Only one pair decides, so no gradient is given; a loss can take
    :func:`wasserstein_distance` or :func:`sliced_wasserstein_distance`.

    Args:
        first: One diagram per cloud; essential bars are matched to essential bars.
        second: As many diagrams.
        exact: ``False`` is several times faster from a hundred bars on.
        relative_error: The answer without ``exact`` is at most this share of the true distance away.

    Returns:
        Infinity where one diagram has more essential bars than the other.

    Raises:
        TypeError: If one is not diagrams.
        ValueError: If the batches differ in size, homology dimension, precision or device, a bar is not a
            number, or the error is not positive.

    Differs from:
        gudhi.bottleneck_distance, which in gudhi 3.13.0 is sometimes too large; this is Hera, through
        gudhi.hera.

    Example:
        The long bars are matched, at the cost 0.5; the short one is half a unit from the diagonal, too.

        >>> one = PersistenceDiagrams.from_list([[[0.0, 4.0], [1.0, 2.0]]], dimension=1)
        >>> other = PersistenceDiagrams.from_list([[[0.5, 4.5]]], dimension=1)
        >>> bottleneck_distance(one, other)
        tensor([0.5000])
    """
    from gudhi import hera

    _check_pair(first, second)
    for diagrams in (first, second):
        check_diagrams(diagrams)
    if not (is_real(relative_error) and relative_error > 0):
        raise ValueError(
            f"the relative error is positive and finite, got {relative_error!r}; exact=True has none"
        )
    delta = 0.0 if exact else relative_error
    distances = [
        hera.bottleneck_distance(_off_diagonal(one), _off_diagonal(other), delta)
        for one, other in zip(first.to_list(), second.to_list(), strict=True)
    ]
    return torch.tensor(distances, dtype=first.pairs.dtype, device=first.pairs.device)


def wasserstein_distance(
    first: PersistenceDiagrams,
    second: PersistenceDiagrams,
    *,
    order: float = 1.0,
    ground: Literal["max", "euclidean"] = "max",
) -> Float[Tensor, " batch"]:
    r"""The total step of the best matching, diagram by diagram, differentiable.

    .. math:: W_q = \min_{\text{matchings}} \Big(\sum_{(x, y)} \lVert x - y \rVert^q\Big)^{1/q}

    The matching is found exactly (by SciPy), without gradient; the steps are then measured again with
    gradient. Distances are in the unit of births and deaths. Where the distance is 0 the gradient is 0. The
    cost grows like the cube of the number of bars.

    Args:
        first: One diagram per cloud, finite bars only.
        second: As many diagrams.
        order: :math:`q`, at least 1.
        ground: The norm of a step: ``"max"``, as gudhi and Hera have it, where a bar of length p is p / 2
            from the diagonal; or ``"euclidean"``, as persim has it, where it is p / √2.

    Raises:
        TypeError: If one is not diagrams.
        ValueError: If the batches differ in size, homology dimension, precision or device, a bar is not
            finite, the order is below 1 or the ground is unknown.

    Example:
        The long bars are matched at the cost 0.5, the short one goes to the diagonal for another 0.5.

        >>> one = PersistenceDiagrams.from_list([[[0.0, 4.0], [1.0, 2.0]]], dimension=1)
        >>> other = PersistenceDiagrams.from_list([[[0.5, 4.5]]], dimension=1)
        >>> wasserstein_distance(one, other)
        tensor([1.])
    """
    norm = _check_matching(first, second, order, ground)
    return torch.stack(
        [
            _matched(one, other, order, norm)
            for one, other in zip(first.to_list(), second.to_list(), strict=True)
        ]
    )


def optimal_matching(
    first: PersistenceDiagrams,
    second: PersistenceDiagrams,
    *,
    order: float = 1.0,
    ground: Literal["max", "euclidean"] = "max",
) -> list[Int64[Tensor, "steps 2"]]:
    """The matching that :func:`wasserstein_distance` measures, diagram by diagram.

    Args:
        first: One diagram per cloud, finite bars only.
        second: As many diagrams.
        order: As for the distance.
        ground: As for the distance.

    Returns:
        Rows (bar of the first, bar of the second), in order of the first; -1 is the diagonal. Bars of length
        0 may be matched or left out. Where several matchings are best, one of them.

    Raises:
        ValueError: As for the distance.

    Example:
        The long bars are matched to each other, the short one goes to the diagonal.

        >>> one = PersistenceDiagrams.from_list([[[0.0, 4.0], [1.0, 2.0]]], dimension=1)
        >>> other = PersistenceDiagrams.from_list([[[0.5, 4.5]]], dimension=1)
        >>> optimal_matching(one, other)[0].tolist()
        [[0, 0], [1, -1]]
    """
    norm = _check_matching(first, second, order, ground)
    found = []
    for one, other in zip(first.to_list(), second.to_list(), strict=True):
        steps = _matching(_array(one), _array(other), order, norm)
        found.append(torch.from_numpy(steps[np.argsort(steps[:, 0] % (len(one) + 1), kind="stable")]))
    return found


def _check_matching(
    first: PersistenceDiagrams, second: PersistenceDiagrams, order: float, ground: str
) -> float:
    """Refuse what has no matching, and return the order of the ground norm."""
    _check_pair(first, second)
    _check_order(order)
    if ground not in ("max", "euclidean"):
        raise ValueError(f"the ground norm is 'max' or 'euclidean', got {ground!r}")
    for diagrams in (first, second):
        require_finite(diagrams, "the matchings of a Wasserstein distance")
    return math.inf if ground == "max" else 2.0


def _matched(one: Tensor, other: Tensor, order: float, norm: float) -> Float[Tensor, ""]:
    matching = torch.from_numpy(_matching(_array(one), _array(other), order, norm)).to(one.device)
    left, right = matching.T
    both = (left >= 0) & (right >= 0)
    steps = [torch.linalg.vector_norm(one[left[both]] - other[right[both]], ord=norm, dim=1)]
    for bars, used in ((one, left[right < 0]), (other, right[left < 0])):
        steps.append((bars[used, 1] - bars[used, 0]) * 2 ** (1 / norm - 1))
    return _root(torch.cat(steps), order)


def _matching(
    one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], order: float, norm: float
) -> npt.NDArray[np.int64]:
    """Rows of one and of the other that are matched; -1 is the diagonal.

    A bar may also go to the diagonal, so each side gets a place there for every bar of the other. Places of
    the diagonal are matched to each other for nothing, and are left out of the result.
    """
    from scipy.optimize import linear_sum_assignment  # 12 MB, which only a matching needs

    steps = np.abs(one[:, None] - other[None])
    between = steps.max(axis=2) if norm == math.inf else np.hypot(steps[..., 0], steps[..., 1])
    away = [(bars[:, 1] - bars[:, 0]) * 2 ** (1 / norm - 1) for bars in (one, other)]
    n, m = len(one), len(other)
    cost = np.zeros((n + m, m + n))
    cost[:n, :m] = between**order
    cost[:n, m:] = away[0][:, None] ** order
    cost[n:, :m] = away[1][None] ** order
    rows, columns = linear_sum_assignment(cost)
    real = (rows < n) | (columns < m)
    rows, columns = rows[real], columns[real]
    return np.stack([np.where(rows < n, rows, -1), np.where(columns < m, columns, -1)], axis=1)


def sliced_wasserstein_distance(
    first: PersistenceDiagrams, second: PersistenceDiagrams, *, directions: int = 50
) -> Float[Tensor, " batch"]:
    r"""The mean over directions of the distance of the projected diagrams, batched and differentiable.

    .. math:: SW = \frac{1}{\pi} \int_{-\pi/2}^{\pi/2}
              W_1\big(\langle X \cup \Delta Y, \theta \rangle, \langle Y \cup \Delta X, \theta \rangle\big)
              \, d\theta

    Here :math:`\Delta X` are the bars of X projected to the diagonal. On a line the best matching is the
    sorted one, so there is nothing to search. At most :math:`2 \sqrt 2` times the Wasserstein distance of
    order 1 with the ground ``"max"``.

    Args:
        first: One diagram per cloud, finite bars only.
        second: As many diagrams.
        directions: How many angles, evenly from -π/2 on. The same ones every time: nothing is drawn.

    Raises:
        TypeError: If one is not diagrams.
        ValueError: If the batches differ in size, homology dimension, precision or device, a bar is not
            finite, or there is no direction.

    Differs from:
        gudhi, which leaves the last of its directions out.

    Example:
        Against the empty diagram, the bar (0, 2) is √2 from the diagonal; seen from all sides, 2/π of it.

        >>> one = PersistenceDiagrams.from_list([[[0.0, 2.0]]], dimension=1)
        >>> empty = PersistenceDiagrams.from_list([[]], dimension=1)
        >>> sliced_wasserstein_distance(one, empty, directions=1000)
        tensor([0.9003])
    """
    _check_pair(first, second)
    if not is_whole(directions, 1):
        raise ValueError(
            f"a sliced distance looks from at least one direction, got directions={directions!r}"
        )
    for diagrams in (first, second):
        require_finite(diagrams, "the projections of a sliced Wasserstein distance")
    angles = (torch.arange(directions, dtype=torch.float64) / directions - 0.5) * math.pi
    lines = torch.stack([angles.cos(), angles.sin()]).to(first.pairs)
    per_diagram = max(1, first.pairs.shape[1] + second.pairs.shape[1]) * directions
    size = max(1, _CHUNK // per_diagram)
    tensors = (first.pairs, first.mask, second.pairs, second.mask)
    parts = zip(*(tensor.split(size) for tensor in tensors), strict=True)
    return torch.cat([_sliced(lines, *part) for part in parts])


def _sliced(lines: Tensor, one: Tensor, one_mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
    # Padding is projected to infinity, and there is as much of it on both sides: it sorts to the end.
    mask = torch.cat([one_mask, other_mask], dim=1)
    left = _project(torch.cat([one, _to_diagonal(other)], dim=1), lines)
    right = _project(torch.cat([_to_diagonal(one), other], dim=1), lines)
    left, right = (torch.where(mask[..., None], side, torch.inf).sort(dim=1).values for side in (left, right))
    real = torch.arange(mask.shape[1], device=mask.device) < mask.sum(dim=1, keepdim=True)
    left, right = (torch.where(real[..., None], side, 0) for side in (left, right))
    return (left - right).abs().sum(dim=1).mean(dim=1)


def _project(pairs: Tensor, lines: Tensor) -> Tensor:
    """Equal bars have equal projections wherever they stand; a matrix product does not promise that."""
    return pairs[..., :1] * lines[0] + pairs[..., 1:] * lines[1]


def _to_diagonal(pairs: Tensor) -> Tensor:
    return pairs.mean(dim=2, keepdim=True).expand_as(pairs)


def sorted_deaths_distance(
    first: Float[Tensor, "batch deaths"], second: Float[Tensor, "batch deaths"], *, order: float = 1.0
) -> Float[Tensor, " batch"]:
    r"""Distance of two dimension-0 diagrams, matched in order of their deaths; differentiable.

    .. math:: D_q = \Big(\sum_i |d_{(i)} - d'_{(i)}|^q\Big)^{1/q}

    Takes what :func:`~topokd_lib.topology.h0_deaths` returns, for clouds of the same number of points. Sorted
    is the best way to match all bars born at 0 with each other, so :math:`D_q` is an upper bound of the
    Wasserstein distance of the same order (ground ``"max"``). It is equal to it unless sending two bars to
    the diagonal is cheaper than matching them. That never pays if the longest bar of both diagrams is at
    most :math:`r` times the shortest, with :math:`(r - 1)^q = (r^q + 1) / 2^q`: 3 times for order 1,
    :math:`(4 + \sqrt 7) / 3 \approx 2.2` times for order 2. Deaths of features in many dimensions are often
    that close together; where they are not, the order of the deaths is still a sound loss.

    Args:
        first: Deaths in any order; 0 for a duplicate of a point.
        second: As many for each cloud.
        order: :math:`q`, at least 1.

    Raises:
        TypeError: If one is not a tensor of real numbers.
        ValueError: If the devices or the numbers of clouds or of deaths differ, a death is negative or not
            finite, or the order is below 1.

    Example:
        Exact for the first pair. For the second, both bars to the diagonal would cost 2.5 only.

        >>> first, second = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[2.0, 3.0], [0.0, 4.0]])
        >>> sorted_deaths_distance(first, second)
        tensor([2., 3.])
    """
    for deaths in (first, second):
        check_tensor("deaths", deaths)
        if not deaths.is_floating_point():
            raise TypeError(f"deaths are real numbers, got {deaths.dtype}; convert with deaths.float()")
    if first.device != second.device:
        raise ValueError(f"deaths are compared on one device, got {first.device} and {second.device}")
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"deaths are compared one by one and need two tensors of one shape (batch, deaths), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}; take the same number of points in both clouds, "
            f"or wasserstein_distance, which compares diagrams of different size"
        )
    for name, deaths in (("first", first), ("second", second)):
        wrong = ~(deaths.isfinite() & (deaths >= 0))
        if wrong.any():
            cloud, index = (int(i) for i in wrong.nonzero()[0])
            raise ValueError(
                f"deaths are finite and at least 0: {name}[{cloud}, {index}] is "
                f"{deaths[cloud, index].item()}; leave essential bars out"
            )
    _check_order(order)
    return _root((first.sort(dim=1).values - second.sort(dim=1).values).abs(), order)


def _root(steps: Float[Tensor, "*batch steps"], order: float) -> Float[Tensor, "*batch"]:
    """The norm of the steps, with the gradient 0 where it is 0."""
    norm: Tensor = torch.linalg.vector_norm(steps, ord=order, dim=-1)
    return norm


def _check_pair(first: PersistenceDiagrams, second: PersistenceDiagrams) -> None:
    for diagrams in (first, second):
        check_diagrams(diagrams, values=False)
    if len(first) == 0 or len(first) != len(second) or first.dimension != second.dimension:
        raise ValueError(
            f"diagrams are compared one by one, at least one and in one homology dimension, got {len(first)} "
            f"of dimension {first.dimension} and {len(second)} of dimension {second.dimension}"
        )
    if first.pairs.dtype != second.pairs.dtype or first.pairs.device != second.pairs.device:
        raise ValueError(
            f"diagrams are compared in one precision on one device, got {first.pairs.dtype} on "
            f"{first.pairs.device} and {second.pairs.dtype} on {second.pairs.device}"
        )


def _check_order(order: float) -> None:
    if not is_real(order, 1):
        raise ValueError(
            f"the order of a Wasserstein distance is finite and at least 1, got {order!r}; "
            f"of order infinity is the bottleneck distance"
        )


def _array(bars: Tensor) -> npt.NDArray[np.float64]:
    return bars.detach().cpu().double().numpy()


def _off_diagonal(bars: Tensor) -> npt.NDArray[np.float64]:
    array = _array(bars)
    return array[array[:, 1] > array[:, 0]]
