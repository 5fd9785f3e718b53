"""Contrastive representation distillation (CRD): tell an image's own teacher feature from all others.

Reference:
    Y. Tian, D. Krishnan, P. Isola. Contrastive Representation Distillation. ICLR 2020, §3. [tian2020crd]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import unit_rows
from topokd_lib.objectives.memory import MemoryBank, NegativeSampler, Normaliser
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["CRD", "contrast_loss", "contrast_scores"]

EPSILON = 1e-7


def contrast_scores(
    embeddings: Float[Tensor, "batch dim"],
    pool: Float[Tensor, "pool dim"],
    contrast: Int[Tensor, "batch contrasts"],
    temperature: float,
) -> Float[Tensor, "batch contrasts"]:
    r"""Exponential similarity of each embedding with its contrasts.

    .. math:: o_{bk} = \exp(v_b \cdot m_{c_{bk}} / \tau)

    All products with the pool are computed and then selected. The benchmark copies the rows first: with 64
    images, 16384 negatives and 128 dimensions that is 537 MB, twice in a step, and many times slower.

    Args:
        embeddings: Vectors :math:`v_b` of length 1.
        pool: Remembered vectors :math:`m`.
        contrast: Places :math:`c_{bk}` in the pool.
        temperature: :math:`\tau`; small values look at the most similar only.

    Example:
        >>> import torch
        >>> pool = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> contrast_scores(pool[:1], pool, torch.tensor([[0, 1]]), temperature=1.0)
        tensor([[2.7183, 1.0000]])
    """
    return ((embeddings @ pool.T).gather(1, contrast) / temperature).exp()


def contrast_loss(scores: Float[Tensor, "batch contrasts"], samples: int) -> Float[Tensor, ""]:
    r"""Noise-contrastive estimation: the first score is the data's, the :math:`K` others are noise.

    .. math:: L = -\frac{1}{B} \sum_b \left[ \log \frac{p_{b0}}{p_{b0} + c + \epsilon}
              + \sum_{k=1}^{K} \log \frac{c}{p_{bk} + c + \epsilon} \right], \qquad
              c = \frac{K}{N}, \quad \epsilon = 10^{-7}

    Args:
        scores: Normalised scores :math:`p`, positive.
        samples: :math:`N`, the number of training images.

    Example:
        One negative of two images and equal scores of 1/2: both terms are ln 2.

        >>> import torch
        >>> round(contrast_loss(torch.full((1, 2), 0.5), samples=2).item(), 4)
        1.3863
    """
    noise = (scores.shape[1] - 1) / samples
    positive, negative = scores[:, 0], scores[:, 1:]
    data = (positive / (positive + noise + EPSILON)).log()
    others = (noise / (negative + noise + EPSILON)).log()
    return -(data + others.sum(dim=1)).mean()


class CRD(Objective):
    r""":func:`contrast_loss` of student embeddings among remembered teacher embeddings, and the reverse.

    Features of both networks are mapped to vectors of length 1 by linear maps, which are trained. A memory of
    each network holds one such vector per training image. The positive of an image is its own memory, the
    negatives are memories of other classes (:class:`~topokd_lib.objectives.memory.NegativeSampler`). Scores
    are divided by a normaliser :math:`Z = N \cdot \operatorname{mean}(o)`, one per direction, which the first
    batch fixes for good. After the scores are taken, the memories of the batch move towards its embeddings.

    Args:
        pair: The two networks, and the labels of the training images.
        student_feature: What is embedded for the student; maps are flattened.
        teacher_feature: The same for the teacher.
        dim: Width of the embeddings.
        negatives: How many images each one is contrasted with; fewer if there are not as many of other
            classes.
        temperature: Divides similarities.
        momentum: Part of a memory that is kept when its image is seen again.

    Raises:
        FeatureNotFound: If a network does not offer a feature.
        ValueError: If there is no teacher, only one class, or a number is out of range. In training, if the
            indices of a batch are not those of its images.

    Differs from:
        The benchmark (HobbitLong/RepDistiller, crd/) draws negatives for each image by itself, in the
        workers of the loader; here images of one class share them within a step, as
        :class:`~topokd_lib.objectives.memory.NegativeSampler` explains, and for given negatives the values
        are the same. It keeps the temperature in float32, so in float64 its 0.07 is 0.0700000003. The paper's
        formula has no normaliser. Elsewhere processes do not share memories; here all hold the same.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        student_feature: str = "pooled",
        teacher_feature: str = "pooled",
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        pair.require_teacher("CRD")
        if not temperature > 0:
            raise ValueError(f"the temperature divides similarities and must be positive, got {temperature}")
        shapes = pair.shapes(student=student_feature, teacher=teacher_feature)
        samples = len(pair.train_labels)
        self.student_features = (student_feature,)
        self.teacher_features = (teacher_feature,)
        self.temperature = temperature
        self.sampler = NegativeSampler(pair, negatives, objective="CRD")
        self.student_bank = MemoryBank(samples, dim, momentum=momentum)
        self.teacher_bank = MemoryBank(samples, dim, momentum=momentum)
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
            pool,
            contrast,
        )

    def step(
        self,
        student: Float[Tensor, "batch student_dim"],
        teacher: Float[Tensor, "batch teacher_dim"],
        indices: Int[Tensor, " batch"],
        pool: Int[Tensor, " pool"],
        contrast: Int[Tensor, "batch contrasts"],
    ) -> Float[Tensor, ""]:
        """The loss for given negatives, and the update of both memories.

        Args:
            student: Features of the student.
            teacher: Features of the teacher; no gradient flows into them.
            indices: The images' places in the training set.
            pool: Places in the training set of all images that are contrasted with.
            contrast: For every image, places in ``pool``: first its own, then its negatives.
        """
        embedded = unit_rows(self.student_embedding(student))
        target = unit_rows(self.teacher_embedding(teacher.detach()))
        samples, temperature = len(self.student_bank.rows), self.temperature
        student_scores = contrast_scores(embedded, self.teacher_bank.rows[pool], contrast, temperature)
        teacher_scores = contrast_scores(target, self.student_bank.rows[pool], contrast, temperature)
        loss = contrast_loss(self.student_normaliser(student_scores), samples)
        loss = loss + contrast_loss(self.teacher_normaliser(teacher_scores), samples)
        self.student_bank.update(indices, embedded)
        self.teacher_bank.update(indices, target)
        return loss
