"""TGD from persistence images to a trained student: as published, with its controls, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.recipes.made import Case, make_persistence
from topokd_lib.cli import main
from topokd_lib.data import load_data
from topokd_lib.errors import ArtefactMismatch, CheckpointError, RecipeError
from topokd_lib.models import create_model
from topokd_lib.objectives import TGD
from topokd_lib.recipes import (
    DataSpec,
    ExtraSpec,
    ImagePersistenceRecipe,
    Recipe,
    TeacherSpec,
    assemble,
    load_recipe,
    recipe_names,
    run_image_persistence_recipe,
)
from topokd_lib.topology import ScanPersistence
from topokd_lib.training import Schedule, save_student

PUBLISHED = ("cifar10", "cinic10")
PROTOCOL = [
    name
    for name in recipe_names()
    if name.startswith(tuple(f"{group}/tgd" for group in PUBLISHED)) and "persistence" not in name
]
STUDENTS = ["tgd", "tgd_image_only", "tgd_two_images", "tgd_shuffled"]


@pytest.mark.parametrize("name", PROTOCOL)
def test_protocol_is_that_of_the_official_code(name):
    recipe, _ = load_recipe(name, kind=Recipe)
    assert recipe.schedule == Schedule(
        epochs=200, lr=0.1, momentum=0.9, nesterov=False, weight_decay=1e-4,
        milestones=(40, 80, 120, 160), gamma=0.2,
    )  # fmt: skip
    assert (recipe.data.batch_size, recipe.data.augment) == (128, "none")
    assert recipe.student == ("wrn_16_3" if name.endswith("teacher") else "wrn_16_1")


@pytest.mark.parametrize("group", PUBLISHED)
def test_persistence_images_are_those_of_the_official_code(group):
    recipe, _ = load_recipe(f"{group}/tgd_persistence", kind=ImagePersistenceRecipe)
    assert recipe.persistence == ScanPersistence.official()


@pytest.mark.parametrize("group", [*PUBLISHED, "digits"])
@pytest.mark.parametrize("name", STUDENTS)
def test_students_differ_in_nothing_but_the_second_teacher(group, name, tmp_path):
    published, _ = load_recipe(f"{group}/tgd", kind=Recipe)
    recipe, _ = load_recipe(f"{group}/{name}", kind=Recipe)
    for field in ("student", "schedule", "initial_weights"):
        assert getattr(recipe, field) == getattr(published, field)
    assert recipe.teachers["image"] == published.teachers["image"]
    assert {term: about.weight for term, about in recipe.terms.items()} == {"ce": 0.1, "tgd": 1.0}
    case = Case.make(f"{group}/{name}", tmp_path)
    objective = assemble(load_recipe(case.name, case.overrides, kind=Recipe)[0]).objective.terms["tgd"]
    assert isinstance(objective, TGD)
    usual = 0.99 if group in PUBLISHED else 0.9
    assert objective.alpha == (1.0 if name == "tgd_image_only" else usual)
    assert (objective.kd_weight, objective.similarity_weight, objective.temperature) == (0.9, 3000.0, 4.0)


@pytest.fixture
def case(tmp_path):
    return Case.make("digits/tgd", tmp_path)


def test_teachers_are_trained_on_what_they_read(tmp_path, monkeypatch, capsys):
    """The four commands that the recipe names, and then the student; one epoch of each."""
    monkeypatch.chdir(tmp_path)
    short = ["--schedule.epochs", "1", "--student", "resnet8"]
    persistence = ["--config", "digits/tgd_persistence", "--processes", "1"]
    assert main(["prepare", "image-persistence", *persistence]) == 0
    for name in ("tgd_image_teacher", "tgd_topology_teacher", "tgd_scratch"):
        words = short if name == "tgd_scratch" else [*short, "--out", f"runs/digits/{name}/resnet20/seed0"]
        assert main(["train", "--config", f"digits/{name}", *words]) == 0
    assert main(["train", "--config", "digits/tgd", "--schedule.epochs", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("runs/digits/tgd/resnet8/seed0: test accuracy")
    assert main(["evaluate", "runs/digits/tgd/resnet8/seed0"]) == 0
    assert main(["evaluate", "runs/digits/tgd_topology_teacher/resnet20/seed0"]) == 0
    record = json.loads((tmp_path / "runs/digits/tgd/resnet8/seed0/record.json").read_text())
    assert set(record["curve"][0]["terms"]) == {"ce", "tgd"}


def test_the_student_starts_from_the_weights_that_are_named(case, tmp_path):
    start, student = torch.nn.init.normal_, create_model("resnet8", num_classes=10)
    start(student.fc.weight, std=5.0)
    save_student(tmp_path / "start.safetensors", student)
    recipe, _ = load_recipe(case.name, case.overrides, kind=Recipe)
    assert torch.equal(assemble(recipe).student.fc.weight, student.fc.weight)
    save_student(tmp_path / "start.safetensors", create_model("resnet14", num_classes=10))
    with pytest.raises(CheckpointError, match="do not fit resnet8"):
        assemble(recipe)


def test_computed_persistence_images_follow_the_augmentation(case):
    recipe, _ = load_recipe(case.name, case.overrides, kind=Recipe)
    computed = ExtraSpec(compute=ScanPersistence(resolution=8, span=1.0))
    data = replace(recipe.data, extras={"persistence_image": computed}, augment="crop")
    parts = assemble(replace(recipe, data=data))
    batch = next(parts.loader.train_batches(0))
    assert batch.extras["persistence_image"].shape == (64, 6, 8, 8)
    seen = parts.student.extract(batch.images, parts.objective.student_features)
    loss = parts.objective(seen, parts.teacher(batch, parts.objective.teacher_features), batch)
    assert torch.isfinite(loss)
    stored = next(assemble(recipe).loader.train_batches(0)).extras["persistence_image"]
    assert not torch.equal(stored, batch.extras["persistence_image"])


@pytest.mark.parametrize(
    "name", [f"cifar10/{name}" for name in (*STUDENTS, "tgd_kd", "tgd_topology_teacher")]
)
def test_it_can_be_rehearsed_before_anything_is_there(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--student", "resnet8", "--data.batch_size", "4"]
    assert main(["train", "--config", name, "--dry-run", "--synthetic", *words]) == 0
    assert capsys.readouterr().out.startswith("dry run on noise: all parts fit")
    assert list(tmp_path.iterdir()) == []


class TestErrors:
    def test_persistence_images_of_other_data(self, case, tmp_path):
        other = make_persistence(tmp_path / "other", load_data("digits", size=32))
        options = [*case.overrides, "--data.extras.persistence_image.artefact", str(other)]
        with pytest.raises(ArtefactMismatch, match="made of the data digits with fingerprint"):
            assemble(load_recipe(case.name, options, kind=Recipe)[0])

    def test_a_teacher_of_other_persistence_images(self, tmp_path):
        """The control with shuffled images, whose teacher someone forgot to train anew."""
        case = Case.make("digits/tgd", tmp_path)
        shuffled = str(tmp_path / "shuffled")
        words = [
            "--persistence.resolution",
            "8",
            "--shuffle",
            "1",
            "--processes",
            "1",
            "--artefact",
            shuffled,
        ]
        assert main(["prepare", "image-persistence", "--config", "digits/tgd_persistence", *words]) == 0
        options = [*case.overrides, "--data.extras.persistence_image.artefact", shuffled]
        with pytest.raises(
            ArtefactMismatch, match=r"topology\.safetensors was trained on .*; train it on this"
        ):
            assemble(load_recipe(case.name, options, kind=Recipe)[0])

    def test_an_extra_that_batches_do_not_carry(self, case):
        recipe, _ = load_recipe(case.name, case.overrides, kind=Recipe)
        with pytest.raises(RecipeError, match="reads 'persistence_image' from the extras of a batch"):
            assemble(replace(recipe, data=replace(recipe.data, extras={})))

    def test_an_extra_has_one_source(self):
        for options in ({}, {"artefact": Path("p"), "compute": ScanPersistence()}):
            with pytest.raises(ValueError, match="from an artefact or is computed: name one of the two"):
                ExtraSpec(**options)

    def test_prepared_extras_do_not_follow_augmentation(self, tmp_path):
        extras = {"persistence_image": ExtraSpec(artefact=tmp_path)}
        with pytest.raises(ValueError, match=r"\(persistence_image\) belong to the images .* augment=crop"):
            DataSpec("digits", augment="crop", extras=extras)

    def test_teacher_and_teachers(self, case, capsys):
        options = ["--teacher.weights", "x"]
        with pytest.raises(RecipeError, match="one 'teacher' or several 'teachers' by name, not both"):
            load_recipe(case.name, options, kind=Recipe)
        assert main(["train", "--config", case.name, *options]) == 2
        assert "not both" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--teachers.image.cache", "float32"], "kept for one teacher of images, and this is 2 teachers"),
            (["--diagnostics.shape", "true"], "compares with one teacher of images, and this is 2 teachers"),
        ],
    )
    def test_what_several_teachers_cannot_do(self, case, options, message):
        with pytest.raises(RecipeError, match=message):
            load_recipe(case.name, [*case.overrides, *options], kind=Recipe)

    def test_nor_one_that_reads_something_else(self, tmp_path):
        spec = TeacherSpec(tmp_path, cache="float32", reads="map")
        with pytest.raises(ValueError, match="and this is a teacher that reads 'map'"):
            Recipe(DataSpec("digits"), "resnet8", {}, teacher=spec)

    def test_images_that_stay_on_disk(self, tmp_path, monkeypatch):
        monkeypatch.setattr(DataSpec, "load", lambda self: SimpleNamespace(name="imagenet"))
        recipe = ImagePersistenceRecipe(DataSpec("imagenet"), tmp_path / "p")
        with pytest.raises(RecipeError, match=r"imagenet is read from disk; .*data\.extras\.NAME\.compute"):
            run_image_persistence_recipe(recipe)

    def test_names_of_teachers(self, tmp_path):
        with pytest.raises(ValueError, match="names of teachers are words, got 'image/1'; rename"):
            Recipe(DataSpec("digits"), "resnet8", {}, teachers={"image/1": TeacherSpec(tmp_path)})

    def test_one_teacher_that_reads_what_is_not_there(self, case, tmp_path):
        recipe, _ = load_recipe(case.name, case.overrides, kind=Recipe)
        alone = replace(recipe, teachers={}, teacher=recipe.teachers["topology"], terms={})
        with pytest.raises(RecipeError, match=r"data\.extras\.persistence_image"):
            assemble(replace(alone, data=replace(recipe.data, extras={})))
