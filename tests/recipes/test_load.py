"""A recipe is checked before anything runs, and what is wrong with it is said in a line."""

from pathlib import Path

import pytest

from tests.recipes.made import write_recipe
from topokd_lib.errors import RecipeError, UnknownName
from topokd_lib.objectives import CrossEntropy
from topokd_lib.pair import Pair
from topokd_lib.recipes import Recipe, RipsNetRecipe, Term, find_recipe, load_recipe, recipe_title
from topokd_lib.recipes.files import check_recipe_file


def refused(source, *overrides, kind=Recipe, error=RecipeError):
    with pytest.raises(error) as caught:
        load_recipe(source, overrides, kind=kind)
    message = str(caught.value)
    assert "\n" not in message
    assert "jsonargparse" not in message
    assert "topokd_lib." not in message
    return message


WRONG = {
    "unknown field": (("student:", "studnt: x\nstudent:"), "has no field 'studnt'. Did you mean 'student'?"),
    "unknown field of a part": (
        ("epochs: 2", "epoch: 2"),
        "has no field 'schedule.epoch'. Did you mean 'schedule.epochs'?",
    ),
    "type": (("epochs: 2", "epochs: two"), "schedule.epochs must be int, got 'two'."),
    "type with choices": (
        ("epochs: 2", "epochs: 2, kind: cosin"),
        "must be one of 'step', 'cosine', got 'cosin'. Did you mean 'cosine'?",
    ),
    "augmentation": (
        ("size: 8}", "size: 8}, augment: crops"),
        "'resized-crop', 'resized-crop-flip', got 'crops'. Did you mean 'crop'?",
    ),
    "missing field": (
        ("student: resnet8\n", ""),
        "the recipe lacks student; `topokd recipes` lists complete ones",
    ),
    "field of a term": (
        ("{objective", "{wight: 1, objective"),
        "a term has no field 'wight'. Did you mean 'weight'?",
    ),
    "type in a term": (
        ("{objective", "{weight: heavy, objective"),
        "weight of a term must be float, got 'heavy'.",
    ),
    "term without objective": (("objective: CrossEntropy", "weight: 1.0"), "a term lacks objective"),
    "term that is a word": (
        ("{objective: CrossEntropy}", "CrossEntropy"),
        "terms must hold fields of its own, got 'CrossEntropy'",
    ),
    "no terms": (("  ce: {objective: CrossEntropy}", "  [ce]"), """terms must be dict, got "['ce']"."""),
    "hyper-parameter": (
        ("CrossEntropy", "{class_path: CrossEntropy, init_args: {label_smothing: 0.1}}"),
        "objective of a term has no field 'label_smothing'. Did you mean 'label_smoothing'?",
    ),
    "type of a hyper-parameter": (
        ("CrossEntropy", "{class_path: CrossEntropy, init_args: {label_smoothing: lots}}"),
        "objective.label_smoothing of a term must be float, got 'lots'.",
    ),
    "class that is not there": (("CrossEntropy", "mine.Thing"), "No module named 'mine'"),
    "field of the teacher": (
        ("student:", "teacher: {weight: x}\nstudent:"),
        "teacher has no field 'weight'. Did you mean 'weights'?",
    ),
    "teacher that is a word": (
        ("student:", "teacher: x\nstudent:"),
        "teacher must hold fields of its own, got 'x'",
    ),
    "two kinds": (
        ("student:", "engine: {devices: all}\nstudent:"),
        "engine.devices must be int or one of 'auto', got 'all'.",
    ),
    "value out of range": (("epochs: 2", "epochs: 0"), "at least one epoch"),
    "milestones beyond the end": (
        ("epochs: 2, milestones: []", "epochs: 1"),
        "would not decay as written; give none: []",
    ),
    "engine out of range": (("student:", "engine: {devices: 0}\nstudent:"), "at least one device"),
}


@pytest.mark.parametrize("what", WRONG)
def test_message_names_the_field(what, tmp_path):
    change, expected = WRONG[what]
    source = write_recipe(tmp_path, change)
    message = refused(source)
    assert message.startswith(f"recipe {source}: ")
    assert expected in message


def test_unknown_objective_is_answered_with_the_nearest(tmp_path):
    source = write_recipe(tmp_path, ("CrossEntropy", "CrosEntropy"))
    assert refused(source, error=UnknownName).startswith(
        "there is no objective 'CrosEntropy'. Did you mean 'CrossEntropy'? Known: "
    )
    wanted = ["--terms.ce.objective", "TopKKD"]
    assert "Did you mean 'TopKD'?" in refused(write_recipe(tmp_path), *wanted, error=UnknownName)


