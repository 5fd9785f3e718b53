"""Semantic calibration (SemCKD): attention decides which layers of the teacher teach a layer of the student.

Reference:
    D. Chen, J.-P. Mei, Y. Zhang, C. Wang, Z. Wang, Y. Feng, C. Chen. Cross-Layer Distillation with Semantic
    Calibration. AAAI 2021. [chen2021semckd]
Explained in:
    book/reference/objectives.md
"""

from collections.abc import Mapping
from itertools import count, product, takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import pair_maps, pool_to_smaller, require_images, unit_rows
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["SemCKD", "calibrated_loss", "layer_attention"]

REDUCTION = 4
"""Queries and keys are so many times shorter than the batch; official code has no other value."""


def layer_attention(
    queries: Float[Tensor, "batch student_layers dim"], keys: Float[Tensor, "batch teacher_layers dim"]
) -> Float[Tensor, "batch student_layers teacher_layers"]:
    r"""How much each layer of the student listens to each layer of the teacher, image by image.

    .. math:: \alpha_{bij} = \operatorname{softmax}_j (q_{bi} \cdot k_{bj})

    There is no temperature. As :math:`q` and :math:`k` have length 1, no weight in a row is more than
    :math:`e^2 \approx 7.4` times another.

    Example:
        The query is the first key: e to 1.

        >>> keys = torch.eye(2)[None]
        >>> layer_attention(keys[:, :1], keys)
        tensor([[[0.7311, 0.2689]]])
    """
    return (queries @ keys.mT).softmax(dim=-1)


def calibrated_loss(
    distances: Float[Tensor, "batch student_layers teacher_layers"],
    attention: Float[Tensor, "batch student_layers teacher_layers"],
) -> Float[Tensor, ""]:
    r"""Distances of all pairs of layers, averaged with the attention as weights.

    .. math:: L = \frac{1}{B K_S} \sum_{b=1}^{B} \sum_{i=1}^{K_S} \sum_{j=1}^{K_T} \alpha_{bij} \, d_{bij}

    Args:
        distances: :math:`d_{bij}`, of layer :math:`i` of the student to layer :math:`j` of the teacher.
        attention: :math:`\alpha_{bij}`; sums to 1 over the teacher's layers. Gradients flow into it.

    Example:
        >>> distances = torch.tensor([[[1.0, 5.0]]])
        >>> calibrated_loss(distances, torch.tensor([[[0.75, 0.25]]])).item()
        2.0
    """
    return (attention * distances).sum(dim=2).mean()


class SemCKD(Objective):
    r""":func:`calibrated_loss` over all pairs of stages.

    For every pair the larger map is averaged to the size of the smaller, a trained regressor takes the
    student's map into the teacher's channels, and :math:`d_{bij}` is their mean squared difference.

    What attention sees of a layer are the products of all images' features with each other,
    :math:`F F^\top`, not normalised. The row of an image has one entry per image of the batch; a small
    network turns it into a query (student) or a key (teacher) of length 1. The size of these networks and
    with it the number of parameters therefore depend on the batch size per device, which must stay what it
    was when they were built; and the loss depends on the order of the images in the batch.

    The regressors are as wide as twice the teacher's maps, and there is one per pair of stages: 0.7 million
    parameters from ResNet-56 to ResNet-20, 858 million from ResNet-50 to VGG-8. All are dropped afterwards.

    Args:
        pair: The two networks and the batch size.
        student_features: The student's maps; by default all its stages.
        teacher_features: The teacher's maps; by default all its stages. There may be more or fewer.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, a network has no maps, a feature is not a map, or a batch has
            fewer than four images (a query would have no entries). In training, if a batch has another size
            than the pair's.

    Differs from:
        Official code (DefangChen/SemCKD, models/util.py and distiller_zoo/SemCKD.py) divides by the length
        of a query even if that is zero, which is NaN; here such a query attends to all layers equally. It
        pools to squares, which is the same for square images.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_features: tuple[str, ...] | None = None,
        teacher_features: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        pair.require_teacher("SemCKD")
        require_images("SemCKD", pair.batch_size, needed=REDUCTION)
        self.batch_size = pair.batch_size
        self.student_features = _stages(pair.student_shapes) if student_features is None else student_features
        self.teacher_features = _stages(pair.teacher_shapes) if teacher_features is None else teacher_features
        for role, names in (("student", self.student_features), ("teacher", self.teacher_features)):
            if not names:
                raise ValueError(
                    f"SemCKD pairs every map of the student with every map of the teacher, and there is none "
                    f"of the {role}; name at least one in {role}_features"
                )
        maps = [
            pair_maps(pair, "SemCKD", (student,), (teacher,), default=())[0]
            for student, teacher in product(self.student_features, self.teacher_features)
        ]
        self.queries = nn.ModuleList(_row_embedding(pair.batch_size) for _ in self.student_features)
        self.keys = nn.ModuleList(_row_embedding(pair.batch_size) for _ in self.teacher_features)
        self.regressors = nn.ModuleList(_regressor(m.student_shape[0], m.teacher_shape[0]) for m in maps)

    def attention(
        self, student: ModelOutput, teacher: ModelOutput
    ) -> Float[Tensor, "batch student_layers teacher_layers"]:
        """:func:`layer_attention` for one batch.

        Raises:
            ValueError: If the batch does not have the size that the objective was built for.
        """
        if len(student.logits) != self.batch_size:
            raise ValueError(
                f"SemCKD's parameters are made for batches of {self.batch_size} images, got "
                f"{len(student.logits)}; keep the batch size fixed and drop an incomplete last batch"
            )
        return layer_attention(
            _embed(self.queries, [student[name] for name in self.student_features]),
            _embed(self.keys, [teacher[name].detach() for name in self.teacher_features]),
        )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        attention = self.attention(student, teacher)
        pairs = product(self.student_features, self.teacher_features)
        distances = []
        for regress, (s, t) in zip(self.regressors, pairs, strict=True):
            seen, target = pool_to_smaller(student[s], teacher[t].detach())
            distances.append((regress(seen) - target).square().mean(dim=(1, 2, 3)))
        return calibrated_loss(torch.stack(distances, dim=1).view_as(attention), attention)


def _stages(shapes: Mapping[str, torch.Size]) -> tuple[str, ...]:
    return tuple(takewhile(lambda name: name in shapes, (f"stage{number}" for number in count(1))))


def _row_embedding(batch_size: int) -> nn.Sequential:
    dim = batch_size // REDUCTION
    return nn.Sequential(nn.Linear(batch_size, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


def _regressor(student_channels: int, teacher_channels: int) -> nn.Sequential:
    middle = 2 * teacher_channels
    return nn.Sequential(
        nn.Conv2d(student_channels, middle, 1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, middle, 3, padding=1, bias=False),
        nn.BatchNorm2d(middle),
        nn.ReLU(),
        nn.Conv2d(middle, teacher_channels, 1, bias=False),
    )


def _embed(networks: nn.ModuleList, features: list[Tensor]) -> Float[Tensor, "batch layers dim"]:
    """One vector of length 1 per image and layer, from the image's products with the whole batch."""
    rows = [feature.flatten(1) for feature in features]
    return torch.stack(
        [unit_rows(network(row @ row.T)) for network, row in zip(networks, rows, strict=True)], dim=1
    )
