"""IG-KD from attributions to a trained student: aligned, as released, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.recipes.made import make_attributions, make_teacher
from topokd_lib.cli import main
from topokd_lib.data import EpochLoader, OverlayLoader, load_digits, normalise
from topokd_lib.errors import ArtefactMismatch, DataError, RecipeError
from topokd_lib.outputs import Normalisation
from topokd_lib.recipes import (
    AttributionRecipe,
    DataSpec,
    OverlaySpec,
    Recipe,
    TeacherSpec,
    assemble,
    load_recipe,
    run_attribution_recipe,
    stand_in_options,
)

DATA = DataSpec("digits", {"size": 8}, augment="crop")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="module")
def maps(teacher):
    return make_attributions(teacher.parent / "maps", teacher, DATA)


def overrides(teacher, maps, *more):
    return ["--teacher.weights", str(teacher), "--data.overlay.artefact", str(maps), *more]


def test_teacher_and_student_see_what_the_recipe_says(teacher, maps):
    recipe, _ = load_recipe("digits/igkd", overrides(teacher, maps), kind=Recipe)
    parts = assemble(recipe)
    assert isinstance(parts.loader, OverlayLoader)
    assert (parts.loader.aligned_maps, parts.loader.aligned_teacher) == (True, True)
    batch = next(parts.loader.train_batches(0))
    plain = next(parts.loader.loader.train_batches(0))
    changed = (batch.images - plain.images).abs().amax(dim=(1, 2, 3)) > 1e-5
    assert 0.05 < changed.float().mean() < 0.6
    unwrapped = TeacherSpec(teacher).load(parts.data)  # translates what it sees into its own normalisation
    torch.testing.assert_close(parts.teacher(batch).logits, unwrapped(plain).logits, rtol=1e-4, atol=1e-5)


def test_the_released_code_is_one_flag_for_each_of_its_disorders(teacher, maps):
    for name, aligned in (
        ("digits/igkd_maps_of_others", (False, True)),
        ("digits/igkd_answers_of_others", (True, False)),
        ("digits/igkd_released", (False, False)),
    ):
        recipe, _ = load_recipe(name, overrides(teacher, maps), kind=Recipe)
        assert (recipe.data.overlay.aligned_maps, recipe.data.overlay.aligned_teacher) == aligned
        reference, _ = load_recipe("digits/igkd", overrides(teacher, maps), kind=Recipe)
        aligned_again = replace(recipe.data.overlay, aligned_maps=True, aligned_teacher=True)
        assert aligned_again == reference.data.overlay
        assert recipe.schedule == reference.schedule


def test_a_recipe_can_have_its_own_normalisation():
    plain = Normalisation((0.0,) * 3, (1.0,) * 3)
    data = replace(DATA, normalisation=plain).load()
    assert data.normalisation == plain
    batch = next(EpochLoader(data, batch_size=8).train_batches(0))
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert data.fingerprint() != load_digits(size=8).fingerprint()
    assert torch.equal(normalise(data.train_images, plain), data.train_images / 255)


def test_from_the_command_line_to_a_student(teacher, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = ["--teacher.weights", str(teacher), "--artefact", "maps", "--attributions.steps", "2"]
    assert main(["prepare", "attributions", "--config", "digits/igkd_attributions", *made]) == 0
    said = capsys.readouterr().out
    assert said.startswith("maps: maps of 8×8 pixels for each of 1437 training and 360 test images of digits")
    words = ["train", "--config", "digits/igkd", "--schedule.epochs", "1", "--out", "run"]
    assert main([*words, *overrides(teacher, "maps")]) == 0
    assert Path("run/student.safetensors").exists()


def test_rehearsals_need_no_maps(tmp_path):
    recipe, text = load_recipe("cifar10/igkd", kind=Recipe)
    options = stand_in_options(text, tmp_path, synthetic=True)
    assert options[options.index("--data.overlay.artefact") + 1] == "null"
    assert recipe.teacher.reads == "clean"


class TestErrors:
    def test_maps_that_explain_another_teacher(self, teacher, maps, tmp_path, capsys):
        other = make_teacher(tmp_path / "other.safetensors", seed=1)
        assert main(["train", "--config", "digits/igkd", "--dry-run", *overrides(other, maps)]) == 2
        assert "explains the teacher resnet8 with fingerprint" in capsys.readouterr().err

    def test_maps_of_other_images(self, teacher, maps):
        recipe, _ = load_recipe("digits/igkd", overrides(teacher, maps), kind=Recipe)
        recipe.data.normalisation = Normalisation((0.0,) * 3, (1.0,) * 3)
        with pytest.raises(ArtefactMismatch, match="was made of the data digits with fingerprint"):
            assemble(recipe)

    def test_maps_that_are_not_there(self, teacher, tmp_path):
        recipe, _ = load_recipe("digits/igkd", overrides(teacher, tmp_path / "none"), kind=Recipe)
        with pytest.raises(DataError, match="is not there; `topokd prepare` makes it"):
            assemble(recipe)

    def test_a_teacher_that_reads_clean_images_without_an_overlay(self, teacher, maps):
        recipe, _ = load_recipe("digits/igkd", overrides(teacher, maps), kind=Recipe)
        recipe.data.overlay = None
        with pytest.raises(RecipeError, match="reads 'clean' from the extras of a batch"):
            assemble(recipe)

    def test_images_that_are_not_in_memory(self):
        with pytest.raises(TypeError, match=r"these batches come from a str; leave out data\.overlay"):
            OverlaySpec().serve("a stream", None)

    def test_a_device_that_is_not_there(self, teacher, tmp_path):
        recipe, _ = load_recipe(
            "digits/igkd_attributions",
            ["--teacher.weights", str(teacher), "--artefact", str(tmp_path / "m"), "--device", "cuda:77"],
            kind=AttributionRecipe,
        )
        with pytest.raises(RecipeError, match="device=cuda:77 cannot be used here"):
            run_attribution_recipe(recipe)

    def test_a_teacher_of_other_classes(self, tmp_path):
        weights = make_teacher(tmp_path / "five.safetensors", classes=5)
        with pytest.raises(RecipeError, match="resnet8 has 5 classes, digits has 10"):
            make_attributions(tmp_path / "maps", weights, DATA)

    def test_a_plan_out_of_range(self, teacher, capsys):
        words = [
            "prepare",
            "attributions",
            "--config",
            "digits/igkd_attributions",
            "--attributions.steps",
            "0",
        ]
        assert main(words) == 2
        assert "at least one step" in capsys.readouterr().err
