"""The paper's Table 8 and the triangle inequality, on real clouds of untrained networks."""

from dataclasses import replace

import pytest
import torch

from topokd_lib.analysis import error_budget, error_table, shape_agreement
from topokd_lib.data import EpochLoader, load_digits
from topokd_lib.errors import ArtefactMismatch
from topokd_lib.models import Teacher, create_model
from topokd_lib.prepare import RipsNetPlan, prepare_ripsnet
from topokd_lib.topology import rips_diagrams


@pytest.fixture(scope="module")
def loader():
    return EpochLoader(load_digits(size=8), batch_size=32, augment="crop", seed=0)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(1)
    return Teacher(create_model("resnet8", num_classes=10))


@pytest.fixture(scope="module")
def artefact(teacher, loader):
    return prepare_ripsnet(teacher, loader, RipsNetPlan(clouds=60, epochs=15, learning_rate=2e-3))


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(2)
    return create_model("resnet8", num_classes=10)


def test_the_budget_is_that_of_its_definition(student, teacher, artefact, loader):
    found = error_budget(student, teacher, artefact, loader)
    features = []
    for batch in loader.test_batches():
        with torch.no_grad():
            features.append(student.eval().extract(batch.images, ["pooled"])["pooled"])
    clouds = torch.cat(features)[: 32 * found.clouds].unflatten(0, (found.clouds, 32))
    exact = artefact.image(rips_diagrams(clouds)[0]).flatten(1)
    guessed = artefact.network(clouds).detach()
    assert found.student_error == pytest.approx(float((exact - guessed).square().mean()), rel=1e-5)
    assert found.exact_distance <= found.bound
    assert 0 < found.loss_share < 1


def test_the_teacher_as_its_own_student(teacher, artefact, loader):
    found = error_budget(teacher.model, teacher, artefact, loader)
    assert found.estimated_loss == found.exact_loss == found.exact_distance == found.loss_share == 0
    assert found.student_error == pytest.approx(found.teacher_error)
    assert found.bound == pytest.approx(2 * found.teacher_error**0.5, rel=0.1)
    shape = shape_agreement(teacher.model, teacher, loader)
    assert (shape.neighbours, shape.tree, shape.deaths) == (1, 1, 0)


def test_a_connector_stands_between(student, teacher, artefact, loader):
    zero = torch.nn.Linear(64, 64)
    torch.nn.init.zeros_(zero.weight)
    found = error_budget(student, teacher, artefact, loader, connector=zero)
    assert found.exact_loss != error_budget(student, teacher, artefact, loader).exact_loss


def test_the_table(student, teacher, artefact, loader):
    rows = {"untrained": error_budget(student, teacher, artefact, loader)}
    head, line, row = error_table(rows).splitlines()
    assert head.count("|") == line.count("|") == row.count("|") == 9
    assert f"{rows['untrained'].teacher_error:.5f}" in row
    with pytest.raises(ValueError, match="needs at least one student"):
        error_table({})


def test_another_teachers_ripsnet(student, teacher, artefact, loader):
    with pytest.raises(ArtefactMismatch, match="belongs to something else"):
        error_budget(student, teacher, replace(artefact, teacher_fingerprint="other"), loader)
