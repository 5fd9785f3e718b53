"""How much of a small TopKD loss can be believed: the errors of RipsNet on both sides, and what they leave.

Reference:
    J. Kim et al., ICML 2024, Table 8. [kim2024topkd]
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from topokd_lib.data import EpochLoader
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.prepare import clouds_of_test_images
from topokd_lib.topology import RipsNetArtefact, rips_diagrams

__all__ = ["ErrorBudget", "error_budget", "error_table"]


@dataclass(frozen=True)
class ErrorBudget:
    r"""Exact images :math:`\pi` and RipsNet's :math:`\hat\pi` of teacher and student, averaged over clouds.

    The first four are mean squared errors per pixel, as in the paper's Table 8, which prints norms and means
    these. By the triangle inequality, for each cloud and in norms,

    .. math:: \lVert \pi^T - \pi^S \rVert \le \lVert \pi^T - \hat\pi^T \rVert
              + \lVert \hat\pi^T - \hat\pi^S \rVert + \lVert \hat\pi^S - \pi^S \rVert .

    The middle term is what training makes small. Roots are taken cloud by cloud, before the mean: of numbers
    that are averaged as squares the inequality cannot be read off.

    Args:
        teacher_error: :math:`\lVert \pi^T - \hat\pi^T \rVert^2` per pixel; ``L_RN`` in the table.
        student_error: :math:`\lVert \pi^S - \hat\pi^S \rVert^2` per pixel.
        estimated_loss: :math:`\lVert \hat\pi^T - \hat\pi^S \rVert^2` per pixel, the loss that training sees.
        exact_loss: :math:`\lVert \pi^T - \pi^S \rVert^2` per pixel.
        bound: Mean over clouds of the right side of the inequality, as a root mean square per pixel.
        exact_distance: Mean over clouds of its left side.
        loss_share: Share of the middle term in the bound: what training has in its hands.
        clouds: Number of clouds.
    """

    teacher_error: float
    student_error: float
    estimated_loss: float
    exact_loss: float
    bound: float
    exact_distance: float
    loss_share: float
    clouds: int


@torch.no_grad()
def error_budget(
    student: FeatureModel,
    teacher: Teacher,
    artefact: RipsNetArtefact,
    loader: EpochLoader,
    *,
    connector: torch.nn.Module | None = None,
) -> ErrorBudget:
    """The errors of a RipsNet on the clouds of test minibatches, of its teacher and of a student.

    Args:
        student: Left in evaluation mode.
        teacher: The one that RipsNet was made for.
        artefact: RipsNet, and how its images are made.
        loader: Gives the test images; its batch size is the number of points of a cloud.
        connector: The trained one between the student's feature and the teacher's space, if the
            student has one.

    Raises:
        ArtefactMismatch: If the artefact was made for another teacher.
        FeatureNotFound: If a network does not offer the artefact's feature.
        ValueError: If there are fewer test images than points in a cloud, or the student's points have
            another width than RipsNet reads.
    """
    students, teachers, _ = clouds_of_test_images(student, teacher, loader, feature=artefact.feature)
    artefact.check(
        teacher=teacher.name,
        fingerprint=teacher.fingerprint(),
        feature=artefact.feature,
        dim=teachers.shape[2],
    )
    if connector is not None:
        students = torch.as_tensor(connector(students))
    guessed_s, guessed_t = (artefact.network(clouds) for clouds in (students, teachers))
    exact_s, exact_t = (
        artefact.image(rips_diagrams(clouds, dimensions=(artefact.dimension,))[0]).flatten(1)
        for clouds in (students, teachers)
    )
    squares = [
        (one - two).square().mean(dim=1)
        for one, two in (
            (exact_t, guessed_t),
            (exact_s, guessed_s),
            (guessed_t, guessed_s),
            (exact_t, exact_s),
        )
    ]
    teacher_error, student_error, estimated, exact = (float(part.mean()) for part in squares)
    roots = [part.sqrt() for part in squares]
    bound = roots[0] + roots[1] + roots[2]
    return ErrorBudget(
        teacher_error=teacher_error,
        student_error=student_error,
        estimated_loss=estimated,
        exact_loss=exact,
        bound=float(bound.mean()),
        exact_distance=float(roots[3].mean()),
        loss_share=float((roots[2] / bound).nan_to_num().mean()),
        clouds=len(students),
    )


def error_table(students: Mapping[str, ErrorBudget]) -> str:
    """A Markdown table in the form of the paper's Table 8, and the budget beside it; one row per student.

    Raises:
        ValueError: If there is no student.
    """
    if not students:
        raise ValueError("a table of errors needs at least one student")
    heads = (
        "",
        "‖π_T − π̂_T‖²",
        "‖π_S − π̂_S‖²",
        "‖π̂_T − π̂_S‖²",
        "‖π_T − π_S‖²",
        "‖π_T − π_S‖",
        "bound",
        "share",
    )
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for name, row in students.items():
        squares = (row.teacher_error, row.student_error, row.estimated_loss, row.exact_loss)
        cells = [f"{value:.5f}" for value in squares]
        cells += [f"{row.exact_distance:.3f}", f"{row.bound:.3f}", f"{row.loss_share:.0%}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
