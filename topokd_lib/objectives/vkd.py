"""Orthogonal projections (VkD): the projector may turn the student's features, but not reshape them.

Reference:
    R. Miles, I. Elezi, J. Deng. VkD: Improving Knowledge Distillation using Orthogonal Projections.
    CVPR 2024. [miles2024vkd]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import average_pixels
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["VkD", "projection_loss"]


def projection_loss(
    projected: Float[Tensor, "batch dim"], teacher: Float[Tensor, "batch dim"]
) -> Float[Tensor, ""]:
    r"""Smooth absolute difference of the projected student and the normalised teacher.

    .. math:: L = \frac{1}{B n} \sum_{b,i} h\!\left((P f^S_b)_i - \frac{f^T_{bi} - \mu_b}{\sigma_b}\right),
              \qquad h(d) = \begin{cases} d^2 / 2 & |d| < 1 \\ |d| - 1/2 & \text{otherwise} \end{cases}

    Mean :math:`\mu_b` and standard deviation :math:`\sigma_b` are those of the vector of one image; 1e-5 is
    added to the variance.

    Args:
        projected: The student's features in the teacher's space.
        teacher: The teacher's features; no gradient flows into them.

    Example:
        The teacher becomes (1, −1); the differences are 0 and 3.

        >>> import torch
        >>> projected, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[7.0, 3.0]])
        >>> round(projection_loss(projected, teacher).item(), 4)
        1.25
    """
    return F.smooth_l1_loss(projected, F.layer_norm(teacher.detach(), teacher.shape[1:]))


class VkD(Objective):
    r""":func:`projection_loss` of pooled features; the student's go through a trained orthogonal projection.

    If the teacher is at least as wide as the student, the projection is an isometry: :math:`P^\top P = I`, so
    the distances between the images of a batch, and with them the persistence of their Vietoris–Rips
    filtration, are those of the student itself. The projector can align the clouds, but it cannot take over
    what the student should learn about their shape; a free linear map can. If the teacher is narrower, no
    linear map keeps all distances; then the rows of :math:`P` are orthonormal, and no distance grows.

    Args:
        pair: The two networks.
        student_feature: The student's feature; maps are averaged over their pixels.
        teacher_feature: The teacher's, likewise.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher.

    Differs from:
        Official code (roymiles/vkd, train.py) leaves the choice of the map from free parameters to
        orthogonal matrices to PyTorch, which takes Householder reflections for a matrix that is not square.
        These keep signs ±1 on the diagonal of a trained parameter and round them towards zero: one step of
        weight decay turns them into 0, and the projection into the zero matrix, for good. Here it is the
        Cayley map, which weight decay pulls towards the initial projection, and nothing else. The paper
        chooses the normalisation by task; this is the one of its code for classification.
    """

    def __init__(
        self, pair: Pair, *, student_feature: str = "pooled", teacher_feature: str = "pooled"
    ) -> None:
        super().__init__()
        pair.require_teacher("VkD")
        shapes = pair.shapes(student=student_feature, teacher=teacher_feature)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.projector = orthogonal(
            nn.Linear(shapes[0][0], shapes[1][0], bias=False), orthogonal_map="cayley"
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        projected = self.projector(average_pixels(student[self.student_features[0]]))
        return projection_loss(projected, average_pixels(teacher[self.teacher_features[0]]))
