"""Flow of solution procedure (FSP): how features turn into the next ones, as a matrix of channel products.

Reference:
    J. Yim, D. Joo, J. Bae, J. Kim. A Gift from Knowledge Distillation: Fast Optimization, Network
    Minimization and Transfer Learning. CVPR 2017, §3. [yim2017fsp]
Explained in:
    book/reference/objectives.md
"""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.models.base import FeatureModel
from topokd_lib.objectives.base import InitStage, Objective
from topokd_lib.objectives.connectors import common_stages, pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["FSP", "flow_loss", "flow_matrix"]


def flow_matrix(
    earlier: Float[Tensor, "batch channels1 height1 width1"],
    later: Float[Tensor, "batch channels2 height2 width2"],
    pooling: Literal["average", "max"] = "average",
) -> Float[Tensor, "batch channels1 channels2"]:
    r"""Mean over the positions of the products of two layers' channels.

    .. math:: G_{bij} = \frac{1}{H W} \sum_{h,w} f^1_{bihw} \, f^2_{bjhw}

    The larger map is pooled to the size of the smaller. It is one matrix product per image; the benchmark
    keeps a product of size batch × channels² × positions in memory instead.

    Example:
        >>> flow_matrix(torch.ones(1, 2, 4, 4), torch.full((1, 1, 2, 2), 3.0)).tolist()
        [[[3.0], [3.0]]]
    """
    first, second = (feature.flatten(2) for feature in pool_to_smaller(earlier, later, pooling))
    return torch.bmm(first, second.mT) / first.shape[2]


def flow_loss(
    student: Float[Tensor, "batch channels1 channels2"],
    teacher: Float[Tensor, "batch channels1 channels2"],
    variant: Literal["benchmark", "torchdistill"] = "benchmark",
) -> Float[Tensor, ""]:
    r"""Distance of two flow matrices.

    .. math:: L_\mathrm{benchmark} = \frac{1}{B C_1 C_2} \sum_{b,i,j} D_{bij}^2, \qquad
              L_\mathrm{torchdistill} = \frac{1}{B} \sum_{b,j} \Bigl( \sum_i D_{bij}^2 \Bigr)^{1/2},
              \qquad D = G^S - G^T

    Args:
        student: Gradients flow into this matrix.
        teacher: The target; no gradient flows into it.
        variant: Which formula. The paper's is a third one, the sum of all squares per image.
    """
    difference = student - teacher.detach()
    if variant == "torchdistill":
        columns: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return columns.sum(dim=1).mean()
    return difference.square().mean()


class FSP(Objective):
    """:func:`flow_loss` between the flow matrices of consecutive layers, added up.

    By default this is two-step training, as in paper and benchmark: for ``init_epochs`` only the student's
    layers up to the last map are trained, with this loss alone and without its weight; then this term is 0,
    and the other terms train the whole student from there. With ``init_epochs=0`` it is an ordinary term.

    Args:
        pair: The two networks.
        student_features: The student's maps in the order of depth. By default the stem and all stages, the
            first with the first; if one network has more stages, its last ones have no partner.
        teacher_features: The teacher's maps, in the same order; by default those of the same names.
        init_epochs: Length of the first step; 0 for joint training.
        variant: The benchmark's average pooling and mean square, or torchdistill's maximum pooling and sum of
            column norms.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, the features do not pair up, are fewer than two or not maps, a map
            has not as many channels as its partner, or ``init_epochs`` is negative.

    Differs from:
        The benchmark (HobbitLong/RepDistiller) ignores the weight of its FSP in both steps, as is done here
        in the two-step form. The paper pools by the maximum and takes the sum of squares.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
        init_epochs: int = 30,
        variant: Literal["benchmark", "torchdistill"] = "benchmark",
    ) -> None:
        super().__init__()
        if init_epochs < 0:
            raise ValueError(f"init_epochs is a number of epochs, 0 for joint training, got {init_epochs}")
        default = ("stem", *common_stages(pair))
        maps = pair_maps(pair, "FSP", student_features, teacher_features, default=default)
        if len(maps) < 2:
            raise ValueError(
                f"FSP describes the way from one layer to the next and needs at least 2 maps, "
                f"got {len(maps)} ({maps[0].student!r})"
            )
        for names in maps:
            if names.student_shape[0] != names.teacher_shape[0]:
                raise ValueError(
                    f"FSP compares matrices of channels: student {pair.student.name} has "
                    f"{names.student_shape[0]} in {names.student!r}, teacher "
                    f"{pair.require_teacher('FSP').name} has {names.teacher_shape[0]} in {names.teacher!r}; "
                    f"choose networks or layers of equal width, or a method with a connector"
                )
        self.student_features = tuple(names.student for names in maps)
        self.teacher_features = tuple(names.teacher for names in maps)
        self.init_epochs = init_epochs
        self.variant = variant

    def flow_loss(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        """What the first step minimises, and joint training adds."""
        pooling: Literal["average", "max"] = "max" if self.variant == "torchdistill" else "average"
        flows = [
            [flow_matrix(output[a], output[b], pooling) for a, b in pairwise(names)]
            for output, names in ((student, self.student_features), (teacher, self.teacher_features))
        ]
        losses = [flow_loss(s, t, self.variant) for s, t in zip(*flows, strict=True)]
        return torch.stack(losses).sum()

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        if self.init_epochs:
            return student.logits.new_zeros(())
        return self.flow_loss(student, teacher, batch)

    def init_stages(self, student: FeatureModel) -> tuple[InitStage, ...]:
        if not self.init_epochs:
            return ()
        deepest = max(self.student_features, key=student.feature_names.index)
        return (InitStage("flow", self.flow_loss, student.modules_up_to(deepest), self.init_epochs),)
