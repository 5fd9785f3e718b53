"""The benchmark as it was run: its weights, its schedule, and each of its pairs with every method."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml

from tests.recipes.made import noise
from topokd_lib.cli import main
from topokd_lib.data import EpochLoader
from topokd_lib.errors import RecipeError, UnknownName
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import PathwayProcess, pathways
from topokd_lib.objectives.connectors import common_stages
from topokd_lib.pair import Pair
from topokd_lib.recipes import (
    DistProRecipe,
    Recipe,
    RipsNetRecipe,
    assemble,
    benchmark_pairs,
    default_directory,
    find_recipe,
    load_recipe,
    recipe_names,
)
from topokd_lib.recipes.pairs import pair_options
from topokd_lib.testing import toy_ripsnet
from topokd_lib.training import Schedule, save_student

PREPARATIONS = {"cifar100/ripsnet", "cifar100/dist_pro_search"}
TRAINING = sorted(
    name
    for name in recipe_names()
    if name.startswith("cifar100/") and "gkd_wrn" not in name and name not in PREPARATIONS
)
CONTROLS = {f"cifar100/topkd_{name}" for name in ("constant", "exact", "off")}
"""The same objective as topkd and topkd_scaled with other options; tests/recipes/test_all.py trains them."""
METHODS = sorted(set(TRAINING) - CONTROLS - {"cifar100/teacher", "cifar100/none"})

WEIGHTS = {
    "kd": {"ce": 0.1, "kd": 0.9},
    "fitnet": {"ce": 1, "fitnet": 100},
    "at": {"ce": 1, "at": 1000},
    "vid": {"ce": 1, "vid": 1},
    "ofd": {"ce": 1, "ofd": 1},
    "cc": {"ce": 1, "cc": 0.02},
    "sp": {"ce": 1, "sp": 3000},
    "fsp": {"ce": 1, "fsp": 50},
    "rkd": {"ce": 1, "rkd": 1},
    "pkt": {"ce": 1, "pkt": 30000},
    "nst": {"ce": 1, "nst": 50},
    "crd": {"ce": 1, "crd": 0.8},
    "crcd": {"ce": 1, "kd": 0.9, "crcd": 1},
    "topkd": {"ce": 1, "kd": 2, "topology": 5},
}
"""The benchmark's -r, -a and -b, written down a second time."""


def test_every_method_of_the_classic_shelf_has_its_recipe():
    assert {f"cifar100/{name}" for name in ("teacher", "none", *WEIGHTS)} <= set(TRAINING)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_those_of_the_benchmark(name):
    recipe, _ = load_recipe(f"cifar100/{name}", kind=Recipe)
    assert {term: about.weight for term, about in recipe.terms.items()} == WEIGHTS[name]


@pytest.mark.parametrize("name", TRAINING)
def test_protocol_is_that_of_the_benchmark(name):
    recipe, _ = load_recipe(name, kind=Recipe)
    assert recipe.schedule == Schedule(
        epochs=240, lr=0.05, momentum=0.9, nesterov=False, weight_decay=5e-4, milestones=(150, 180, 210)
    )
    assert (recipe.data.name, recipe.data.batch_size, recipe.data.augment) == ("cifar100", 64, "crop-flip")
    assert recipe.student == ("resnet56" if name == "cifar100/teacher" else "resnet20")
    if recipe.teacher:
        assert recipe.teacher.weights == default_directory(
            "cifar100/teacher", load_recipe("cifar100/teacher", kind=Recipe)[0]
        )
        assert recipe.teacher.batch_statistics == (name == "cifar100/ofd")
    assert len(find_recipe(name).read_text("utf-8").splitlines()) <= 20


