"""FitNets: a middle layer of the student learns to predict one of the teacher.

Reference:
    A. Romero, N. Ballas, S. Ebrahimi Kahou, A. Chassang, C. Gatta, Y. Bengio. FitNets: Hints for Thin Deep
    Nets. ICLR 2015, §2.2. [romero2015fitnets]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.models.base import FeatureModel
from topokd_lib.objectives.base import InitStage, Objective
from topokd_lib.objectives.connectors import hint_regressor, pair_maps
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["FitNet", "hint_loss"]


def hint_loss(
    regressed: Float[Tensor, "batch channels height width"],
    hint: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, ""]:
    r"""Mean squared difference between what the student predicts and the teacher's feature map.

    .. math:: L = \frac{1}{B C H W} \sum (r(f^S) - f^T)^2

    Args:
        regressed: The student's map, in the teacher's shape after a regressor :math:`r`.
        hint: The teacher's map; no gradient flows into it.

    Example:
        >>> import torch
        >>> hint_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 2.0]]]])).item()
        2.5
    """
    if regressed.shape != hint.shape:
        raise ValueError(
            f"the regressed map has shape {tuple(regressed.shape)}, the teacher's hint {tuple(hint.shape)}; "
            f"build the regressor for these two features"
        )
    return F.mse_loss(regressed, hint.detach())


class FitNet(Objective):
    r""":func:`hint_loss` between a middle layer of the student, seen through a regressor, and the teacher's.

    With ``hint_epochs=0``, the benchmark's form, it is a term of the main training. Otherwise it is the
    paper's two-step training: for so many epochs only the student's layers up to the hint and the regressor
    are trained, with this loss alone and without its weight; then the regressor rests, this term is 0, and
    the other terms train the whole student.

    Args:
        pair: The two networks.
        student_feature: The guided layer, a feature map.
        teacher_feature: The hint; by default the teacher's feature of the same name.
        hint_epochs: Length of the hint stage; 0 for joint training.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ValueError: If there is no teacher, a feature is not a map, no regressor fits, or ``hint_epochs`` is
            negative.

    Differs from:
        The paper halves the sum of squares, regresses without batch normalisation, and follows with KD. The
        benchmark (HobbitLong/RepDistiller) trains jointly, with weight 100, and so do the tables that quote
        it. Its regressor ends in a ReLU: the negative values of a wide ResNet's or MobileNetV2's stages
        cannot be reached, and published numbers include that.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "stage2",
        teacher_feature: str | None = None,
        hint_epochs: int = 0,
    ) -> None:
        super().__init__()
        if hint_epochs < 0:
            raise ValueError(f"hint_epochs is a number of epochs, 0 for joint training, got {hint_epochs}")
        names = (teacher_feature or student_feature,)
        (maps,) = pair_maps(pair, "FitNet", (student_feature,), names, default=())
        self.student_features = (maps.student,)
        self.teacher_features = (maps.teacher,)
        self.hint_epochs = hint_epochs
        self.regressor = hint_regressor(maps.student_shape, maps.teacher_shape)

    def hint_loss(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        """What the hint stage minimises, and joint training adds."""
        regressed = self.regressor(student[self.student_features[0]])
        return hint_loss(regressed, teacher[self.teacher_features[0]])

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        if self.hint_epochs:
            return student.logits.new_zeros(())
        return self.hint_loss(student, teacher, batch)

    def init_stages(self, student: FeatureModel) -> tuple[InitStage, ...]:
        if not self.hint_epochs:
            return ()
        trained = (*student.modules_up_to(self.student_features[0]), self.regressor)
        return (InitStage("hint", self.hint_loss, trained, self.hint_epochs, freeze_after=(self.regressor,)),)
