"""From the places where bars begin and end to diagrams with gradient.

Every number of a lower-star diagram is the value of one place: a pixel, a sample, a vertex. An engine only
has to say which; it may work on plain arrays. The values are gathered again here, with gradient. This is the
classical subgradient of persistence: defined almost everywhere, and at ties one of several.

Reference:
    M. Carrière et al. Optimizing persistent homology based functions. ICML 2021. [carriere2021optimizing]
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from topokd_lib.topology.checks import check_tensor, is_whole
from topokd_lib.topology.diagrams import PersistenceDiagrams

__all__ = ["Places", "check_function", "check_options", "diagrams_at", "finish", "lower_star_places"]

Places = npt.NDArray[np.int64]
"""One row per bar: where it is born, and where it dies, -1 for a bar that never does."""


def check_options(dimensions: Sequence[int], essential: str) -> None:
    """Raise ValueError unless dimensions and the treatment of essential bars make sense."""
    given = tuple(dimensions) if isinstance(dimensions, (tuple, Sequence)) else ()
    if not given or not all(is_whole(number, 0) for number in given) or len(set(given)) < len(given):
        raise ValueError(f"dimensions are one or more different numbers from 0 on, got {dimensions!r}")
    if essential not in ("drop", "keep"):
        raise ValueError(f"essential bars are handled by 'drop' or 'keep', got {essential!r}")


def check_function(name: str, values: Tensor, axes: str) -> None:
    """Raise unless ``values`` is a tensor of finite real numbers, at least one."""
    check_tensor(name, values)
    if not values.is_floating_point():
        raise ValueError(f"{name} have real values, got {values.dtype}; convert with {name}.float()")
    if 0 in values.shape:
        raise ValueError(
            f"there is nothing in {name} {axes} of shape {tuple(values.shape)}: no axis may be 0"
        )
    finite = values.detach().isfinite()
    if not finite.all():
        place = tuple(int(i) for i in (~finite).nonzero()[0])
        raise ValueError(
            f"{name} must be finite: {values[place].item()} at {axes} = {place} "
            f"({int((~finite).sum())} such values in all)"
        )


def lower_star_places(generators: Sequence[Sequence[npt.NDArray[Any]]], dimension: int) -> Places:
    """The finite, then the essential bars of one dimension of what gudhi calls lower-star generators."""
    finite, endless = (group[dimension] if dimension < len(group) else np.empty(0) for group in generators)
    births = endless.reshape(-1, 1).astype(np.int64)
    return np.concatenate(
        [finite.reshape(-1, 2).astype(np.int64), np.hstack([births, np.full_like(births, -1)])]
    )


def diagrams_at(
    values: Float[Tensor, "batch places"], places: Iterable[Places], dimension: int, *, keep: bool
) -> PersistenceDiagrams:
    """Read the bars off the values, one array of places for each row."""
    padded = pad_sequence([torch.from_numpy(rows) for rows in places], batch_first=True).to(values.device)
    births = values.gather(1, padded[..., 0])
    deaths = values.gather(1, padded[..., 1].clamp(min=0))
    return finish(births, torch.where(padded[..., 1] < 0, torch.inf, deaths), dimension, keep=keep)


def finish(
    births: Float[Tensor, "batch bars"], deaths: Float[Tensor, "batch bars"], dimension: int, *, keep: bool
) -> PersistenceDiagrams:
    """Leave out what is no bar: length 0, padding, and essential bars unless they are kept."""
    pairs = torch.stack([births, deaths], dim=2)
    mask = deaths > births
    if not keep:
        mask &= deaths < torch.inf
    if mask.all():
        return PersistenceDiagrams(pairs, mask, dimension)
    used = mask.any(dim=0)
    mask, pairs = mask[:, used], pairs[:, used]
    return PersistenceDiagrams(torch.where(mask[..., None], pairs, 0.0), mask, dimension)
