"""Similarity preserving distillation (SP): images that look alike to the teacher should to the student.

Reference:
    F. Tung, G. Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019, §3. [tung2019sp]
Explained in:
    book/reference/objectives.md
"""

from collections.abc import Iterable
from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import require_images, unit_rows
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["SP", "similarity_loss", "similarity_matrix"]


def similarity_matrix(
    feature: Float[Tensor, "batch ..."], variant: Literal["benchmark", "torchdistill"] = "benchmark"
) -> Float[Tensor, "batch batch"]:
    r"""Products of all images' features with each other, each row divided by its norm.

    .. math:: \tilde G_{ij} = \frac{G_{ij}}{\lVert G_{i\cdot} \rVert_q}, \qquad G_{ij} = f_i \cdot f_j

    with :math:`q = 2`, or 1 in torchdistill. Maps are flattened, so only the number of images matters.

    Example:
        >>> import torch
        >>> similarity_matrix(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
        tensor([[1., 0.],
                [0., 1.]])
    """
    rows = feature.flatten(1)
    products = rows @ rows.T
    return unit_rows(products, order=2.0 if variant == "benchmark" else 1.0)


def similarity_loss(
    student: Float[Tensor, "batch ..."],
    teacher: Float[Tensor, "batch ..."],
    variant: Literal["benchmark", "torchdistill"] = "benchmark",
) -> Float[Tensor, ""]:
    r"""Mean squared difference of the two similarity matrices.

    .. math:: L = \frac{1}{B^2} \sum_{i,j} (\tilde G^S_{ij} - \tilde G^T_{ij})^2

    Args:
        student: Gradients flow into this feature.
        teacher: The target; no gradient flows into it. Channels, height and width may differ.
        variant: Norm of the rows, see :func:`similarity_matrix`.

    Raises:
        ValueError: If there are fewer than two images; one alone is similar to itself, whatever it is.

    Differs from:
        torchdistill's ``SPKDLoss`` divides rows by the sum of absolute values (``variant="torchdistill"``);
        its loss is three to four times smaller on random features. Paper and benchmark
        (HobbitLong/RepDistiller, distiller_zoo/SP.py) use the Euclidean norm.
    """
    require_images("SP", len(student))
    return F.mse_loss(similarity_matrix(student, variant), similarity_matrix(teacher.detach(), variant))


class SP(Objective):
    """:func:`similarity_loss` on the last feature map.

    Args:
        pair: The two networks.
        student_feature: By default the student's last stage.
        teacher_feature: By default the teacher's last stage.
        variant: How rows are normalised.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, or a batch has fewer than two images.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str | None = None,
        teacher_feature: str | None = None,
        variant: Literal["benchmark", "torchdistill"] = "benchmark",
    ) -> None:
        super().__init__()
        pair.require_teacher("SP")
        require_images("SP", pair.batch_size)
        self.student_feature = student_feature or _last_stage(pair.student_shapes)
        self.teacher_feature = teacher_feature or _last_stage(pair.teacher_shapes)
        pair.shapes(student=self.student_feature, teacher=self.teacher_feature)
        self.student_features = (self.student_feature,)
        self.teacher_features = (self.teacher_feature,)
        self.variant = variant

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return similarity_loss(student[self.student_feature], teacher[self.teacher_feature], self.variant)


def _last_stage(features: Iterable[str]) -> str:
    """The deepest ``stageK``; a network without stages has to be told, and is told the name that it lacks."""
    stages = [name for name in features if name.removeprefix("stage").isdecimal()]
    return max(stages, key=lambda name: int(name.removeprefix("stage")), default="stage1")
