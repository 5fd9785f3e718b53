"""The point clouds that a teacher makes of minibatches."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.data import EpochLoader
from topokd_lib.models import Teacher
from topokd_lib.objectives import feature_cloud

__all__ = ["teacher_clouds"]


def teacher_clouds(
    teacher: Teacher,
    loader: EpochLoader,
    *,
    feature: str,
    clouds: int,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "clouds points dim"]:
    """Feature clouds of shuffled, augmented minibatches; as many epochs as it takes.

    Args:
        teacher: Makes the features, without gradient.
        loader: Gives the minibatches; its batch size is the number of points of a cloud.
        feature: Name of a vector or of a map, which is averaged over its pixels.
        clouds: How many.
        progress: Called with (clouds made, clouds wanted).

    Raises:
        FeatureNotFound: If the teacher offers no such feature.
        ValueError: If ``clouds`` is not positive.
    """
    if clouds < 1:
        raise ValueError(f"at least one cloud is needed, got clouds={clouds}")
    made: list[Tensor] = []
    epoch = 0
    while len(made) < clouds:
        for batch in loader.train_batches(epoch):
            made.append(feature_cloud(teacher(batch, [feature])[feature]))
            if progress is not None:
                progress(len(made), clouds)
            if len(made) == clouds:
                break
        epoch += 1
    return torch.cat(made)
