"""Every recipe that comes with the library works; a new file is covered by being there."""

import json

import pytest
import yaml

from tests.recipes.made import Case
from topokd_lib.cli import main
from topokd_lib.data import SampleArrays
from topokd_lib.objectives import PathwayProcess
from topokd_lib.recipes import (
    AttributionRecipe,
    DistProRecipe,
    ImagePersistenceRecipe,
    Recipe,
    find_recipe,
    load_recipe,
    recipe_names,
    recipe_title,
    rehearse,
)
from topokd_lib.topology import RipsNetArtefact


def prepares_something(name):
    return "artefact" in yaml.safe_load(find_recipe(name).read_text("utf-8"))


TRAINING = [name for name in recipe_names() if not prepares_something(name)]


@pytest.fixture(params=recipe_names())
def case(request, tmp_path):
    return Case.make(request.param, tmp_path)


@pytest.fixture(params=TRAINING)
def training(request, tmp_path):
    return Case.make(request.param, tmp_path)


@pytest.fixture(params=sorted(set(recipe_names()) - set(TRAINING)))
def preparation(request, tmp_path):
    return Case.make(request.param, tmp_path)


def test_the_recipes_of_the_digits_are_there():
    names = [f"digits/{name}" for name in ("kd", "none", "ripsnet", "teacher", "topkd", "topkd_exact")]
    assert set(names) <= set(recipe_names())


def test_file_says_what_it_is_in_one_line(case):
    text = find_recipe(case.name).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert 20 < len(recipe_title(find_recipe(case.name))) <= 100
    assert len(text.splitlines()) <= 25


def test_parses_builds_and_trains_two_steps(training):
    recipe, _ = load_recipe(training.name, training.overrides, kind=Recipe)
    history = rehearse(recipe)
    assert len(history.epochs) == 1
    assert set(history.last.terms) == set(recipe.terms)
    assert history.last.test.count > 0


def test_dry_run_of_the_command_writes_nothing(training, tmp_path, monkeypatch, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["train", "--config", training.name, "--dry-run", *training.overrides]) == 0
    assert capsys.readouterr().out.startswith("dry run: all parts fit; loss of the first steps ")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", TRAINING)
def test_dry_run_needs_neither_data_nor_teacher_nor_artefacts(name, tmp_path, monkeypatch, capsys):
    """What a user can do with every recipe before anything is there; small batches save minutes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOKD_DATA", str(tmp_path / "nowhere"))
    small = ["--data.batch_size", "8"] if name.partition("/")[0] != "digits" else []
    assert main(["train", "--config", name, "--dry-run", "--synthetic", *small]) == 0
    assert capsys.readouterr().out.startswith("dry run on noise: all parts fit; loss of the first steps ")
    assert list(tmp_path.iterdir()) == []


def test_prepares(preparation, tmp_path, capsys):
    if preparation.kind is ImagePersistenceRecipe:
        words = ["prepare", "image-persistence", "--config", preparation.name, *preparation.overrides]
        assert main(words) == 0
        made = SampleArrays.open(tmp_path / "made")
        assert capsys.readouterr().out.startswith(f"{made.path}: 6 persistence images of ")
        assert made.train.any()
        return
    if preparation.kind is AttributionRecipe:
        words = ["prepare", "attributions", "--config", preparation.name, *preparation.overrides]
        assert main(words) == 0
        made = SampleArrays.open(tmp_path / "made")
        assert capsys.readouterr().out.startswith(f"{made.path}: maps of ")
        assert made.train.any()
        return
    path = tmp_path / "made.safetensors"
    if preparation.kind is DistProRecipe:
        assert main(["prepare", "dist-pro", "--config", preparation.name, *preparation.overrides]) == 0
        assert capsys.readouterr().out.startswith(f"{path}: 6 pathways from resnet8 to resnet8, ")
        assert PathwayProcess.load(path).student == "resnet8"
        assert sorted(tmp_path.iterdir()) == [path, tmp_path / "teacher.safetensors"]
        return
    assert main(["prepare", "ripsnet", "--config", preparation.name, *preparation.overrides]) == 0
    said = capsys.readouterr().out
    artefact = RipsNetArtefact.load(path)
    assert said.startswith(f"{path}: RipsNet for resnet8 'pooled', clouds of {artefact.cloud_size} points")
    assert f"R² {artefact.report['r2']:.3f}" in said


def test_resolved_text_says_the_same(case, tmp_path):
    recipe, text = load_recipe(case.name, case.overrides, kind=case.kind)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(text, encoding="utf-8")
    again, same = load_recipe(str(resolved), kind=case.kind)
    assert same == text
    assert again.data == recipe.data
    if case.kind is ImagePersistenceRecipe:
        assert again.persistence == recipe.persistence
        return
    assert again.teacher == recipe.teacher
    if case.kind is AttributionRecipe:
        assert again.attributions == recipe.attributions
        return
    assert "seed" in yaml.safe_load(text) or "seed" in yaml.safe_load(text)["plan"]


@pytest.mark.parametrize("name", ["digits/none", "digits/topkd"])
def test_run_keeps_the_resolved_text(name, tmp_path):
    case = Case.make(name, tmp_path)
    out = tmp_path / "run"
    overrides = [*case.overrides, "--schedule.epochs", "1"]
    assert main(["train", "--config", case.name, "--out", str(out), *overrides]) == 0
    kept = (out / "recipe.yaml").read_text(encoding="utf-8")
    assert load_recipe(str(out / "recipe.yaml"), kind=Recipe)[1] == kept
    assert load_recipe(case.name, overrides, kind=Recipe)[1] == kept
    assert json.loads((out / "record.json").read_text())["recipe"] == yaml.safe_load(kept)
