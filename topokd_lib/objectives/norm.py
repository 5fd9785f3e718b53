"""N-to-one representation matching (NORM): every part of a widened student map should be the teacher's.

The method widens the student itself, with a :class:`~topokd_lib.models.NToOneNeck`: two 1×1 convolutions
with batch normalisation behind its last map, the first to N times the teacher's channels and the second back,
added to the map. Both are linear and are merged into the classifier after training.

Reference:
    X. Liu, L. Li, C. Li, A. Yao. NORM: Knowledge Distillation via N-to-One Representation Matching.
    ICLR 2023. [liu2023norm]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["NORM", "n_to_one_loss"]


def n_to_one_loss(
    expanded: Float[Tensor, "batch expanded_channels height width"],
    teacher: Float[Tensor, "batch channels teacher_height teacher_width"],
) -> Float[Tensor, ""]:
    r"""Mean squared differences of the parts of the student's map to the teacher's map, added up.

    .. math:: L = \sum_{k=1}^{N} \frac{1}{B C H W} \lVert e_k - f^T \rVert^2

    Args:
        expanded: The student's map :math:`e = (e_1, \ldots, e_N)`, as wide as :math:`N` of the teacher's.
        teacher: The target; no gradient flows into it. The larger map is max-pooled to the smaller.

    Raises:
        ValueError: If the student's channels are not a multiple of the teacher's.

    Differs from:
        Official code (OSVAI/NORM, helper/loops.py) pools the teacher's map only.

    Example:
        Two parts, 1 and 3, of a teacher that is 0 everywhere: 1² + 3².

        >>> import torch
        >>> expanded = torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
        >>> n_to_one_loss(expanded, torch.zeros(1, 1, 1, 1)).item()
        10.0
    """
    parts, rest = divmod(expanded.shape[1], teacher.shape[1])
    if rest or not parts:
        raise ValueError(
            f"NORM compares parts of the student's map with the teacher's: {expanded.shape[1]} channels are "
            f"not a multiple of the teacher's {teacher.shape[1]}; expand to N times the teacher's channels"
        )
    seen, target = pool_to_smaller(expanded, teacher.detach(), pooling="max")
    return parts * F.mse_loss(seen, target.repeat(1, parts, 1, 1))


class NORM(Objective):
    r""":func:`n_to_one_loss` between the student's widened map and the teacher's last map.

    The student needs a neck of kind ``n-to-one`` (recipe field ``neck``), which is what offers ``expanded``;
    after training the neck is merged and the network is an ordinary one again.

    Args:
        pair: The two networks; the student with its neck.

    Raises:
        ValueError: If there is no teacher, the student has no such neck, or its neck was made for a teacher
            of another width.

    Differs from:
        The official code (OSVAI/NORM, helper/loops.py) standardises the logits over the classes and
        multiplies them by 2.5 before the cross-entropy (``CrossEntropy(pair, standardised=2.5)``, as in the
        recipes here) and KD, which its paper's summary does not mention. It weights the loss by 0.1, 0.5, 1,
        0.5 and 0.1 as epochs go by; recipes here let it rise over as many epochs, and stay.
    """

    student_features = ("expanded",)
    teacher_features = ("last_map",)

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        pair.require_teacher("NORM")
        if "expanded" not in pair.student_shapes:
            raise ValueError(
                f"NORM reads the widened map of a neck, and student {pair.student.name} has none; give it "
                f"one (recipe field 'neck: {{kind: n-to-one}}')"
            )
        (maps,) = pair_maps(pair, "NORM", self.student_features, self.teacher_features, default=())
        if maps.student_shape[0] % maps.teacher_shape[0]:
            raise ValueError(
                f"the student's neck widens to {maps.student_shape[0]} channels, no multiple of the "
                f"{maps.teacher_shape[0]} of teacher {pair.require_teacher('NORM').name}; make the neck for "
                f"this teacher"
            )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return n_to_one_loss(student["expanded"], teacher["last_map"])
