"""What an estimate is made of: measured steps, and numbers of the plan that can be counted by hand."""

import time
from pathlib import Path

import pytest

from tests.recipes.made import make_teacher, write_recipe
from topokd_lib.cli import main
from topokd_lib.cli.sweep import duration
from topokd_lib.data import EpochLoader
from topokd_lib.recipes import (
    AttributionRecipe,
    ImagePersistenceRecipe,
    Recipe,
    RipsNetRecipe,
    load_recipe,
)
from topokd_lib.recipes.load import KINDS
from topokd_lib.sweep import RunCost, RunEstimate, Sweep, estimate
from topokd_lib.sweep.measure import MEASURES, measure_ripsnet, measure_training


@pytest.fixture
def slow_loader(monkeypatch):
    """Training batches that take a known time, far more than the computation."""
    train_batches = EpochLoader.train_batches

    def slowly(self, epoch):
        for batch in train_batches(self, epoch):
            time.sleep(0.1)
            yield batch

    monkeypatch.setattr(EpochLoader, "train_batches", slowly)


def test_cost_is_start_early_stages_and_epochs():
    assert RunCost(start=2.0, epoch=3.0, epochs=4, early=5.0).total == 19.0


def test_an_epoch_is_its_steps_times_the_time_of_a_step(slow_loader, tmp_path):
    recipe, _ = load_recipe(write_recipe(tmp_path), kind=Recipe)
    cost = measure_training(recipe, seconds=0.5)
    steps = 1437 // 64  # training digits
    assert cost.epochs == 2
    assert steps * 0.1 <= cost.epoch <= steps * 0.1 * 2.5
    assert cost.measured_steps < steps


def test_initial_stages_are_counted_with_all_their_epochs(slow_loader, tmp_path):
    teacher = make_teacher(tmp_path / "teacher.safetensors")
    hints = "  fitnet: {objective: {class_path: FitNet, init_args: {hint_epochs: 5}}}"
    changes = ("schedule:", f"{hints}\nteacher: {{weights: {teacher}}}\nschedule:")
    recipe, _ = load_recipe(write_recipe(tmp_path, changes), kind=Recipe)
    cost = measure_training(recipe, seconds=0.5)
    assert 5 * (1437 // 64) * 0.1 <= cost.early <= 5 * (1437 // 64) * 0.1 * 2.5


def test_stand_in_data_count_as_many_images_as_the_real_ones(tmp_path):
    options = ["--data.name", "noise", "--data.options", "{size: 8, classes: 10, train: 128, test: 64}"]
    recipe, _ = load_recipe(write_recipe(tmp_path), options, kind=Recipe)
    few = measure_training(recipe, seconds=0.1)
    many = measure_training(recipe, seconds=0.1, images=(128_000, 64))
    assert 100 * few.epoch < many.epoch


def test_ripsnet_grows_with_clouds_and_epochs(tmp_path):
    options = ["--teacher.weights", str(make_teacher(tmp_path / "teacher.safetensors"))]
    options += [
        "--artefact",
        str(tmp_path / "none.safetensors"),
        "--plan.clouds",
        "6400",
        "--plan.epochs",
        "7",
    ]
    recipe, _ = load_recipe("digits/ripsnet", options, kind=RipsNetRecipe)
    cost = measure_ripsnet(recipe, clouds=24, epochs=2)
    assert cost.epochs == 7
    assert cost.early > 0
    assert not (tmp_path / "none.safetensors").exists()


@pytest.fixture
def sweep(tmp_path) -> Path:
    path = tmp_path / "plan.yaml"
    path.write_text("""\
prepare: [digits/teacher, digits/ripsnet]
recipes: [digits/none, digits/topkd]
seeds: 2
""")
    return path


def test_a_sweep_is_estimated_before_anything_of_it_exists(sweep, tmp_path, capsys):
    home = tmp_path / "home"
    found = {one.name: one for one in estimate(Sweep.load(sweep, home), seconds=0.1)}
    assert list(found) == [
        "digits/teacher/resnet20",
        "digits/none/resnet8",
        "artefacts/digits/ripsnet-resnet20-pooled.safetensors",
        "digits/topkd/resnet8",
    ]
    assert [(one.runs, one.left) for one in found.values()] == [(1, 1), (2, 2), (1, 1), (2, 2)]
    assert all(one.cost.total > 0 for one in found.values())
    assert not home.exists()


def test_runs_that_are_done_cost_nothing_more(sweep, tmp_path, capsys):
    record = tmp_path / "home/runs/digits/none/resnet8/seed1/record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    words = ["estimate", str(sweep), "--home", str(tmp_path / "home"), "--seconds", "0.1", "--workers", "2"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[0].split()) == "run per epoch epochs per run runs left together"
    assert "1 of 2" in next(line for line in lines if line.startswith("digits/none"))
    assert lines[-1].startswith("all that is left: ")
    assert lines[-1].endswith("with 2 workers")


def test_every_kind_of_recipe_can_be_measured():
    assert set(MEASURES) == set(KINDS.values())


def test_preparations_are_measured_by_the_image(tmp_path):
    """Twice as many images take twice as long, whatever a few of them take."""
    options = ["--teacher.weights", str(make_teacher(tmp_path / "teacher.safetensors"))]
    options += ["--attributions.steps", "1", "--artefact", str(tmp_path / "maps")]
    maps, _ = load_recipe("digits/igkd_attributions", options, kind=AttributionRecipe)
    scans, _ = load_recipe("digits/tgd_persistence", kind=ImagePersistenceRecipe)
    for recipe in (maps, scans):
        cost = MEASURES[type(recipe)](recipe, seconds=0.1, images=(1_000_000, 0))
        assert cost.epochs == 1
        assert 0 < cost.measured_steps <= 1438
        assert cost.epoch > 10.0
    assert not (tmp_path / "maps").exists()


def test_what_is_left_of_an_interrupted_run_is_counted(tmp_path):
    cost = RunCost(start=2.0, epoch=3.0, epochs=4, early=5.0)
    assert RunEstimate("kd", cost, runs=3, left=2, epochs=(0, 3)).seconds == 19.0 + 5.0


def test_what_cannot_be_measured_is_told_and_hides_nothing(tmp_path, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text("recipes: [digits/none, {recipe: digits/none, name: odd, set: {student: resnet18}}]\n")
    words = ["estimate", str(path), "--home", str(tmp_path / "home"), "--seconds", "0.1"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("digits/none/resnet8 ")
    assert lines[2].startswith("odd/resnet18: cannot be measured: ")
    assert lines[-1].endswith("without what cannot be measured")


def test_nothing_is_left(tmp_path, capsys):
    path = tmp_path / "plan.yaml"
    path.write_text("recipes: [digits/none]\n")
    record = tmp_path / "home/runs/digits/none/resnet8/seed0/record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert main(["estimate", str(path), "--home", str(tmp_path / "home")]) == 0
    assert capsys.readouterr().out == f"all runs are done; `topokd table {path}` shows them\n"


def test_durations_are_said_in_the_unit_one_would_say():
    assert [duration(seconds) for seconds in (0.42, 75.0, 7300.0, 400_000.0)] == [
        "0.4 s",
        "1.2 min",
        "2.0 h",
        "4.6 d",
    ]


def test_mistakes_are_told(sweep, capsys):
    assert main(["estimate", str(sweep), "--seconds", "0"]) == 2
    assert "an estimate needs workers and seconds, got 1 and 0.0" in capsys.readouterr().err
