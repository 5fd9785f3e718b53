"""What a recipe's runs measure beside their losses: the pull of each term, and the shape of the features."""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from topokd_lib.data import EpochLoader, StreamLoader
from topokd_lib.errors import RecipeError
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.objectives import TopKD, WeightedSum
from topokd_lib.prepare import clouds_of_test_images
from topokd_lib.recipes.recipe import DiagnosticsSpec
from topokd_lib.topology import cloud_agreement, topology_health
from topokd_lib.training import Diagnostics

__all__ = ["build_diagnostics"]

_CLOUDS = 8
"""Test minibatches that are looked at after every epoch."""

_LOG = logging.getLogger("topokd")


def build_diagnostics(
    spec: DiagnosticsSpec,
    student: FeatureModel,
    teacher: Teacher | None,
    objective: WeightedSum,
    loader: EpochLoader | StreamLoader,
) -> Diagnostics:
    """What :func:`~topokd_lib.training.fit` is to measure.

    Raises:
        RecipeError: If shapes are to be compared, and there is no teacher, or the test images fill no cloud.
    """
    if not spec.shape:
        return Diagnostics(spec.gradients_every, spec.reference, spec.feature)
    if teacher is None:
        raise RecipeError("diagnostics.shape compares the student with a teacher, and this recipe names none")
    if len(loader.data.test_labels) < loader.batch_size:
        raise RecipeError(
            f"diagnostics.shape looks at clouds of {loader.batch_size} test images, and there are "
            f"{len(loader.data.test_labels)}; lower data.batch_size"
        )
    watch = _Shape(spec.feature, student, teacher, objective, loader)
    return Diagnostics(spec.gradients_every, spec.reference, spec.feature, watch)


class _Shape:
    """After an epoch: the agreement of both networks' clouds, and the health of each TopKD term."""

    def __init__(
        self,
        feature: str,
        student: FeatureModel,
        teacher: Teacher,
        objective: WeightedSum,
        loader: EpochLoader | StreamLoader,
    ) -> None:
        self.feature, self.student, self.teacher = feature, student, teacher
        self.loader = loader
        self.terms = {name: term for name, term in objective.terms.items() if isinstance(term, TopKD)}
        self._said: set[str] = set()

    @torch.no_grad()
    def __call__(self) -> Mapping[str, float]:
        seen, taught = self._clouds(self.feature, self.feature)
        found = {
            f"shape/{name}": value
            for name, value in asdict(
                cloud_agreement(seen, taught, neighbours=min(5, seen.shape[1] - 1))
            ).items()
        }
        for name, term in self.terms.items():
            students, teachers = self._clouds(term.student_feature, term.teacher_feature)
            found |= self._health(name, term, students, teachers)
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _health(self, name: str, term: TopKD, students: Tensor, teachers: Tensor) -> dict[str, float]:
        found: dict[str, float] = {}
        students, teachers = term.scaled(term.connector(students)), term.scaled(teachers)
        for dimension, image in zip(term.exact.dimensions, term.exact.conventions, strict=True):
            if image is None:
                continue
            health = topology_health(students, teachers, image, term.ripsnet, dimension=dimension)
            prefix = f"health/{name}/{dimension}/"
            for field, value in asdict(health).items():
                if isinstance(value, float):
                    found[prefix + field] = value
                elif field == "ripsnet" and isinstance(value, dict):
                    found |= {f"{prefix}ripsnet_{part}": number for part, number in value.items()}
            found[f"{prefix}warnings"] = float(len(health.warnings))
            self._say(name, health.warnings)
        return found

    def _say(self, name: str, warnings: tuple[str, ...]) -> None:
        """Each kind of warning once a run; their numbers change with every epoch and are in the log."""
        for sentence in warnings:
            kind = f"{name}: {''.join(c for c in sentence if not c.isdigit())}"[:60]
            if kind not in self._said:
                self._said.add(kind)
                _LOG.warning("term %r: %s", name, sentence)

    def _clouds(self, student_feature: str, teacher_feature: str) -> tuple[Tensor, Tensor]:
        students, teachers, _ = clouds_of_test_images(
            self.student,
            self.teacher,
            self.loader,
            feature=student_feature,
            teacher_feature=teacher_feature,
            clouds=_CLOUDS,
        )
        return students, teachers