def test_hyper_parameters_of_a_pair_are_used():
    """Two of those that its authors publish, and a pair for which there is none."""
    for pair, weight, normalise, resolution, others in (
        ("resnet32x4-shufflenetv2", 600, True, 4, 8),
        ("vgg13-vgg8", 4.5, False, 2, 6),
        ("resnet110-resnet20", 0.7, False, 2, 2),
    ):
        recipe, text = load_recipe("cifar100/cat_kd", ["--pair", pair], kind=Recipe)
        assert recipe.terms["cat_kd"].weight == weight
        about = yaml.safe_load(text)["terms"]["cat_kd"]["objective"]["init_args"]
        assert (about["normalise"], about["resolution"]) == (normalise, resolution)
        text = load_recipe("cifar100/dkd", ["--pair", pair], kind=Recipe)[1]
        assert yaml.safe_load(text)["terms"]["dkd"]["objective"]["init_args"]["non_target_weight"] == others


def test_pathway_weights_are_searched_where_dist_pro_looks_for_them():
    for pair in (["--pair", "wrn_40_2-shufflenetv1"], []):
        made, _ = load_recipe("cifar100/dist_pro_search", pair, kind=DistProRecipe)
        used, text = load_recipe("cifar100/dist_pro", pair, kind=Recipe)
        about = yaml.safe_load(text)["terms"]["dist_pro"]["objective"]["init_args"]
        assert about["process"] == str(made.artefact)
        assert (made.student, made.teacher) == (used.student, used.teacher)


def test_ripsnet_is_made_where_topkd_looks_for_it():
    made, _ = load_recipe("cifar100/ripsnet", kind=RipsNetRecipe)
    used = yaml.safe_load(find_recipe("cifar100/topkd").read_text("utf-8"))["terms"]["topology"]["objective"]
    assert used["init_args"]["artefact"] == str(made.artefact)


@pytest.fixture
def taught(tmp_path):
    """Untrained weights of the default teacher, which is all that a recipe asks for."""
    path = tmp_path / "resnet56.safetensors"
    save_student(path, create_model("resnet56", num_classes=100))
    return path


ALONE = {"cifar100/teacher", "cifar100/none"}
PREPARED = {name for name in TRAINING if "artefacts/" in find_recipe(name).read_text(encoding="utf-8")}


@pytest.mark.parametrize("name", sorted(set(TRAINING) - PREPARED))
def test_default_pair_is_assembled(name, taught):
    options = [] if name in ALONE else ["--teacher.weights", str(taught)]
    recipe, _ = load_recipe(name, options, kind=Recipe)
    parts = assemble(recipe)
    assert parts.student.name == recipe.student
    assert (parts.teacher is not None) == (name not in ALONE)
    assert set(parts.objective.weights) == set(recipe.terms)


# ------------------------------------------------------------------------------------------------- the pairs


def test_there_are_the_thirteen_pairs_of_the_tables():
    pairs = benchmark_pairs()
    assert len(pairs) == 13
    assert {pair.teacher for pair in pairs.values()} == {
        "wrn_40_2", "resnet56", "resnet110", "resnet32x4", "vgg13", "resnet50",
    }  # fmt: skip
    slow = {pair.student for pair in pairs.values() if pair.lr is not None}
    assert slow == {"mobilenetv2_half", "shufflenetv1", "shufflenetv2"}
    assert all(pair.lr == 0.01 for pair in pairs.values() if pair.student in slow)
    for name, pair in pairs.items():
        assert f"{pair.teacher}-{pair.student}" == name
        assert set(pair.weights) | set(pair.impossible) <= set(recipe_names())


