"""A step of distillation whose teacher computes, next to one whose teacher looks up what it said before."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
import torch

from benchmarks.measure import GATE, Case, Contender
from topokd_lib.data import EpochLoader
from topokd_lib.data.noise import load_noise
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import KD, CrossEntropy, WeightedSum
from topokd_lib.pair import Pair
from topokd_lib.prepare import CachedTeacher, Outputs, plan_outputs
from topokd_lib.training import Distiller, Schedule

TITLE = "A training step of KD with a batch of 64, teacher included, per image"

BATCH = 64


def cases(quick: bool) -> Iterator[Case]:
    """The pair of the literature's timings, and a small one."""
    yield _case("resnet20", "resnet8") if quick else _case("resnet32x4", "resnet8x4")


def _case(teacher_name: str, student_name: str) -> Case:
    torch.manual_seed(0)
    data = load_noise(train=BATCH, test=1)
    student, teacher = (create_model(name, num_classes=100) for name in (student_name, teacher_name))
    teaching = Teacher(teacher)
    pair = Pair.measure(
        student, teaching, image_shape=data.image_shape, train_labels=data.train_labels, batch_size=BATCH
    )
    objective = WeightedSum({"ce": CrossEntropy(pair), "kd": KD(pair)}, {"ce": 0.1, "kd": 0.9})
    os.environ["TOPOKD_CACHE"] = folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    plan = plan_outputs(teaching, data, augment="crop-flip", precision="float32", objective=objective)
    remembering = CachedTeacher(teaching, Outputs(*plan))

    def step(taught: Teacher, items: int) -> np.ndarray:
        """The first step of an epoch, from the images to the new weights."""
        distiller = Distiller(deepcopy(student), objective).train()
        optimizer = Schedule().build(distiller.parameters())
        loader = EpochLoader(data, batch_size=min(items, BATCH), augment="crop-flip")
        batch = next(loader.train_batches(0))
        loss, logits = distiller(batch, taught(batch, objective.teacher_features))
        loss.backward()
        optimizer.step()
        return torch.cat([loss.detach()[None], logits.detach().flatten()[:100]]).numpy()

    for items in (GATE, BATCH):
        step(remembering, items)

    return Case(
        f"{teacher_name} to {student_name}",
        (
            Contender("the teacher computes", lambda items: step(teaching, items), items=BATCH),
            Contender("ours: looked up", lambda items: step(remembering, items), items=BATCH),
        ),
        tolerance=1e-5,
    )
