"""A file of a few lines becomes the right runs, or a sentence that says what is wrong with it."""

from pathlib import Path

import pytest
import yaml

from topokd_lib.errors import RecipeError, UnknownName
from topokd_lib.recipes import Recipe, load_recipe
from topokd_lib.sweep import Sweep

PAIRS = """\
prepare: [cifar100/teacher, cifar100/ripsnet]
recipes: [cifar100/none, cifar100/kd, cifar100/fsp, cifar100/topkd]
pairs: [resnet56-resnet20, resnet110-resnet20, wrn_40_2-wrn_40_1]
seeds: 2
set: {schedule.epochs: 60, schedule.milestones: [30, 45]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "plan.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return Sweep.load(write(tmp_path_factory.mktemp("pairs"), PAIRS))


def test_recipes_times_pairs_times_seeds(pairs):
    names = [run.name for run in pairs.runs]
    assert len(set(names)) == len(names)
    # teachers of 3 pairs; the RipsNets of each; 2 students alone; KD and TopKD; FSP, which fits 2 pairs
    assert len(names) == 3 + 3 + 2 * 2 + 2 * 3 * 2 + 2 * 2 + 1
    kd = next(run for run in pairs.runs if run.name == "cifar100/kd/resnet110-resnet20/seed1")
    assert kd.line == (
        "topokd train --config cifar100/kd --pair resnet110-resnet20 --schedule.epochs 60 "
        "--schedule.milestones '[30, 45]' --seed 1 --out runs/cifar100/kd/resnet110-resnet20/seed1"
    )
    recipe, _ = load_recipe("cifar100/kd", kd.words[2:-2], kind=Recipe)
    assert (recipe.schedule.epochs, recipe.schedule.milestones, recipe.seed) == (60, (30, 45), 1)
    assert recipe.student == "resnet20"


def test_a_student_alone_is_trained_once_and_counts_in_all_its_columns(pairs):
    alone = [run for run in pairs.runs if run.method == "cifar100/none" and run.seed == 0]
    assert {run.output.parts[-2]: run.columns for run in alone} == {
        "resnet20": ("resnet56-resnet20", "resnet110-resnet20"),
        "wrn_40_1": ("wrn_40_2-wrn_40_1",),
    }


def test_what_is_needed_comes_first_and_is_named(pairs):
    place = {run.name: number for number, run in enumerate(pairs.runs)}
    for run in pairs.runs:
        assert all(place[name] < place[run.name] for name in run.needs)
    topkd = next(run for run in pairs.runs if run.name == "cifar100/topkd/resnet56-resnet20/seed0")
    assert topkd.needs == (
        "artefacts/cifar100/ripsnet-resnet56-pooled.safetensors",
        "cifar100/teacher/resnet56/seed0",
    )


def test_teachers_are_trained_as_their_recipe_says(pairs):
    teacher = next(run for run in pairs.runs if run.name == "cifar100/teacher/resnet56/seed0")
    assert yaml.safe_load(teacher.text)["schedule"]["epochs"] == 240
    assert teacher.columns == ()


def test_what_does_not_fit_is_kept_with_its_reason(pairs):
    (refused,) = [run for run in pairs.runs if run.impossible]
    assert (refused.method, refused.columns) == ("cifar100/fsp", ("wrn_40_2-wrn_40_1",))
    assert refused.impossible == "FSP compares maps of equal width"


def test_entries_have_names_seeds_and_changes_of_their_own(tmp_path):
    sweep = Sweep.load(write(tmp_path, """\
recipes:
  - digits/kd
  - {recipe: digits/kd, name: hot, set: {terms.kd.objective.init_args.temperature: 8}, seeds: [3, 5]}
baseline: hot
home: elsewhere
"""))  # fmt: skip
    assert [run.name for run in sweep.runs] == [
        "digits/kd/resnet8/seed0", "hot/resnet8/seed3", "hot/resnet8/seed5"
    ]  # fmt: skip
    assert "temperature: 8.0" in sweep.runs[1].text
    assert (sweep.baseline, sweep.home, sweep.methods) == ("hot", Path("elsewhere"), ("digits/kd", "hot"))
    assert Sweep.load(sweep.path, tmp_path).home == tmp_path


def test_own_recipes_are_found_beside_the_sweep(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(
        "data: {name: digits}\nstudent: resnet8\nterms: {ce: {objective: CrossEntropy}}"
    )
    path = write(tmp_path, "recipes: [mine.yaml]")
    monkeypatch.chdir("/")
    (run,) = Sweep.load(path).runs
    assert run.words[:2] == ("--config", str(tmp_path / "mine.yaml"))
    assert run.name == "mine/resnet8/seed0"


MISTAKES = {
    "recipes: [": "cannot be read as YAML",
    "seeds: 3": "is no sweep: it must hold a mapping with a list of recipes",
    "recipe: [digits/kd]\nrecipes: [digits/kd]": "no field 'recipe'. Did you mean 'recipes'?",
    "recipes: digits/kd": "recipes must be a list of recipes, got 'digits/kd'",
    "recipes: [{seed: 1}]": "mappings with the field 'recipe'; got {'seed': 1}",
    "recipes: [{recipe: digits/kd, seed: 1}]": "entry of recipes has no field 'seed'. Did you mean 'seeds'?",
    "recipes: [digits/kd]\nseeds: many": "seeds must be a list of numbers, or how many; got 'many'",
    "recipes: [digits/kd]\nseeds: 0": "seeds must be a list of numbers, or how many; got 0",
    "recipes: [digits/kd]\nset: [1]": "set must map dotted fields to values, got [1]",
    "recipes: [digits/kd]\npairs: vgg": "pairs must be a list of names, got 'vgg'",
    "recipes: [digits/kd]\nbaseline: kd": "'kd' is none of its methods",
    "recipes: [digits/kd]\nset: {schedule.epoch: 2}": "Did you mean '--schedule.epochs'?",
    "recipes: [digits/kd, {recipe: digits/none, name: digits/kd}]": (
        "two different runs would be written to runs/digits/kd/resnet8/seed0; give one of the entries a name"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told(tmp_path, text):
    with pytest.raises(RecipeError) as caught:
        Sweep.load(write(tmp_path, text))
    assert MISTAKES[text] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("recipes: [digits/dk]", "digits/kd"), ("recipes: [cifar100/kd]\npairs: [vgg13-vgg9]", "vgg13-vgg8")],
)
def test_names_that_are_not_there_are_answered_with_the_nearest(tmp_path, text, nearest):
    with pytest.raises(UnknownName, match=f"Did you mean '{nearest}'"):
        Sweep.load(write(tmp_path, text))


def test_a_sweep_that_is_not_there(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        Sweep.load(tmp_path / "none.yaml")
