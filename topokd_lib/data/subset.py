"""A smaller data set with every class in it."""

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["first_of_each_class"]


def first_of_each_class(labels: Int64[Tensor, " images"], per_class: int | None) -> Int64[Tensor, " chosen"]:
    """Positions of the first ``per_class`` images of every class, in their order; of all if it is ``None``.

    Raises:
        ValueError: If ``per_class`` is not positive, or a class has fewer images.

    Example:
        >>> first_of_each_class(torch.tensor([0, 0, 1, 0, 1]), 2)
        tensor([0, 1, 2, 4])
    """
    if per_class is None:
        return torch.arange(len(labels))
    counts = labels.bincount()
    fewest = int(counts[counts > 0].min())
    if not 1 <= per_class <= fewest:
        raise ValueError(
            f"train_per_class must lie in 1 … {fewest}, the number of images of the smallest class, "
            f"got {per_class}"
        )
    by_class = labels.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    place = torch.empty_like(labels)
    place[by_class] = torch.arange(len(labels)) - starts[labels[by_class]]
    return (place < per_class).nonzero().flatten()
