"""Topology-guided distillation (TGD): a student of images learns from a second teacher that sees topology.

Reference:
    E. S. Jeon, R. Khurana, A. Pathak, P. Turaga. Leveraging Topological Guidance for Improved Knowledge
    Distillation. 2024. [jeon2024tgd]
    F. Tung, G. Mori. Similarity-Preserving Knowledge Distillation. ICCV 2019, §3. [tung2019sp]
Explained in:
    book/reference/objectives.md
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import require_images, unit_rows
from topokd_lib.objectives.kd import kd_loss
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["TGD", "merged_kd_loss", "merged_similarity_loss"]


def merged_kd_loss(
    student_logits: Float[Tensor, "batch classes"],
    image_logits: Float[Tensor, "batch classes"],
    topology_logits: Float[Tensor, "batch classes"],
    alpha: float = 0.99,
    temperature: float = 4.0,
    variant: Literal["official", "textbook"] = "official",
) -> Float[Tensor, ""]:
    r"""Soft targets of two teachers, in the shares :math:`\alpha` and :math:`1 - \alpha`.

    .. math:: L = \frac{\tau^2}{B \, C} \sum_{b, c} \left(
              \alpha \, p^1_{bc} \log \frac{p^1_{bc}}{p^S_{bc}}
              + (1 - \alpha) \, p^2_{bc} \log \frac{p^2_{bc}}{p^S_{bc}} \right),
              \qquad p = \operatorname{softmax}(z / \tau)

    Args:
        student_logits: Gradients flow into these.
        image_logits: Of the first teacher, a target.
        topology_logits: Of the second, a target.
        alpha: Share of the first.
        temperature: :math:`\tau`.
        variant: ``"official"`` averages over classes as well as images, which makes the loss :math:`C` times
            smaller than the ``"textbook"`` one of :func:`kd_loss`, averaged over images only.
    """
    loss = alpha * kd_loss(student_logits, image_logits, temperature)
    loss = loss + (1 - alpha) * kd_loss(student_logits, topology_logits, temperature)
    return loss / student_logits.shape[1] if variant == "official" else loss


def merged_similarity_loss(
    student: Float[Tensor, "batch ..."],
    image: Float[Tensor, "batch ..."],
    topology: Float[Tensor, "batch ..."],
    alpha: float = 0.99,
    variant: Literal["official", "unit-maps"] = "official",
) -> Float[Tensor, ""]:
    r"""Mean squared difference between the student's similarity map and the merged one of the two teachers.

    .. math:: L = \frac{1}{B^2} \sum_{i,j} (\tilde G^S_{ij} - \tilde M_{ij})^2, \qquad
              M = \alpha G^1 + (1 - \alpha) G^2, \qquad G_{ij} = f_i \cdot f_j

    where a tilde divides each row by its Euclidean norm. Channels and sizes of the features may all differ.

    Args:
        student: Gradients flow into this feature.
        image: Feature of the first teacher, a target.
        topology: Feature of the second, a target.
        alpha: Share of the first.
        variant: ``"official"`` merges the products as they are, so that the larger activations prevail
            whatever ``alpha`` says. ``"unit-maps"`` merges :math:`M = \alpha \tilde G^1 + (1 - \alpha)
            \tilde G^2`, in which ``alpha`` is the share that it seems to be.

    Raises:
        ValueError: If there are fewer than two images.
    """
    require_images("TGD", len(student))
    maps = [_products(feature) for feature in (image.detach(), topology.detach())]
    if variant == "unit-maps":
        maps = [unit_rows(products) for products in maps]
    merged = alpha * maps[0] + (1 - alpha) * maps[1]
    return F.mse_loss(unit_rows(_products(student)), unit_rows(merged))


class TGD(Objective):
    r"""Soft targets and similarity maps of two teachers; the student's own labels are another term.

    .. math:: L = \lambda \, L_\text{KD} + \frac{\gamma}{K} \sum_{k=1}^{K} L_\text{SP}^{(k)}

    with :func:`merged_kd_loss` and, for each of :math:`K` feature maps, :func:`merged_similarity_loss`. The
    published total adds :math:`1 - \lambda` times the cross-entropy.

    The second teacher sees a persistence image (:class:`~topokd_lib.topology.ImagePersistence`) that comes
    with the batch; the student never does. The two are members of a
    :class:`~topokd_lib.models.TeacherGroup`. Two controls need no other code: ``alpha=1`` mutes the second
    teacher, and any other network, a second one of images for instance, can take its place.

    Args:
        pair: The student and a group of two teachers.
        image: Name of the first in the group.
        topology: Name of the second.
        alpha: Share of the first in logits and maps, from 0 to 1. The official command has 0.99.
        temperature: :math:`\tau` of the soft targets.
        kd_weight: :math:`\lambda`.
        similarity_weight: :math:`\gamma`.
        features: The maps that are compared, by the names they have in all three networks.
        logits: ``variant`` of :func:`merged_kd_loss`.
        maps: ``variant`` of :func:`merged_similarity_loss`.

    Raises:
        FeatureNotFound: If a network does not offer a feature, or there is no teacher of such a name.
        ValueError: If there is no teacher, classes differ, a batch has fewer than two images, or a number is
            out of range.

    Differs from:
        jeunsom/TGD (main_train.py): the same values and gradients. Its teachers receive gradients that nobody
        uses. The text of the paper says that logits and maps of both teachers are combined with weights, as
        the code does; where it normalises and over what it averages could not be compared.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        image: str = "image",
        topology: str = "topology",
        alpha: float = 0.99,
        temperature: float = 4.0,
        kd_weight: float = 0.9,
        similarity_weight: float = 3000.0,
        features: Sequence[str] = ("stage1", "stage2", "stage3"),
        logits: Literal["official", "textbook"] = "official",
        maps: Literal["official", "unit-maps"] = "official",
    ) -> None:
        super().__init__()
        pair.require_same_classes("TGD")
        require_images("TGD", pair.batch_size)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is the image teacher's share, from 0 to 1, got alpha={alpha}")
        if not temperature > 0:
            raise ValueError(f"the temperature divides the logits and must be positive, got {temperature}")
        if not (kd_weight >= 0 and similarity_weight >= 0):
            raise ValueError(
                f"the weights of TGD's two parts must not be negative, got kd_weight={kd_weight} and "
                f"similarity_weight={similarity_weight}"
            )
        if not features:
            raise ValueError("TGD compares similarity maps of at least one feature, got none; name some")
        for teacher in (image, topology):
            for feature in features:
                pair.shapes(student=feature, teacher=f"{teacher}/{feature}")
        self.student_features = tuple(features)
        self.teacher_features = tuple(
            f"{teacher}/{name}" for teacher in (image, topology) for name in (*features, "logits")
        )
        self.image, self.topology = image, topology
        self.alpha, self.temperature = alpha, temperature
        self.kd_weight, self.similarity_weight = kd_weight, similarity_weight
        self.logits, self.maps = logits, maps

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        soft_targets = merged_kd_loss(
            student.logits,
            teacher[f"{self.image}/logits"],
            teacher[f"{self.topology}/logits"],
            self.alpha,
            self.temperature,
            self.logits,
        )
        similarity = [
            merged_similarity_loss(
                student[name],
                teacher[f"{self.image}/{name}"],
                teacher[f"{self.topology}/{name}"],
                self.alpha,
                self.maps,
            )
            for name in self.student_features
        ]
        return self.kd_weight * soft_targets + self.similarity_weight * torch.stack(similarity).mean()


def _products(feature: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch batch"]:
    rows = feature.flatten(1)
    return rows @ rows.T
