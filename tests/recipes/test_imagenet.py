"""The recipes for ImageNet with the networks and weights of their pairs, at full size but without numbers."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image

from tests.recipes.made import IMAGENET, Case, noise
from topokd_lib.data import DATA, load_imagenet
from topokd_lib.errors import CheckpointError, UnknownName
from topokd_lib.models import Teacher, count_parameters, create_model
from topokd_lib.models.counting import measure
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.prepare import hold_out
from topokd_lib.recipes import (
    DistProRecipe,
    Recipe,
    RipsNetRecipe,
    TeacherSpec,
    benchmark_pairs,
    default_directory,
    find_recipe,
    load_recipe,
    recipe_names,
    rehearse,
    run_dist_pro_recipe,
)
from topokd_lib.training import Schedule

PAIRS = benchmark_pairs("imagenet")
PREPARATIONS = {"imagenet/ripsnet", "imagenet/dist_pro_search"}
TRAINING = sorted({name for name in recipe_names() if name.startswith("imagenet/")} - PREPARATIONS)
METHODS = [name for name in TRAINING if name != "imagenet/none"]
BATCH = 4


def test_every_method_of_the_tables_has_its_recipe():
    tables = (
        "at",
        "kd",
        "semckd",
        "ofd",
        "crd",
        "cat_kd",
        "rkd",
        "review_kd",
        "dkd",
        "srrl",
        "mgd",
        "dist_pro",
    )
    assert {f"imagenet/{name}" for name in ("none", *tables, "norm", "topkd", "dist")} <= set(TRAINING)


@pytest.mark.parametrize("name", TRAINING)
def test_protocol_is_that_of_the_field(name):
    recipe, _ = load_recipe(name, kind=Recipe)
    protocol = Schedule(epochs=100, lr=0.1, milestones=(30, 60, 90), weight_decay=1e-4)
    assert replace(recipe.schedule, kind="step", milestones=(30, 60, 90)) == protocol
    assert recipe.schedule.kind == ("cosine" if name == "imagenet/norm" else "step")
    assert (recipe.data.name, recipe.data.batch_size) == ("imagenet", 256)
    assert recipe.data.augment == "resized-crop-flip"
    assert recipe.student == "torchvision/resnet18"
    if name != "imagenet/none":
        assert (recipe.teacher.model, str(recipe.teacher.weights)) == (
            "torchvision/resnet34",
            "IMAGENET1K_V1",
        )
        assert recipe.teacher.batch_statistics == (name == "imagenet/ofd")


# ------------------------------------------------------------------------------------------------- the pairs


def on_meta(network):
    """A network without weights in memory, and the shapes of its features at 224×224."""
    shapes = measure(network, (3, 224, 224)).features
    with torch.device("meta"):
        return network(), {name: torch.Size(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module", params=["resnet34-resnet18", "resnet50-mobilenetv1"])
def pair(request):
    """A pair of the tables, with torchvision's names."""
    about = PAIRS[request.param]
    student, shapes = on_meta(lambda: create_model(about.student, num_classes=1000))
    teacher, teacher_shapes = on_meta(lambda: create_model(about.teacher, num_classes=1000))
    with torch.device("meta"):
        frozen = Teacher(teacher)
    return request.param, Pair(student, frozen, shapes, teacher_shapes, torch.arange(2000) % 1000, 256)


def with_neck(pair, recipe):
    def build():
        student = create_model(pair.student.name, num_classes=1000)
        recipe.neck.insert(student, pair.teacher)
        return student

    student, shapes = on_meta(build)
    return replace(pair, student=student, student_shapes=shapes)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"imagenet/topkd"}))
