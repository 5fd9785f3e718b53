"""What an objective may know about student, teacher and data before training starts."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from topokd_lib.errors import require_feature
from topokd_lib.models.base import FeatureModel
from topokd_lib.models.teacher import Teacher
from topokd_lib.outputs import Batch

__all__ = ["Pair"]


@dataclass(frozen=True)
class Pair:
    """Student and teacher with the shapes of their features, measured once.

    Every objective is built as ``Objective(pair, *, hyper-parameters)``, complete and checked: what does not
    fit fails here, with a message that names both sides, and not in the middle of the first epoch.

    Args:
        student: The network that will be trained.
        teacher: The network that teaches, or ``None`` for ordinary training.
        student_shapes: Shape of every student feature without the batch axis.
        teacher_shapes: Shape of every teacher feature without the batch axis; empty without a teacher.
        train_labels: Label of every training image, in the order of ``Batch.indices``.
        batch_size: Images per step and device.
    """

    student: FeatureModel
    teacher: Teacher | None
    student_shapes: Mapping[str, torch.Size]
    teacher_shapes: Mapping[str, torch.Size]
    train_labels: Int[Tensor, " samples"]
    batch_size: int

    @classmethod
    def measure(
        cls,
        student: FeatureModel,
        teacher: Teacher | None,
        *,
        image_shape: tuple[int, int, int],
        train_labels: Int[Tensor, " samples"],
        batch_size: int,
        extra_shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> "Pair":
        """Build a pair by sending one blank image of ``image_shape`` through both networks.

        Args:
            student: See the class.
            teacher: See the class.
            image_shape: Channels, height and width.
            train_labels: See the class.
            batch_size: See the class.
            extra_shapes: Shape of every extra that batches carry, for teachers that read one.

        Raises:
            ValueError: If a label is not one of the student's classes, the batch size is not positive, or the
                teacher reads an extra that batches do not carry.
        """
        if batch_size < 1:
            raise ValueError(f"a batch holds at least one image, got batch_size={batch_size}")
        lowest, highest = int(train_labels.min()), int(train_labels.max())
        if lowest < 0 or highest >= student.num_classes:
            raise ValueError(
                f"labels must lie in 0 … {student.num_classes - 1} because student {student.name} has "
                f"{student.num_classes} classes, found {lowest} … {highest}; "
                f"is the student built for another data set?"
            )
        image = torch.zeros(1, *image_shape)
        training = student.training
        with torch.no_grad():
            seen = student.eval().extract(image, student.feature_names)
            student.train(training)
            shapes = {name: value.shape[1:] for name, value in seen.features.items()}
            teacher_shapes: dict[str, torch.Size] = {}
            if teacher is not None:
                nothing = torch.zeros(1, dtype=torch.long)
                extras = {name: torch.zeros(1, *shape) for name, shape in (extra_shapes or {}).items()}
                taught = teacher(Batch(image, nothing, nothing, extras), teacher.feature_names)
                teacher_shapes = {name: value.shape[1:] for name, value in taught.features.items()}
        return cls(student, teacher, shapes, teacher_shapes, train_labels, batch_size)

    @property
    def num_classes(self) -> int:
        """Classes of the student."""
        return self.student.num_classes

    def require_teacher(self, objective: str) -> Teacher:
        """The teacher.

        Raises:
            ValueError: If there is none.
        """
        if self.teacher is None:
            raise ValueError(
                f"{objective} compares the student with a teacher, and this run has none; "
                f"name one (recipe field 'teacher') or drop the term"
            )
        return self.teacher

    def require_same_classes(self, objective: str) -> Teacher:
        """The teacher, if it has the student's classes.

        Raises:
            ValueError: If there is no teacher, or it has another number of classes.
        """
        teacher = self.require_teacher(objective)
        if teacher.num_classes != self.num_classes:
            raise ValueError(
                f"{objective} compares logits class by class: student {self.student.name} has "
                f"{self.num_classes} classes, teacher {teacher.name} has {teacher.num_classes}; "
                f"train both on the same data set"
            )
        return teacher

    def shapes(self, *, student: str, teacher: str) -> tuple[torch.Size, torch.Size]:
        """Shapes of one feature of each network, without the batch axis.

        Raises:
            FeatureNotFound: If one of the networks does not offer the feature; suggests the nearest name.
            ValueError: If there is no teacher.
        """
        network = self.require_teacher(f"feature {teacher!r}")
        require_feature("student", self.student.name, student, self.student_shapes)
        require_feature("teacher", network.name, teacher, self.teacher_shapes)
        return self.student_shapes[student], self.teacher_shapes[teacher]
