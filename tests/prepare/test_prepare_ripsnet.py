"""From a teacher to its RipsNet, on real clouds of the digits."""

from dataclasses import replace

import pytest
import torch

from topokd_lib.data import EpochLoader, load_digits
from topokd_lib.errors import CheckpointError, FeatureNotFound
from topokd_lib.models import Teacher, create_model
from topokd_lib.prepare import RipsNetPlan, prepare_ripsnet, teacher_clouds
from topokd_lib.topology import CHANGES, rips_diagrams

PLAN = RipsNetPlan(clouds=40, epochs=3, resolution=(6, 5))


@pytest.fixture(scope="module")
def loader():
    return EpochLoader(load_digits(size=8), batch_size=32, augment="crop", seed=0)


@pytest.fixture(scope="module")
def teacher():
    """A network whose running statistics differ from those of a batch, as a trained one's do."""
    torch.manual_seed(0)
    model = create_model("resnet8", num_classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 0.1
            module.running_var *= 1.5
    return Teacher(model)


@pytest.fixture(scope="module")
def artefact(teacher, loader):
    return prepare_ripsnet(teacher, loader, PLAN)


def test_artefact_belongs_to_teacher_feature_and_cloud_size(artefact, teacher, loader):
    artefact.check(teacher="resnet8", fingerprint=teacher.fingerprint(), feature="pooled", dim=64)
    assert (artefact.feature, artefact.dimension, artefact.cloud_size) == ("pooled", 0, 32)
    assert (artefact.image.resolution, artefact.network.pixels) == ((6, 5), 30)
    assert artefact.provenance["data"] == "digits"
    assert artefact.provenance["data_fingerprint"] == loader.data.fingerprint()


def test_report_says_how_good_it_is_against_a_constant(artefact):
    report = artefact.report
    assert report["r2"] == pytest.approx(1 - report["validation_mse"] / report["constant_mse"], abs=1e-6)
    assert report["r2"] < 1
    assert 1 <= report["epochs_run"] <= 3
    assert 0 <= report["best_epoch"] <= report["epochs_run"]
    assert min(report["train_mse"], report["validation_mse"], report["constant_mse"]) > 0


def test_images_are_made_as_the_official_code_makes_them(artefact, teacher, loader):
    clouds = teacher_clouds(teacher, loader, feature="pooled", clouds=40)
    (diagrams,) = rips_diagrams(clouds, dimensions=(0,))
    images = artefact.image(diagrams)
    assert artefact.image.weight == "topkd"
    assert images.max().item() == pytest.approx(1.0, abs=1e-5)  # divided by the largest pixel of the set
    assert artefact.image.persistence_range == pytest.approx(
        (diagrams.flat()[:, 1].min().item(), diagrams.flat()[:, 1].max().item())
    )


def test_training_helps(teacher, loader):
    short = prepare_ripsnet(teacher, loader, replace(PLAN, epochs=1))
    long = prepare_ripsnet(teacher, loader, replace(PLAN, epochs=60, learning_rate=2e-3))
    assert long.report["validation_mse"] < 0.5 * short.report["validation_mse"]


def test_the_same_seed_gives_the_same_artefact(artefact, teacher, loader):
    torch.manual_seed(99)  # what came before does not matter
    again = prepare_ripsnet(teacher, loader, PLAN)
    assert again.image == artefact.image
    assert again.report == artefact.report
    for one, other in zip(again.network.parameters(), artefact.network.parameters(), strict=True):
        assert torch.equal(one, other)
    other = prepare_ripsnet(teacher, loader, replace(PLAN, seed=1))
    assert other.report != artefact.report


def test_batch_statistics_make_other_clouds_and_leave_the_teacher_alone(artefact, teacher, loader):
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    fingerprint = teacher.fingerprint()
    other = prepare_ripsnet(teacher, loader, replace(PLAN, batch_statistics=True))
    assert other.image.persistence_range != artefact.image.persistence_range
    assert other.teacher_fingerprint == fingerprint == teacher.fingerprint()
    assert not teacher.batch_statistics
    assert not any(module.training for module in teacher.modules())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key])


def test_unstandardised_network_sees_clouds_as_they_are(artefact, teacher, loader):
    plain = prepare_ripsnet(teacher, loader, replace(PLAN, standardise=False, pooling="mean"))
    assert torch.equal(plain.network.input_mean, torch.zeros(64))
    assert torch.equal(plain.network.input_std, torch.ones(64))
    assert not torch.equal(artefact.network.input_mean, torch.zeros(64))
    assert plain.network.pooling == "mean"


def test_progress_names_the_stages(teacher, loader):
    told = []
    prepare_ripsnet(teacher, loader, replace(PLAN, clouds=8, epochs=2), progress=lambda *t: told.append(t))
    assert told == [("clouds", i, 8) for i in range(1, 9)] + [("training", i, 2) for i in (1, 2)]


def test_plans_that_cannot_be_carried_out(teacher, loader):
    with pytest.raises(FeatureNotFound, match="has no feature 'poled'"):
        prepare_ripsnet(teacher, loader, replace(PLAN, feature="poled"))
    with pytest.raises(ValueError, match="clouds"):
        prepare_ripsnet(teacher, loader, replace(PLAN, clouds=1))


class Killed(Exception):
    pass


@pytest.mark.parametrize("where", [("clouds", 21), ("training", 2)])
def test_interrupted_work_goes_on_and_ends_the_same(where, artefact, teacher, loader, tmp_path, monkeypatch):
    """Three whole parts of eight clouds are found again; the rest is made, and the result is the same."""
    monkeypatch.setattr("topokd_lib.prepare.clouds._PART", 8)
    work = tmp_path / "work"

    def kill(stage, done, total):
        if (stage, done) == where:
            raise Killed

    with pytest.raises(Killed):
        prepare_ripsnet(teacher, loader, PLAN, progress=kill, work=work)
    told = []
    again = prepare_ripsnet(teacher, loader, PLAN, progress=lambda *t: told.append(t), work=work)
    made = [done for stage, done, _ in told if stage == "clouds"]
    assert made == (list(range(17, 41)) if where[0] == "clouds" else [])
    assert again.report == artefact.report
    for one, other in zip(again.network.parameters(), artefact.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_unfinished_work_of_another_plan_is_refused(teacher, loader, tmp_path):
    work = tmp_path / "work"
    prepare_ripsnet(teacher, loader, PLAN, work=work)
    with pytest.raises(
        CheckpointError, match=r"unfinished work on another RipsNet \(another plan\); delete it"
    ):
        prepare_ripsnet(teacher, loader, replace(PLAN, seed=1), work=work)
    (work / "about.json").write_text("{")
    with pytest.raises(CheckpointError, match="another teacher, batch_statistics, data"):
        prepare_ripsnet(teacher, loader, PLAN, work=work)


def test_a_part_that_cannot_be_read(teacher, loader, tmp_path, monkeypatch):
    monkeypatch.setattr("topokd_lib.prepare.clouds._PART", 8)
    (tmp_path / "clouds-00000.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"cannot read the clouds in .*clouds-00000.*delete"):
        teacher_clouds(teacher, loader, feature="pooled", clouds=8, parts=tmp_path)


def test_the_report_tells_what_moves_the_image(artefact):
    for name in CHANGES:
        assert artefact.report[f"change_{name}"] >= 0
    for name in CHANGES[:3]:
        assert artefact.report[f"exact_change_{name}"] < 1e-6
    assert artefact.provenance["batch_statistics"] == "False"