def test_unknown_recipe_is_answered_with_the_nearest():
    message = refused("digits/topdk", error=UnknownName)
    assert message.startswith("there is no file and no recipe 'digits/topdk'. Did you mean 'digits/topkd'?")
    assert "digits/teacher" in message
    assert message.endswith("Own recipes are given by their path.")


def test_override_that_is_not_there(tmp_path):
    source = write_recipe(tmp_path)
    assert "no option '--schedule.epoch'. Did you mean '--schedule.epochs'?" in refused(
        source, "--schedule.epoch=3"
    )
    assert "there is no option 'more'. See " in refused(source, "more")


def test_recipe_of_the_other_kind():
    assert "has no field 'plan.feature'" in refused("digits/ripsnet")
    assert "has no field 'terms.ce.weight'" in refused("digits/kd", kind=RipsNetRecipe)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"data: [", "cannot be read as YAML: "),
        (b"\xff\xfe\x00", "cannot be read as YAML: "),
        (b"", "must hold a mapping of recipe fields such as data, student and terms"),
        (b"hello", "must hold a mapping of recipe fields such as data, student and terms"),
    ],
)
def test_file_that_is_no_recipe(content, expected, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError) as caught:
        check_recipe_file(path)
    assert str(caught.value).startswith(f"{path} {expected}")
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load_recipe(str(path), kind=Recipe)


def test_overrides_win_over_the_file(tmp_path):
    recipe, text = load_recipe(
        write_recipe(tmp_path),
        [
            "--terms.ce.weight",
            "0.5",
            "--terms.ce.objective.init_args.label_smoothing",
            "0.25",
            "--data.options.size",
            "32",
        ],
        kind=Recipe,
    )
    assert recipe.terms["ce"].weight == 0.5
    assert recipe.data.options == {"size": 32}
    assert "label_smoothing: 0.25" in text
    assert "momentum: 0.9" in text  # defaults are written out


def test_numbers_in_scientific_notation_are_numbers(tmp_path):
    source = write_recipe(tmp_path, ("epochs: 2", "epochs: 2, weight_decay: 5e-4, lr: 1e-1"))
    recipe, _ = load_recipe(source, kind=Recipe)
    assert (recipe.schedule.weight_decay, recipe.schedule.lr) == (5e-4, 0.1)


def test_recipe_is_found_by_name_with_and_without_suffix_and_by_path(tmp_path, monkeypatch):
    assert find_recipe("digits/kd") == find_recipe("digits/kd.yaml")
    assert find_recipe(write_recipe(tmp_path)) == tmp_path / "mine.yaml"
    assert recipe_title(tmp_path / "mine.yaml") == "A recipe of my own"
    monkeypatch.chdir(tmp_path)
    assert find_recipe("mine.yaml") == Path("mine.yaml")


def small_pair():
    from topokd_lib.data import load_digits
    from topokd_lib.models import create_model

    data = load_digits(size=8)
    student = create_model("resnet8", num_classes=10)
    return Pair.measure(
        student, None, image_shape=data.image_shape, train_labels=data.train_labels, batch_size=8
    )


def test_recipe_can_be_written_in_python(tmp_path):
    pair = small_pair()
    loaded, _ = load_recipe(write_recipe(tmp_path), kind=Recipe)
    written = Recipe(loaded.data, "resnet8", {"ce": Term(CrossEntropy, weight=1.0)})
    assert list(written.objective(pair).terms) == list(loaded.objective(pair).terms) == ["ce"]


@pytest.mark.parametrize("name", ["a.b", "keys", "training"])
def test_name_that_a_term_cannot_have(name):
    loaded, _ = load_recipe("digits/none", kind=Recipe)
    recipe = Recipe(loaded.data, "resnet8", {name: Term(CrossEntropy)})
    with pytest.raises(ValueError, match=f"a term cannot be called '{name}'.*rename it"):
        recipe.objective(small_pair())


def test_error_of_a_term_names_the_term(tmp_path):
    recipe, _ = load_recipe(
        write_recipe(tmp_path), ["--terms.ce.objective.init_args.label_smoothing", "2.0"], kind=Recipe
    )
    with pytest.raises(ValueError, match=r"^term 'ce': label_smoothing is a probability below 1, got 2\.0"):
        recipe.objective(small_pair())
