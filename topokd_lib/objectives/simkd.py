"""SimKD: the student keeps the teacher's classifier and learns nothing but what that classifier reads.

The student's own classifier is gone: a :class:`~topokd_lib.models.ProjectorNeck` takes its last map into the
teacher's channels, and a frozen copy of the teacher's classifier reads the mean. Both stay in the network
when training is over, so a student of SimKD is larger than the same student of another method.

Reference:
    D. Chen, J.-P. Mei, H. Zhang, C. Wang, Y. Feng, C. Chen. Knowledge Distillation with the Reused Teacher
    Classifier. CVPR 2022, §3. [chen2022simkd]
Explained in:
    book/reference/objectives.md
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from topokd_lib.models import ProjectorNeck
from topokd_lib.objectives.base import Objective
from topokd_lib.objectives.connectors import pair_maps, pool_to_smaller
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair

__all__ = ["SimKD", "alignment_loss"]


def alignment_loss(
    student: Float[Tensor, "batch channels student_height student_width"],
    teacher: Float[Tensor, "batch channels teacher_height teacher_width"],
) -> Float[Tensor, ""]:
    r"""Mean squared difference of the projected map and the teacher's; the larger one is averaged.

    .. math:: L = \frac{1}{B C H W} \lVert P(f^S) - f^T \rVert^2

    Args:
        student: The student's map in the teacher's channels.
        teacher: The target; no gradient flows into it.

    Example:
        >>> import torch
        >>> alignment_loss(torch.ones(1, 2, 1, 1), torch.full((1, 2, 2, 2), 3.0)).item()
        4.0
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"SimKD compares maps channel by channel: the student's projected map has {student.shape[1]} "
            f"channels, the teacher's {teacher.shape[1]}"
        )
    seen, target = pool_to_smaller(student, teacher.detach())
    return F.mse_loss(seen, target)


class SimKD(Objective):
    """:func:`alignment_loss` between the last maps of both networks, the only loss of the method.

    The student needs a neck of kind ``teacher-classifier`` (recipe field ``neck``). Neither labels nor logits
    take part: in the official settings cross-entropy and KD have weight 0.

    Args:
        pair: The two networks; the student with its neck.

    Raises:
        ValueError: If there is no teacher, the student has no such neck, or its neck was made for a teacher
            of another width.

    Differs from:
        Official code (DefangChen/SimKD, models/util.py) averages a student's map that is larger than the
        teacher's before the projection, here after it. None of the benchmark's pairs has such a map.
    """

    student_features = ("last_map",)
    teacher_features = ("last_map",)

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        teacher = pair.require_teacher("SimKD")
        if not isinstance(pair.student.neck, ProjectorNeck):
            raise ValueError(  # noqa: TRY004 (the recipe is wrong, not a type)
                f"SimKD trains a projector in front of the teacher's classifier, and student "
                f"{pair.student.name} has none; give it one (recipe field 'neck: "
                f"{{kind: teacher-classifier}}')"
            )
        (maps,) = pair_maps(pair, "SimKD", self.student_features, self.teacher_features, default=())
        if maps.student_shape[0] != maps.teacher_shape[0]:
            raise ValueError(
                f"the student's neck projects to {maps.student_shape[0]} channels, and teacher "
                f"{teacher.name} has {maps.teacher_shape[0]}; make the neck for this teacher"
            )

    def forward(self, student: ModelOutput, teacher: ModelOutput, batch: Batch) -> Float[Tensor, ""]:
        return alignment_loss(student["last_map"], teacher["last_map"])