def test_pair_changes_student_rate_teacher_and_weights_and_nothing_else():
    pair = ["--pair", "wrn_40_2-shufflenetv1"]
    recipe, text = load_recipe("cifar100/topkd", pair, kind=Recipe)
    assert recipe.student == "shufflenetv1"
    assert recipe.teacher.weights == Path("runs/cifar100/teacher/wrn_40_2/seed0")
    assert recipe.schedule == Schedule(lr=0.01)
    assert {term: about.weight for term, about in recipe.terms.items()} == {"ce": 1, "kd": 4, "topology": 5}
    assert "artefact: artefacts/cifar100/ripsnet-wrn_40_2-pooled.safetensors" in text
    assert "pair" not in text
    made, _ = load_recipe("cifar100/ripsnet", pair, kind=RipsNetRecipe)
    assert made.artefact == Path("artefacts/cifar100/ripsnet-wrn_40_2-pooled.safetensors")
    assert made.teacher == recipe.teacher
    alone, _ = load_recipe("cifar100/none", pair, kind=Recipe)
    assert (alone.student, alone.schedule.lr, alone.teacher) == ("shufflenetv1", 0.01, None)


@pytest.mark.parametrize("name", benchmark_pairs())
def test_teacher_of_a_pair_is_trained_where_the_pair_looks_for_it(name):
    first, _ = load_recipe("cifar100/teacher", ["--pair", name], kind=Recipe)
    then, _ = load_recipe("cifar100/kd", [f"--pair={name}"], kind=Recipe)
    assert first.schedule.lr == 0.05
    assert default_directory("cifar100/teacher", first, name) == then.teacher.weights
    assert default_directory("cifar100/kd", then, name) == Path("runs/cifar100/kd", name, "seed0")


@pytest.mark.parametrize("before", [True, False])
def test_every_other_option_has_the_last_word(before):
    pair = ["--pair", "vgg13-mobilenetv2_half"]
    mine = ["--teacher.weights", "mine.safetensors", "--schedule.lr", "0.02", "--student", "vgg8"]
    recipe, _ = load_recipe("cifar100/kd", [*pair, *mine] if before else [*mine, *pair], kind=Recipe)
    assert recipe.teacher.weights == Path("mine.safetensors")
    assert (recipe.student, recipe.schedule.lr) == ("vgg8", 0.02)


