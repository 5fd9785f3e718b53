"""Softmax regression representation learning (SRRL): the teacher's classifier reads the student's features.

Reference:
    J. Yang, B. Martinez, A. Bulat, G. Tzimiropoulos. Knowledge Distillation via Softmax Regression
    Representation Learning. ICLR 2021. [yang2021srrl]
Explained in:
    book/reference/objectives.md
"""

from collections import OrderedDict
from copy import deepcopy

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import last_stage
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["SRRL", "representation_loss"]


def representation_loss(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    regression_weight: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Mean squared difference of pooled features, and of what one classifier makes of them.

    .. math:: L = \frac{1}{B n} \lVert f^S - f^T \rVert^2
              + \frac{w}{B C} \lVert (W f^S + \beta) - (W f^T + \beta) \rVert^2

    with the teacher's classifier :math:`(W, \beta)`. Its bias cancels: the second term is a squared distance
    of features, too, but one that only sees directions in which the teacher's decision changes.

    Args:
        student: Pooled features of the student, in the teacher's space.
        teacher: Pooled features of the teacher; no gradient flows into them.
        student_logits: The teacher's classifier on the student's features.
        teacher_logits: The teacher's logits; no gradient flows into them.
        regression_weight: :math:`w`.

    Example:
        Features differ by (3, 1), of which the classifier reads the first: (9 + 1) / 2 + 9.

        >>> import torch
        >>> student, teacher = torch.tensor([[3.0, 1.0]]), torch.zeros(1, 2)
        >>> representation_loss(student, teacher, student[:, :1], teacher[:, :1]).item()
        14.0
    """
    features = F.mse_loss(student, teacher.detach())
    return features + regression_weight * F.mse_loss(student_logits, teacher_logits.detach())


class SRRL(Objective):
    """:func:`representation_loss` of the student's last map, seen through a connector.

    The connector, a 1×1 convolution without bias, batch normalisation and ReLU, gives the student's map the
    teacher's channels. The classifier is a frozen copy of the teacher's last layer. Sizes of maps do not
    matter, because both are averaged over their pixels; nor do the student's classes.

    Args:
        pair: The two networks.
        student_feature: A feature map; by default the student's last stage.
        regression_weight: Weight of the difference of logits beside that of features; 1 in the official code.

    Raises:
        FeatureNotFound: If the student does not offer the feature.
        ValueError: If there is no teacher, the feature is not a map, or the weight is negative.

    Differs from:
        The official code (jingyang2017/KD_SRRL) reads the student's map that the classifier averages. A
        wide ResNet normalises after its last stage, ShuffleNetV2 and MobileNetV2 convolve; there the default
        comes before, as in other methods of this library. The teacher's average is ``pooled`` in every
        network. yzd-v/cls_KD sets the weight of the second term to 5.
    """

    teacher_features = ("pooled",)

    def __init__(
        self, pair: Pair, *, student_feature: str | None = None, regression_weight: float = 1.0
    ) -> None:
        super().__init__()
        teacher = pair.require_teacher("SRRL")
        if not regression_weight >= 0:
            raise ValueError(f"regression_weight must not be negative, got {regression_weight}")
        name = student_feature or last_stage(pair.student_shapes)
        shape, (width,) = pair.shapes(student=name, teacher="pooled")
        if len(shape) != 3:
            raise ValueError(
                f"SRRL convolves a feature map of the student, and {name!r} has shape {tuple(shape)}; choose "
                f"one with channels, height and width, such as {last_stage(pair.student_shapes)!r}"
            )
        self.student_features = (name,)
        self.regression_weight = regression_weight
        self.connector = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(shape[0], width, 1, bias=False), bn=nn.BatchNorm2d(width), relu=nn.ReLU()
            )
        )
        self.classifier = deepcopy(teacher.model.last_layer).requires_grad_(requires_grad=False)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        seen = self.connector(student[self.student_features[0]]).mean(dim=(2, 3))
        target = teacher["pooled"]
        return representation_loss(
            seen, target, self.classifier(seen), self.classifier(target), self.regression_weight
        )
