"""A whole training step with a topological term next to the same step without: what topology costs a student.

ResNet-32x4 teaches ResNet-8x4 on minibatches of 64 CIFAR images. Both features are 256 wide. The step of
plain soft targets is the last row, so that a ratio is what a row costs relative to it.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.measure import Case, Contender
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import (
    KD,
    CrossEntropy,
    Objective,
    RTDLite,
    Signature,
    SortedDeaths,
    TopKD,
    WeightedSum,
)
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact

TITLE = "A training step of ResNet-8x4 with a topological term, relative to soft targets alone"

IMAGES = 64


def cases(quick: bool) -> Iterator[Case]:
    """The pair of the benchmark; quickly, one with less to compute, where topology weighs more."""
    yield _case("resnet20", "resnet8") if quick else _case("resnet32x4", "resnet8x4")


def _case(teacher_name: str, student_name: str) -> Case:
    torch.manual_seed(0)
    teacher = Teacher(create_model(teacher_name, num_classes=100))
    student = create_model(student_name, num_classes=100)
    labels = torch.arange(IMAGES)
    pair = Pair.measure(student, teacher, image_shape=(3, 32, 32), train_labels=labels, batch_size=IMAGES)
    images = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, labels, torch.arange(IMAGES))
    artefact = _ripsnet(pair)
    terms: dict[str, Callable[[Pair], Objective] | None] = {
        "KD + TopKD (RipsNet)": lambda pair: TopKD(pair, artefact=artefact),
        "KD + TopKD (exact)": lambda pair: TopKD(pair, image="exact", normalise="none", fit_clouds=1),
        "KD + TopKD (exact, scaled)": lambda pair: TopKD(pair, image="exact", fit_clouds=1),
        "KD + TopKD (exact, with loops)": lambda pair: TopKD(
            pair, image="exact", dimensions=(0, 1), fit_clouds=1
        ),
        "KD + sorted deaths": SortedDeaths,
        "KD + signature": Signature,
        "KD + RTD-Lite": RTDLite,
        "KD": None,
    }

    def contender(name: str, build: Callable[[Pair], Objective] | None) -> Contender:
        objectives: dict[str, Objective] = {"ce": CrossEntropy(pair), "kd": KD(pair)}
        if build is not None:
            objectives["topology"] = build(pair)
        objective = WeightedSum(objectives, dict.fromkeys(objectives, 1.0))
        parameters = [*student.parameters(), *objective.parameters()]

        def compute(steps: int) -> np.ndarray:
            student.train()
            for _ in range(steps):
                taught = teacher(batch, objective.teacher_features)
                seen = student.extract(batch.images, objective.student_features)
                loss = objective(seen, taught, batch)
                for parameter in parameters:
                    parameter.grad = None
                loss.backward()
            # What all must agree on: the terms that they have in common.
            return np.array([float(objective.values["ce"]), float(objective.values["kd"])])

        return Contender(name, compute)

    return Case(
        f"{teacher_name} to {student_name}, batch {IMAGES}",
        tuple(contender(name, build) for name, build in terms.items()),
        tolerance=1e-4,
    )


def _ripsnet(pair: Pair) -> RipsNetArtefact:
    """An untrained RipsNet of the official widths; the cost does not depend on what it has learned."""
    teacher = pair.require_teacher("a RipsNet")
    image = PersistenceImage((0.0, 0.0), (0.0, 3.0), 0.3, weight="topkd")
    dim = pair.teacher_shapes["pooled"][0]
    return RipsNetArtefact(
        RipsNet(dim, image.pixels, pooling="mean"),
        image,
        0,
        teacher.name,
        teacher.fingerprint(),
        "pooled",
        IMAGES,
    )