def test_method_fits_the_networks_of_the_tables(name, pair):
    """Built and applied on the meta device, which has shapes and no numbers; TopKD needs a fingerprint."""
    named, networks = pair
    networks = replace(networks, batch_size=BATCH)
    unsearched = ["--terms.dist_pro.objective.init_args.process", "null"] if name.endswith("dist_pro") else []
    recipe, _ = load_recipe(name, ["--pair", named, *unsearched], kind=Recipe)
    assert recipe.student == networks.student.name
    assert (recipe.teacher.model, str(recipe.teacher.weights)) == (networks.teacher.name, "IMAGENET1K_V1")
    with torch.device("meta"):
        if recipe.neck is not None:
            networks = with_neck(networks, recipe)
        objective = recipe.objective(networks).to("meta")
        outputs = [
            ModelOutput(
                torch.zeros(BATCH, 1000), {name: torch.zeros(BATCH, *shapes[name]) for name in wanted}
            )
            for shapes, wanted in (
                (networks.student_shapes, objective.student_features),
                (networks.teacher_shapes, objective.teacher_features),
            )
        ]
        labels = torch.zeros(BATCH, dtype=torch.long)
        if name == "imagenet/crd":  # draws its negatives, which needs numbers
            return
        loss = objective(*outputs, Batch(torch.zeros(BATCH, 3, 224, 224), labels, labels))
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")


def test_pair_of_table_4_changes_networks_weights_and_places():
    pair = ["--pair", "resnet50-mobilenetv1"]
    recipe, text = load_recipe("imagenet/dkd", pair, kind=Recipe)
    assert (recipe.student, recipe.teacher.model) == ("mobilenetv1", "torchvision/resnet50")
    assert yaml.safe_load(text)["terms"]["dkd"]["objective"]["init_args"]["non_target_weight"] == 2
    assert load_recipe("imagenet/review_kd", pair, kind=Recipe)[0].terms["review_kd"].weight == 8
    assert default_directory("imagenet/dkd", recipe, pair[1]).as_posix() == (
        "runs/imagenet/dkd/resnet50-mobilenetv1/seed0"
    )
    for source, kind, term, argument in (
        ("ripsnet", RipsNetRecipe, "topkd", "artefact"),
        ("dist_pro_search", DistProRecipe, "dist_pro", "process"),
    ):
        made, _ = load_recipe(f"imagenet/{source}", pair, kind=kind)
        used = yaml.safe_load(load_recipe(f"imagenet/{term}", pair, kind=Recipe)[1])["terms"]
        assert str(made.artefact) in {
            about["objective"].get("init_args", {}).get(argument) for about in used.values()
        }
        assert made.teacher.model == "torchvision/resnet50"


def test_parameters_are_those_of_the_tables():
    """In millions: 21.8, 11.7, 25.6, 4.2 and 3.5."""
    found = {name: count_parameters(create_model(name, num_classes=1000)) for name in ("mobilenetv1",)}
    for pair in PAIRS.values():
        for name in (pair.teacher, pair.student):
            if name not in found:
                found[name] = count_parameters(
                    on_meta(lambda name=name: create_model(name, num_classes=1000))[0]
                )
    rounded = {name.rpartition("/")[2]: round(count / 1e6, 1) for name, count in found.items()}
    assert rounded == {
        "resnet34": 21.8, "resnet18": 11.7, "resnet50": 25.6, "mobilenetv1": 4.2, "mobilenet_v2": 3.5
    }  # fmt: skip


def test_pairs_and_recipes_of_other_data_are_kept_apart():
    with pytest.raises(UnknownName, match=r"no pair for small images 'resnet34-resnet18'\. Did you mean"):
        load_recipe("cifar100/kd", ["--pair", "resnet34-resnet18"], kind=Recipe)
    with pytest.raises(UnknownName, match="no pair for ImageNet 'vgg13-vgg8'"):
        load_recipe("imagenet/kd", ["--pair", "vgg13-vgg8"], kind=Recipe)
    assert set(PAIRS).isdisjoint(benchmark_pairs())
    assert {weights for pair in PAIRS.values() for weights in (*pair.weights, *pair.hyper)} <= set(
        recipe_names()
    )


# ------------------------------------------------------------------------------------------ published weights


