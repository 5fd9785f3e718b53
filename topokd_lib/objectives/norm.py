"""N-to-one representation matching (NORM): every part of a widened student map should be the teacher's.

The method widens the student itself: two 1×1 convolutions with batch normalisation behind its last stage, the
first to N times the teacher's channels and the second back, added to the map. Both are linear and are merged
into the classifier after training. Between them is what :func:`n_to_one_loss` compares. As they are layers of
the student and not of an objective, only the loss is here.

Reference:
    X. Liu, L. Li, C. Li, A. Yao. NORM: Knowledge Distillation via N-to-One Representation Matching.
    ICLR 2023. [liu2023norm]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float
from torch import Tensor

from topokd_lib.objectives.connectors import pool_to_smaller

__all__ = ["n_to_one_loss"]


def n_to_one_loss(
    expanded: Float[Tensor, "batch expanded_channels height width"],
    teacher: Float[Tensor, "batch channels teacher_height teacher_width"],
) -> Float[Tensor, ""]:
    r"""Mean squared differences of the parts of the student's map to the teacher's map, added up.

    .. math:: L = \sum_{k=1}^{N} \frac{1}{B C H W} \lVert e_k - f^T \rVert^2

    Args:
        expanded: The student's map :math:`e = (e_1, \ldots, e_N)`, as wide as :math:`N` of the teacher's.
        teacher: The target; no gradient flows into it. The larger map is max-pooled to the smaller.

    Raises:
        ValueError: If the student's channels are not a multiple of the teacher's.

    Differs from:
        Official code (OSVAI/NORM, helper/loops.py) repeats the teacher's map and multiplies a mean by
        :math:`N`, which is the same sum. It pools the teacher's map only.

    Example:
        Two parts, 1 and 3, of a teacher that is 0 everywhere: 1² + 3².

        >>> import torch
        >>> expanded = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
        >>> n_to_one_loss(expanded, torch.zeros(1, 1, 1, 1)).item()
        10.0
    """
    parts, rest = divmod(expanded.shape[1], teacher.shape[1])
    if rest or not parts:
        raise ValueError(
            f"NORM compares parts of the student's map with the teacher's: {expanded.shape[1]} channels are "
            f"not a multiple of the teacher's {teacher.shape[1]}; expand to N times the teacher's channels"
        )
    seen, target = pool_to_smaller(expanded, teacher.detach(), pooling="max")
    difference: Tensor = seen.unflatten(1, (parts, -1)) - target[:, None]
    return difference.square().mean(dim=(0, 2, 3, 4)).sum()
