"""Class attention transfer (CAT-KD): the student's class activation maps should be the teacher's.

Reference:
    Z. Guo, H. Yan, H. Li, X. Lin. Class Attention Transfer Based Knowledge Distillation. CVPR 2023.
    [guo2023catkd]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import unit_rows
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["CATKD", "activation_map_loss", "binary_maps"]


def binary_maps(
    maps: Float[Tensor, "batch classes height width"],
) -> Float[Tensor, "batch classes height width"]:
    """One where a map exceeds the mean of its absolute values, zero elsewhere.

    Example:
        >>> import torch
        >>> binary_maps(torch.tensor([[[[3.0, -1.0], [1.0, 2.0]]]])).flatten().tolist()
        [1.0, 0.0, 0.0, 1.0]
    """
    return (maps > maps.abs().mean(dim=(2, 3), keepdim=True)).to(maps.dtype)


def activation_map_loss(
    student: Float[Tensor, "batch classes student_height student_width"],
    teacher: Float[Tensor, "batch classes teacher_height teacher_width"],
    resolution: int = 2,
    *,
    normalise: bool = False,
) -> Float[Tensor, ""]:
    r"""Mean squared difference of class activation maps, averaged to a few cells.

    .. math:: L = \frac{1}{B C r^2} \sum_{b,c} \lVert N(\operatorname{pool}_r A^S_{bc})
              - N(\operatorname{pool}_r A^T_{bc}) \rVert^2

    :math:`N(a) = a / \lVert a \rVert` keeps where a class is seen and drops how strongly; without
    normalisation :math:`N` changes nothing.

    Args:
        student: Gradients flow into these maps.
        teacher: The target; no gradient flows into it.
        resolution: Cells per side, :math:`r`.
        normalise: Give every map of every class unit length. A map of zeros stays zero.

    Example:
        At one cell per side the maps are their means, which are the logits:

        >>> import torch
        >>> student, teacher = torch.ones(1, 1, 2, 2), torch.full((1, 1, 4, 4), 3.0)
        >>> activation_map_loss(student, teacher, 1).item()
        4.0
        >>> activation_map_loss(student, teacher, 1, normalise=True).item()
        0.0
    """
    if student.shape[:2] != teacher.shape[:2]:
        raise ValueError(
            f"CAT-KD compares maps of the same images and classes: the student's are {tuple(student.shape)}, "
            f"the teacher's {tuple(teacher.shape)}"
        )
    pooled = (F.adaptive_avg_pool2d(maps, resolution).flatten(2) for maps in (student, teacher.detach()))
    seen, target = (unit_rows(rows) if normalise else rows for rows in pooled)
    return F.mse_loss(seen, target)


class CATKD(Objective):
    """:func:`activation_map_loss` between the class activation maps of both networks.

    Args:
        pair: The two networks; they need the same classes.
        resolution: Cells per side to which maps are averaged; the official settings use 2 and 4.
        normalise: Give every map unit length; the official settings do so for networks of different kinds.
        binarise: Compare with :func:`binary_maps` of the teacher: where, but not how much. An ablation.

    Raises:
        FeatureNotFound: If a network offers no class activation maps.
        ValueError: If there is no teacher, its classes differ, or the maps have fewer cells than asked for.

    Differs from:
        The official code (GzyAftermath/CAT-KD) removes the bias of both classifiers, A = W f, and so trains
        another student and changes the teacher's logits. Here networks stay as they are and a map is the
        library's ``cam``, A = W f + b, whose mean is the logits. Without bias the two are equal. Without
        normalisation the loss grows with the square of the logits; the official README advises a weight that
        brings it between 1 and 50 after the first epoch.
    """

    student_features = ("cam",)
    teacher_features = ("cam",)

    def __init__(
        self, pair: Pair, *, resolution: int = 2, normalise: bool = False, binarise: bool = False
    ) -> None:
        super().__init__()
        pair.require_same_classes("CAT-KD")
        shapes = pair.shapes(student="cam", teacher="cam")
        cells = min(side for shape in shapes for side in shape[1:])
        if not 1 <= resolution <= cells:
            raise ValueError(
                f"class activation maps are averaged to resolution × resolution cells: the student's are "
                f"{shapes[0][1]}×{shapes[0][2]}, the teacher's {shapes[1][1]}×{shapes[1][2]}, and "
                f"{resolution} was asked for; choose 1 to {cells}"
            )
        self.resolution = resolution
        self.normalise = normalise
        self.binarise = binarise

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        target = binary_maps(teacher["cam"]) if self.binarise else teacher["cam"]
        return activation_map_loss(student["cam"], target, self.resolution, normalise=self.normalise)
