"""WKD-L: what the student says about the other classes is carried to what the teacher says, at a cost.

Kullback–Leibler divergence compares a class with itself; it is as wrong to take a cat for a lynx as for a
lorry. Optimal transport knows which classes are close, and asks how far probability has to be moved.

Reference:
    J. Lv, H. Yang, P. Li. Wasserstein Distance Rivals Kullback–Leibler Divergence for Knowledge Distillation.
    NeurIPS 2024, §3.1. [lv2024wkd]
    M. Cuturi. Sinkhorn Distances: Lightspeed Computation of Optimal Transport. NeurIPS 2013.
    [cuturi2013sinkhorn]
Explained in:
    book/reference/objectives.md
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import cosine_decay, unit_rows
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["WKDL", "class_costs", "target_cross_entropy", "transport_loss"]

FLOOR = 1e-8
"""Added to denominators and costs, as in official code: no division by zero, and no class is free.

It also limits how far probability is carried: beyond a cost of about 18 times the regularisation, where the
kernel is smaller than this, mass is lost instead of moved. At 0.05 no cost below 0.9 is affected.
"""


def class_costs(
    prototypes: Float[Tensor, "classes dim"], sharpening: float = 1.0
) -> Float[Tensor, "classes classes"]:
    r"""How far it is from a class to another, between 0 (itself) and 1.

    .. math:: c_{ij} = 1 - \exp(-\kappa (1 - \cos(w_i, w_j)))

    Args:
        prototypes: One vector :math:`w_i` per class; rows of the teacher's classifier are some.
        sharpening: :math:`\kappa > 0`.

    Example:
        >>> class_costs(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        tensor([[0.0000, 0.6321],
                [0.6321, 0.0000]])
    """
    directions = unit_rows(prototypes)
    return -torch.expm1(-sharpening * (1 - directions @ directions.T).clamp(min=0))


def target_cross_entropy(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
) -> Float[Tensor, ""]:
    r"""Cross-entropy of the label, weighted by how sure the teacher is of it.

    .. math:: L = -\frac{1}{B} \sum_b p^T_{by} \log p^S_{by}, \qquad p = \operatorname{softmax}(z)

    There is no temperature, and no gradient flows into the teacher.

    Example:
        A teacher that is half sure asks for half the cross-entropy:

        >>> logits = torch.zeros(1, 2)
        >>> round(target_cross_entropy(logits, logits, torch.tensor([0])).item(), 4)
        0.3466
    """
    columns = labels[:, None]
    sure = F.softmax(teacher_logits.detach(), dim=1).gather(1, columns)
    return -(sure * F.log_softmax(student_logits, dim=1).gather(1, columns)).mean()


def transport_loss(
    student_logits: Float[Tensor, "batch classes"],
    teacher_logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    costs: Float[Tensor, "classes classes"],
    temperature: float = 2.0,
    regularisation: float = 0.05,
    iterations: int = 10,
) -> Float[Tensor, ""]:
    r"""Entropic optimal transport between the probabilities of all classes but the label.

    .. math:: L = \frac{1}{B} \sum_b \sum_{i,j \neq y_b} c_{ij} \, u_{bi} K_{ij} v_{bj},
              \qquad K = e^{-c / \lambda}

    where :math:`u` and :math:`v` come from Sinkhorn's iteration :math:`v \leftarrow q^T / (K^\top u)`,
    :math:`u \leftarrow q^S / (K v)` and :math:`q` is the softmax of :math:`z / \tau` without the label. The
    iteration ends after a fixed number of rounds, and gradients flow through all of them: rows of the plan
    :math:`u_i K_{ij} v_j` sum to :math:`q^S`, columns only nearly to :math:`q^T`.

    Args:
        student_logits: Gradients flow into these.
        teacher_logits: The target; no gradient flows into it.
        labels: The class of each image, which is left out.
        costs: Of moving probability from a class to another; see :func:`class_costs`.
        temperature: :math:`\tau`, divides both logits.
        regularisation: :math:`\lambda`; the smaller, the nearer to unregularised transport.
        iterations: Rounds of Sinkhorn's iteration.

    Differs from:
        Official code (JiamingLv/WKD, distillers/WKD.py) cuts the label's row and column out of a copy of the
        costs for every image. Here the label has mass zero, which gives the same numbers from one matrix for
        all images: for 256 images of ImageNet 4 MB instead of 1 GB.

    Example:
        Equal logits cost next to nothing (the plan is blurred a little):

        >>> logits, label = torch.tensor([[5.0, 1.0, 0.0, 2.0]]), torch.tensor([0])
        >>> costs = class_costs(torch.eye(4))
        >>> transport_loss(logits, logits, label, costs).item() < 1e-4
        True
    """
    if student_logits.shape != teacher_logits.shape or len(costs) != student_logits.shape[1]:
        raise ValueError(
            f"WKD-L compares logits of the same images and classes, at a cost between classes: the student's "
            f"are {tuple(student_logits.shape)}, the teacher's {tuple(teacher_logits.shape)}, the costs "
            f"{tuple(costs.shape)}"
        )
    costs = costs.clamp(min=0) + FLOOR
    kernel = torch.exp(-costs / regularisation)
    others = torch.ones_like(student_logits).scatter(1, labels[:, None], 0)
    seen, target = (
        (logits / temperature).masked_fill(others == 0, -torch.inf).softmax(dim=1)
        for logits in (student_logits, teacher_logits.detach())
    )
    u = others / others.sum(dim=1, keepdim=True)
    for _ in range(iterations):
        v = target / (u @ kernel + FLOOR)
        u = seen / (v @ kernel.T + FLOOR)
    return (u * (v @ (kernel * costs).T)).sum(dim=1).mean()


class WKDL(Objective):
    r""":func:`target_cross_entropy` and, with a weight, :func:`transport_loss` on the teacher's classes.

    .. math:: L = L_\mathrm{target} + \gamma \, L_\mathrm{transport}

    The costs are :func:`class_costs` of the rows of the teacher's classifier, which may be narrower or wider
    than the student's. They are a buffer: nothing of the teacher is kept.

    Args:
        pair: The two networks; they need the same classes.
        temperature: :math:`\tau > 0`; 2 on ImageNet, 8 for the official CIFAR-100 pair.
        transport_weight: :math:`\gamma`.
        decay_from: Epoch, counted from 0, from which :math:`\gamma` falls to 0 as half a cosine; ``None``
            keeps it.
        sharpening: :math:`\kappa` of the costs.
        regularisation: :math:`\lambda` of the transport.
        iterations: Rounds of Sinkhorn's iteration.

    Raises:
        ValueError: If there is no teacher, its classes differ, there are fewer than three, or a
            hyper-parameter is out of its range.

    Differs from:
        The paper's main results take the similarity of two classes from centred kernel alignment of their
        images' features, computed beforehand; the official code also offers the classifier's rows
        (``COST_MATRIX: fc``), and only these are offered here.
    """

    costs: Tensor

    def __init__(
        self,
        pair: Pair,
        *,
        temperature: float = 2.0,
        transport_weight: float = 30.0,
        decay_from: int | None = None,
        sharpening: float = 1.0,
        regularisation: float = 0.05,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        teacher = pair.require_same_classes("WKD-L")
        if pair.num_classes < 3:
            raise ValueError(
                f"WKD-L moves probability between classes that are not the label and needs at least 3 "
                f"classes, got {pair.num_classes}"
            )
        positive = {"temperature": temperature, "sharpening": sharpening, "regularisation": regularisation}
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not transport_weight >= 0 or iterations < 1:
            raise ValueError(
                f"transport_weight must not be negative and iterations must be at least 1, got "
                f"{transport_weight} and {iterations}"
            )
        self.temperature = temperature
        self.transport_weight = transport_weight
        self.decay_from = decay_from
        self.regularisation = regularisation
        self.iterations = iterations
        self.decay = 1.0
        self.register_buffer("costs", class_costs(teacher.model.last_layer.weight.detach(), sharpening))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.decay = cosine_decay(epoch, epochs, self.decay_from)

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        logits = student.logits, teacher.logits
        transport = transport_loss(
            *logits, batch.labels, self.costs, self.temperature, self.regularisation, self.iterations
        )
        target = target_cross_entropy(*logits, batch.labels)
        return target + self.transport_weight * self.decay * transport
