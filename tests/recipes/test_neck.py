"""Runs whose student has a neck: what is kept, evaluated, resumed, and used as a teacher."""

import pytest
import torch

from tests.recipes.made import make_teacher
from topokd_lib.cli import main
from topokd_lib.data import load_data
from topokd_lib.models import create_model
from topokd_lib.recipes import NeckSpec, Recipe, TeacherSpec, assemble, evaluate_run, load_recipe, run_recipe
from topokd_lib.training import fit, load_student, make_fabric
from topokd_lib.training.run import RunDirectory

RECIPE = """\
# A recipe of my own
data: {{name: digits, options: {{size: 8}}, batch_size: 64}}
teacher: {{weights: {teacher}}}
student: resnet8
neck: {{kind: {kind}, parts: 2}}
terms:
  ce: {{weight: {ce}, objective: CrossEntropy}}
  method: {{weight: 1.0, objective: {method}}}
schedule: {{epochs: 2, lr: 0.05, kind: cosine}}
"""


def write(tmp_path, method, kind, ce=1.0):
    torch.manual_seed(1)
    weights = tmp_path / "teacher.safetensors"
    make_teacher(weights)
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.format(teacher=weights, kind=kind, method=method, ce=ce), encoding="utf-8")
    return load_recipe(str(path), kind=Recipe)


def test_student_of_norm_is_an_ordinary_network_when_it_is_finished(tmp_path):
    recipe, text = write(tmp_path, "NORM", "n-to-one")
    record = run_recipe(recipe, text, tmp_path / "run", progress=False)
    for weights in ("student", "best"):
        model, about = load_student(tmp_path / "run" / f"{weights}.safetensors")
        assert (about.model, about.neck, model.neck) == ("resnet8", None, None)
        assert list(model.state_dict()) == list(create_model("resnet8", num_classes=10).state_dict())
    size = sum(p.numel() for p in create_model("resnet8", num_classes=10).parameters())
    assert record["student"] == {"name": "resnet8", "parameters": size}
    found = evaluate_run(tmp_path / "run")
    assert found.top1 == pytest.approx(record["last"]["top1"], abs=1 / found.count)
    assert found.loss == pytest.approx(record["last"]["loss"], rel=1e-4)
    assert record["curve"][-1]["terms"]["method"] < record["curve"][0]["terms"]["method"]


def test_student_of_simkd_keeps_its_neck_and_can_teach(tmp_path):
    recipe, text = write(tmp_path, "SimKD", "teacher-classifier", ce=0.0)
    record = run_recipe(recipe, text, tmp_path / "run", progress=False)
    model, about = load_student(tmp_path / "run" / "student.safetensors")
    teacher, _ = load_student(tmp_path / "teacher.safetensors")
    assert about.neck == (64, 64)
    assert torch.equal(model.last_layer.weight, teacher.last_layer.weight)
    assert record["student"]["parameters"] == sum(p.numel() for p in model.parameters())
    found = evaluate_run(tmp_path / "run")
    assert (found.top1, found.loss) == (record["last"]["top1"], pytest.approx(record["last"]["loss"]))
    data = load_data("digits", size=8)
    assert "last_map" in TeacherSpec(tmp_path / "run").load(data).feature_names


@pytest.mark.parametrize(("method", "kind"), [("NORM", "n-to-one"), ("SimKD", "teacher-classifier")])
def test_a_finished_run_is_loaded_and_an_interrupted_one_goes_on(method, kind, tmp_path):
    """To the last bit, although the checkpoint has the neck and the finished file may not."""
    recipe, text = write(tmp_path, method, kind)
    run_recipe(recipe, text, tmp_path / "whole", progress=False)
    run_recipe(recipe, text, tmp_path / "again", progress=False)
    for name in ("record.json", "student.safetensors", "last.ckpt"):
        (tmp_path / "again" / name).unlink()
    assert (tmp_path / "again" / "previous.ckpt").exists()
    run_recipe(recipe, text, tmp_path / "again", progress=False)
    weights = [
        load_student(tmp_path / name / "student.safetensors")[0].state_dict() for name in ("whole", "again")
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    parts = assemble(recipe)
    run = RunDirectory.open(
        tmp_path / "whole", recipe=text, seed=recipe.seed, data=parts.data, teacher=parts.teacher
    )
    fit(
        make_fabric(), parts.student, parts.teacher, parts.objective, parts.loader, recipe.schedule, run,
        progress=False,
    )  # fmt: skip
    assert all(torch.equal(value, weights[0][key]) for key, value in parts.student.state_dict().items())


def test_mistakes_are_told(tmp_path, capsys):
    write(tmp_path, "NORM", "n-to-one")
    mine = ["train", "--dry-run", "--config", str(tmp_path / "mine.yaml")]
    assert main([*mine, "--neck.kind", "wide"]) == 2
    assert "neck.kind must be one of 'n-to-one', 'teacher-classifier', got 'wide'" in capsys.readouterr().err
    assert main([*mine, "--neck.parts", "0"]) == 2
    assert capsys.readouterr().err == "topokd: an n-to-one neck needs at least one part, got parts=0\n"
    assert main([*mine, "--neck", "null"]) == 2
    assert "term 'method': NORM reads the widened map of a neck" in capsys.readouterr().err
    assert main([*mine, "--teacher", "null"]) == 2
    assert "a neck of kind 'n-to-one' is made for a teacher, and this run has none" in capsys.readouterr().err


def test_a_borrowed_classifier_needs_the_same_classes(tmp_path):
    teacher = TeacherSpec(make_teacher(tmp_path / "teacher.safetensors")).load(load_data("digits", size=8))
    student = create_model("resnet8", num_classes=7)
    with pytest.raises(ValueError, match="student resnet8 has 7 classes, teacher resnet8 has 10"):
        NeckSpec("teacher-classifier").insert(student, teacher)
