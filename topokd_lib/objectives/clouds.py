"""What objectives on clouds of minibatches share: the cloud, its connector, a target that is constant.

Reference:
    The cloud and the connector are those of J. Kim et al., ICML 2024 [kim2024topkd]; the isometric connector
    is that of R. Miles et al., CVPR 2024 [miles2024vkd].
Explained in:
    book/topology_in_distillation/topkd_digits.ipynb
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from topokd_lib.objectives.memory import mean_over_processes

__all__ = ["Connector", "RunningMean", "feature_cloud", "make_connector"]

Connector = Literal["auto", "linear", "isometric", "none"]


def feature_cloud(feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "1 batch dim"]:
    """The point cloud of a minibatch: one point per image, feature maps averaged over their pixels.

    Raises:
        ValueError: If the feature is neither a vector nor a map per image.

    Example:
        >>> feature_cloud(torch.ones(64, 16, 8, 8)).shape
        torch.Size([1, 64, 16])
    """
    if feature.ndim == 4:
        feature = feature.mean(dim=(2, 3))
    if feature.ndim != 2:
        raise ValueError(
            f"a point cloud needs one vector or one map per image, got a feature of shape "
            f"{tuple(feature.shape)}"
        )
    return feature[None]


def make_connector(kind: Connector, student_dim: int, teacher_dim: int, *, needed: bool) -> nn.Module:
    """A map of the student's points into the teacher's space.

    Args:
        kind: ``"linear"``: any affine map, as the 1×1 convolution of the official code; it may bend the cloud
            to the target so that the student need not. ``"isometric"``: an orthogonal one (Cayley map), which
            keeps all distances; see :class:`~topokd_lib.objectives.VkD`. ``"none"``: the identity.
            ``"auto"``: linear if it is needed, else none.
        student_dim: Width of the student's feature.
        teacher_dim: Width of the teacher's.
        needed: Whether what follows reads points of the teacher's width only.

    Raises:
        ValueError: If the kind is unknown, ``"none"`` does not do, or the teacher is too narrow for an
            isometry.
    """
    if kind not in ("auto", "linear", "isometric", "none"):
        raise ValueError(f"a connector is one of auto, linear, isometric, none, got {kind!r}")
    differ = student_dim != teacher_dim
    if kind == "none" and needed and differ:
        raise ValueError(
            f"the student's feature has {student_dim} channels, the teacher's {teacher_dim}, and points of "
            f"one width are needed; allow a connector (connector='auto') or choose features of equal width"
        )
    if kind == "isometric":
        if teacher_dim < student_dim:
            raise ValueError(
                f"no linear map from {student_dim} to {teacher_dim} dimensions keeps all distances; take "
                f"connector='linear', or a wider feature of the teacher"
            )
        return orthogonal(nn.Linear(student_dim, teacher_dim, bias=False), orthogonal_map="cayley")
    if kind == "linear" or (kind == "auto" and needed and differ):
        return nn.Linear(student_dim, teacher_dim)
    return nn.Identity()


class RunningMean(nn.Module):
    """The mean of what it has seen so far, the present value included: it tells nothing of a batch.

    The control of every claim that a student learns the shape of *these* images: soon after the start the
    mean hardly moves, and what can be learned from it is a size and a profile. All processes see the same.

    Args:
        size: Numbers in a value.

    Attributes:
        mean: Persistent, as is the number of values.
    """

    mean: Tensor
    count: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def forward(self, value: Float[Tensor, "1 size"]) -> Float[Tensor, "1 size"]:
        """The mean, after the value is added.

        Raises:
            ValueError: If the value has another size, as that of a smaller batch may have.
        """
        if value.shape[1] != len(self.mean):
            raise ValueError(
                f"a constant target has {len(self.mean)} numbers, and this batch's has {value.shape[1]}; "
                f"all batches must have the size that the objective was built for"
            )
        self.count += 1
        self.mean += (mean_over_processes(value[0]) - self.mean) / self.count
        return self.mean[None].clone()

    def restart(self) -> None:
        """Forget everything."""
        self.count.zero_()
        self.mean.zero_()