def test_published_weights_teach_with_their_own_normalisation(monkeypatch):
    """Nothing is downloaded: torchvision is asked for the right weights, and gives an untrained network."""
    asked = []
    get_model = torchvision.models.get_model

    def remember(name, *, weights, num_classes):
        asked.append((name, weights))
        return get_model(name, weights=None, num_classes=num_classes)

    monkeypatch.setattr(torchvision.models, "get_model", remember)
    data = noise("cifar100", classes=1000)
    teacher = load_recipe("imagenet/kd", kind=Recipe)[0].teacher.load(data)
    assert asked == [("resnet34", "IMAGENET1K_V1")]
    assert (teacher.name, teacher.num_classes) == ("torchvision/resnet34", 1000)
    own, given = IMAGENET, data.normalisation
    assert teacher.scale.flatten().tolist() == pytest.approx(
        [a / b for a, b in zip(given.std, own.std, strict=True)]
    )


def test_weights_that_cannot_be_had_are_told(monkeypatch):
    spec = load_recipe("imagenet/kd", kind=Recipe)[0].teacher
    with pytest.raises(ValueError, match="are for 1000 classes and 3 channels, asked for 100 classes"):
        spec.load(noise("cifar100", classes=100))
    data = noise("imagenet", classes=1000)
    with pytest.raises(
        UnknownName, match=r"no set of weights for torchvision's resnet34 'IMAGENET1K_V9'\. Did you"
    ):
        TeacherSpec(Path("IMAGENET1K_V9"), model="torchvision/resnet34").load(data)
    with pytest.raises(ValueError, match="only models of torchvision have weights by name"):
        TeacherSpec(Path("IMAGENET1K_V1"), model="mobilenetv1").load(data)

    def no_connection(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", no_connection)
    with pytest.raises(
        CheckpointError, match=r"cannot get weights .*no route to host.*fetch https://.*put it at"
    ):
        spec.load(data)


def test_files_say_where_their_weights_are_from():
    for name in METHODS:
        head = find_recipe(name).read_text("utf-8").partition("data:")[0]
        assert "carried over" in head or "/" in head.partition("--pair resnet50-mobilenetv1")[2], name


# ------------------------------------------------------------------------------------- files as they are kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten classes with forty training and two test photographs each, in ImageNet's layout."""
    root, rng = tmp_path_factory.mktemp("imagenet"), np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 2)):
        for number in range(10):
            place = root / part / f"n{number:08}"
            place.mkdir(parents=True)
            for image in range(count):
                pixels = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 72))
                pixels.save(place / f"{image}.JPEG")
    return root


@pytest.mark.parametrize("name", ["none", "norm", "simkd", "topkd"])  # test_all.py has all of them, on noise
def test_recipe_reads_images_from_disk_and_trains_two_steps(name, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOKD_CACHE", str(tmp_path / "cache"))
    case = Case.make(f"imagenet/{name}", tmp_path)
    monkeypatch.setitem(DATA, "imagenet", load_imagenet)
    where = {"root": str(folder), "image_size": 64, "resize": 72}
    files = [
        "--data.options",
        json.dumps(where),
        "--data.augment",
        "resized-crop-flip",
        "--data.workers",
        "0",
    ]
    recipe, _ = load_recipe(case.name, [*case.overrides, *files], kind=Recipe)
    history = rehearse(recipe)
    assert set(history.last.terms) == set(recipe.terms)
    assert math.isfinite(history.last.loss)


def test_a_search_holds_out_files(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TOPOKD_CACHE", str(tmp_path / "cache"))
    data = load_imagenet(folder, image_size=64, resize=72)
    rest, held_out = hold_out(data, 0.25, seed=0)
    assert (len(rest.train_labels), len(held_out.train_labels)) == (300, 100)
    names = {part.train.where(index) for part in (rest, held_out) for index in range(len(part.train_labels))}
    assert len(names) == 400
    case = Case.make("imagenet/dist_pro_search", tmp_path)
    monkeypatch.setitem(DATA, "imagenet", load_imagenet)
    where = {"root": str(folder), "image_size": 64, "resize": 72}
    files = [
        "--data.options",
        json.dumps(where),
        "--data.augment",
        "resized-crop-flip",
        "--data.workers",
        "0",
    ]
    recipe, _ = load_recipe(case.name, [*case.overrides, *files], kind=DistProRecipe)
    assert len(run_dist_pro_recipe(recipe).scores) == 1 + 3  # 320 images, batches of 16, an update every nine