def test_pair_adapts_a_recipe_of_ones_own(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(find_recipe("cifar100/topkd").read_text("utf-8").replace("2.0", "3.0"), "utf-8")
    recipe, _ = load_recipe(str(mine), ["--pair", "wrn_40_2-shufflenetv1"], kind=Recipe)
    assert recipe.teacher.weights == Path("runs/cifar100/teacher/wrn_40_2/seed0")
    assert recipe.terms["kd"].weight == 3  # the weights of a pair are for the library's recipe


def test_mistakes_are_told(capsys):
    with pytest.raises(RecipeError) as caught:
        load_recipe("cifar100/fsp", ["--pair", "vgg13-mobilenetv2_half"], kind=Recipe)
    assert "recipe cifar100/fsp does not fit the pair vgg13-mobilenetv2_half: FSP compares" in str(
        caught.value
    )
    with pytest.raises(UnknownName, match=r"no pair 'vgg13-vgg9'\. Did you mean 'vgg13-vgg8'\? Known: resn"):
        load_recipe("cifar100/kd", ["--pair", "vgg13-vgg9"], kind=Recipe)
    assert main(["train", "--pair", "vgg13-vgg8"]) == 2
    assert capsys.readouterr().err == "topokd: --pair changes a recipe; name one with --config\n"
    assert main(["train", "--config", "cifar100/kd", "--pair"]) == 2
    assert capsys.readouterr().err == "topokd: argument --pair: expected one argument\n"


def test_command_lists_pairs_and_puts_a_run_where_its_pair_says(tmp_path, monkeypatch, capsys):
    main(["recipes"])
    assert "\npairs:      " + ", ".join(benchmark_pairs(None)) + "\n" in capsys.readouterr().out
    record = {"last": {"top1": 0.5, "epoch": 1}, "best": {"top1": 0.5, "epoch": 1}, "wall_time_seconds": 1}
    monkeypatch.setattr("topokd_lib.cli.train.run_recipe", lambda *args, **kwargs: record)
    for name, where in (("kd", "resnet56-resnet20"), ("none", "resnet20"), ("teacher", "resnet56")):
        assert main(["train", "--config", f"cifar100/{name}", "--pair", "resnet56-resnet20"]) == 0
        assert capsys.readouterr().out.startswith(f"runs/cifar100/{name}/{where}/seed0: test accuracy 50.00%")


# ------------------------------------------------------------------------------- every method with every pair


@pytest.fixture(scope="module", params=benchmark_pairs())
def met(request):
    """The networks of a pair, and what they say about a batch."""
    torch.manual_seed(0)
    about, data = benchmark_pairs()[request.param], noise("cifar100", classes=100)
    student = create_model(about.student, num_classes=100)
    teacher = Teacher(create_model(about.teacher, num_classes=100))
    pair = Pair.measure(
        student, teacher, image_shape=data.image_shape, train_labels=data.train_labels, batch_size=4
    )
    batch = next(EpochLoader(data, batch_size=4).train_batches(0))
    taught = teacher(batch, teacher.feature_names)
    return request.param, pair, batch, taught


def process_for(pair, path):
    """What a search for this pair might have found."""
    stages = common_stages(pair, ".preact")
    scores = torch.ones(2, len(pathways(len(stages))))
    PathwayProcess(scores, pair.student.name, pair.teacher.name, stages, stages).save(path)
    return path


def with_neck(pair, neck):
    """The same pair, but the student has a neck."""
    student = deepcopy(pair.student)
    neck.insert(student, pair.teacher)
    labels = pair.train_labels
    return Pair.measure(student, pair.teacher, image_shape=(3, 32, 32), train_labels=labels, batch_size=4)


@pytest.mark.parametrize("method", METHODS)
def test_method_fits_pair_and_teaches(method, met, tmp_path):
    name, pair, batch, taught = met
    if method in benchmark_pairs()[name].impossible:
        with pytest.raises(RecipeError, match="does not fit the pair"):
            pair_options(name, method)
        with pytest.raises(ValueError, match="channels"):
            load_recipe(method, kind=Recipe)[0].objective(pair)
        return
    if method == "cifar100/semckd" and pair.teacher.name == "resnet50":
        pytest.skip("up to 858 million regressor weights; test_semckd.py runs this pair without memory")
    options = ["--pair", name]
    if method == "cifar100/dist_pro":
        path = str(process_for(pair, tmp_path / "process.safetensors"))
        options += ["--terms.dist_pro.objective.init_args.process", path]
    if method == "cifar100/topkd":
        toy_ripsnet(pair).save(tmp_path / "ripsnet.safetensors")
        path = str(tmp_path / "ripsnet.safetensors")
        options += ["--terms.topology.objective.init_args.artefact", path]
    recipe, _ = load_recipe(method, options, kind=Recipe)
    if recipe.neck is not None:
        pair = with_neck(pair, recipe.neck)
    objective = recipe.objective(pair)
    seen = pair.student.train().extract(batch.images, objective.student_features)
    loss = objective(seen, taught, batch)
    for stage in objective.init_stages(pair.student):
        loss = loss + stage.loss(seen, taught, batch)
    assert math.isfinite(loss.item())
    loss.backward()
    gradients = [p.grad for p in pair.student.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    pair.student.zero_grad()


def test_a_pair_names_the_maps_of_its_teacher_and_leaves_alone_what_is_made_of_images():
    assert pair_options("resnet110-resnet20", "digits/igkd_attributions") == [
        "--teacher.weights", "runs/digits/teacher/resnet110/seed0",
        "--artefact", "artefacts/digits/attributions-resnet110",
    ]  # fmt: skip
    words = pair_options("resnet110-resnet20", "digits/igkd")
    assert words[words.index("--data.overlay.artefact") + 1] == "artefacts/digits/attributions-resnet110"
    assert pair_options("resnet110-resnet20", "digits/tgd_persistence") == []
