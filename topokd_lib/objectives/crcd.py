"""Complementary relation contrastive distillation (CRCD): contrast directions between images, not images.

Implemented from incomplete public code; numbers not reproducible. The only source is an unofficial repository
(Lechatelia/CRCD) that does not run as published and that its author calls incomplete. What is here agrees
with the parts that do run; the accuracies of the paper come from code that nobody outside has seen.

Reference:
    J. Zhu, S. Tang, D. Chen, S. Yu, Y. Liu, M. Rong, A. Yang, X. Wang. Complementary Relation Contrastive
    Distillation. CVPR 2021, §3. [zhu2021crcd]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import unit_rows
from topokd_lib.objectives.crd import contrast_loss
from topokd_lib.objectives.memory import MemoryBank, NegativeSampler, Normaliser
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["CRCD", "gradient_loss", "relation_scores"]

SHIFT = 1e-6  # added to every difference, so that the direction from a memory to itself is defined


def relation_scores(
    embeddings: Float[Tensor, "batch dim"],
    anchors: Float[Tensor, "anchors dim"],
    candidates: Float[Tensor, "batch contrasts dim"],
    itself: Bool[Tensor, "batch anchors contrasts"],
    temperature: float,
) -> Float[Tensor, "batch anchors contrasts"]:
    r"""How well the direction from an anchor to an image agrees with those to its candidates.

    .. math:: o_{bjk} = \exp \left( \frac{1}{\tau} \,
              \frac{v_b - a_j + \delta}{\lVert v_b - a_j + \delta \rVert} \cdot
              \frac{m_{bk} - a_j + \delta}{\lVert m_{bk} - a_j + \delta \rVert} \right),
              \qquad \delta = 10^{-6}

    The second direction is never formed: with :math:`r` for the first one, the product is
    :math:`(m \cdot r - (a - \delta) \cdot r) / \lVert m - a + \delta \rVert`, and needs ``dim`` times less
    memory (8 MB where the public code needs 1 GB, for 64 images and 500 negatives).

    Args:
        embeddings: Vectors :math:`v_b` of one network.
        anchors: Remembered vectors :math:`a_j` of the other one.
        candidates: Remembered vectors :math:`m_{bk}` of that one, the image's own first.
        itself: Where a candidate is the anchor, and the difference is nothing but the shift.
        temperature: :math:`\tau`.
    """
    shifted = anchors - SHIFT
    relations = unit_rows(embeddings[:, None] - shifted)
    along = torch.bmm(relations, candidates.mT) - (relations * shifted).sum(dim=2, keepdim=True)
    distances = torch.cdist(candidates, shifted, compute_mode="donot_use_mm_for_euclid_dist").mT
    diagonal = relations.mean(dim=2, keepdim=True) * relations.shape[2] ** 0.5  # with (1, …, 1) / √dim
    cosines = torch.where(itself, diagonal, along / distances.masked_fill(itself, 1.0))
    return (cosines / temperature).exp()


def gradient_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    student_weight: Float[Tensor, "classes dim"],
    teacher_weight: Float[Tensor, "classes dim"],
    labels: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    r"""The method's other element: gradients of cross-entropy should point the same way in both networks.

    .. math:: L = 1 - \frac{1}{B} \sum_b \cos(g^S_b, g^T_b), \qquad
              g_b = \frac{\partial L_{CE}}{\partial f_b} \propto (\operatorname{softmax}(z_b) - y_b)^\top W

    for pooled features :math:`f` of equal width and last layers :math:`W`. The gradient is written out, so
    that no second derivative of the network is needed. :class:`CRCD` leaves this term out: an objective sees
    outputs and not weights, and the public code multiplies it by the KD loss, which is hardly intended.

    Raises:
        ValueError: If the two features differ in width, or the networks in classes.

    Example:
        >>> z, w = torch.tensor([[0.0, 1.0]]), torch.eye(2)
        >>> round(gradient_loss(z, 3 * z, w, w, torch.tensor([0])).item(), 4)
        0.0
    """
    if student_weight.shape != teacher_weight.shape:
        raise ValueError(
            f"gradients are compared entry by entry: the student's last layer is "
            f"{tuple(student_weight.shape)}, the teacher's {tuple(teacher_weight.shape)} (classes, width); "
            f"choose networks whose pooled features have equal width"
        )
    target = F.one_hot(labels, student_logits.shape[1])
    student = (student_logits.softmax(dim=1) - target) @ student_weight
    teacher = (teacher_logits.detach().softmax(dim=1) - target) @ teacher_weight.detach()
    return 1 - (unit_rows(student) * unit_rows(teacher)).sum(dim=1).mean()


class CRCD(Objective):
    """CRD on directions: from remembered anchors to embeddings, in both directions between the networks.

    Embeddings, memories, negatives and normalisers are those of :class:`~topokd_lib.objectives.crd.CRD`. The
    anchors are the memories of the batch, and every pair of an image and an anchor counts as a sample in
    :func:`~topokd_lib.objectives.crd.contrast_loss`, scored by :func:`relation_scores`.

    Args:
        pair: The two networks, and the labels of the training images.
        student_feature: What is embedded for the student; maps are flattened.
        teacher_feature: The same for the teacher.
        dim: Width of the embeddings.
        negatives: How many images each one is contrasted with; fewer if there are not as many of other
            classes.
        temperature: Divides cosines.
        momentum: Part of a memory that is kept when its image is seen again.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, only one class, or a number is out of range. In training, if the
            indices of a batch are not those of its images.

    Differs from:
        This is the feature relation only; :func:`gradient_loss` is the other element. The public training
        loop runs 250 epochs, adds KD and switches this loss off for the last 10. Anchors are those of the
        process's own images, so with several processes there are fewer pairs.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        dim: int = 128,
        negatives: int = 500,
        temperature: float = 0.05,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        pair.require_teacher("CRCD")
        if not temperature > 0:
            raise ValueError(f"the temperature divides cosines and must be positive, got {temperature}")
        shapes = pair.shapes(student=student_feature, teacher=teacher_feature)
        samples = len(pair.train_labels)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.temperature = temperature
        self.sampler = NegativeSampler(pair, negatives, objective="CRCD")
        self.student_bank = MemoryBank(samples, dim, momentum=momentum, unit=True)
        self.teacher_bank = MemoryBank(samples, dim, momentum=momentum, unit=True)
        self.student_embedding = nn.Linear(shapes[0].numel(), dim)
        self.teacher_embedding = nn.Linear(shapes[1].numel(), dim)
        self.student_normaliser = Normaliser(samples)
        self.teacher_normaliser = Normaliser(samples)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        pool, contrast = self.sampler(batch)
        return self.step(
            student[self.student_features[0]].flatten(1),
            teacher[self.teacher_features[0]].flatten(1),
            batch.indices,
            pool[contrast],
        )

    def step(
        self,
        student: Float[Tensor, "batch student_dim"],
        teacher: Float[Tensor, "batch teacher_dim"],
        indices: Int[Tensor, " batch"],
        contrast: Int[Tensor, "batch contrasts"],
    ) -> Float[Tensor, ""]:
        """The loss for given negatives, and the update of both memories.

        Args:
            student: Features of the student.
            teacher: Features of the teacher; no gradient flows into them.
            indices: The images' places in the training set.
            contrast: For every image, places in the training set: first its own, then its negatives.
        """
        embedded = unit_rows(self.student_embedding(student))
        target = unit_rows(self.teacher_embedding(teacher.detach()))
        itself = contrast[:, None] == indices[None, :, None]
        samples = len(self.student_bank.rows)
        loss = torch.zeros_like(embedded[0, 0])
        for vectors, bank, normaliser in (
            (embedded, self.teacher_bank, self.student_normaliser),
            (target, self.student_bank, self.teacher_normaliser),
        ):
            anchors, candidates = bank.rows[indices], bank.rows[contrast]
            scores = relation_scores(vectors, anchors, candidates, itself, self.temperature)
            loss = loss + contrast_loss(normaliser(scores.flatten(0, 1)), samples)
        self.student_bank.update(indices, embedded)
        self.teacher_bank.update(indices, target)
        return loss
