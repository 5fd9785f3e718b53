"""What the log tells beside the losses, and the weight at which terms pull alike."""

import json

import pytest
import torch

from tests.recipes.made import make_teacher
from topokd_lib.cli import main
from topokd_lib.errors import FeatureNotFound, RecipeError, UnknownName
from topokd_lib.recipes import Recipe, assemble, calibrate, load_recipe
from topokd_lib.training import term_gradients

TEXT = """\
# Three terms on the digits
data: {name: digits, options: {size: 8}, batch_size: 64}
teacher: {weights: TEACHER}
student: resnet8
terms:
  ce: {objective: CrossEntropy}
  kd: {weight: 2.0, objective: KD}
  topology: {weight: 3.0, objective: {class_path: TopKD, init_args: {image: exact, normalise: NORMALISE}}}
schedule: {epochs: 2, milestones: []}
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return make_teacher(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture
def write(tmp_path, teacher):
    def made(normalise="mean"):
        path = tmp_path / "mine.yaml"
        text = TEXT.replace("TEACHER", str(teacher)).replace("NORMALISE", normalise)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return made


def test_pull_and_shape_are_in_the_log_of_every_epoch(write, tmp_path):
    out = tmp_path / "run"
    more = [
        "--diagnostics.gradients_every",
        "5",
        "--diagnostics.reference",
        "kd",
        "--diagnostics.shape",
        "true",
    ]
    assert main(["train", "--config", write(), "--out", str(out), *more]) == 0
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        found = line["diagnostics"]
        assert {f"share/{term}" for term in ("ce", "kd", "topology")} <= set(found)
        assert found["share/kd"] == pytest.approx(1)
        assert {
            f"shape/{name}" for name in ("distances", "neighbours", "tree", "deaths", "raw_deaths")
        } <= set(found)
        assert found["health/topology/0/warnings"] >= 1  # a flat axis
        assert 0 <= found["health/topology/0/student_coverage"] <= 1
    assert json.loads((out / "record.json").read_text())["curve"][-1]["diagnostics"] == found


def test_a_student_that_left_the_window_is_reported_in_training(write, tmp_path, caplog):
    """With raw scale an untrained student is far from an untrained, other teacher; said once."""
    out = tmp_path / "run"
    more = ["--diagnostics.shape", "true", "--schedule.lr", "1e-9", "--schedule.epochs", "3"]
    conventions = "[{birth_range: [0, 0], persistence_range: [50, 60], bandwidth: 0.1}]"
    more += ["--terms.topology.objective.init_args.conventions", conventions]
    assert main(["train", "--config", write("none"), "--out", str(out), *more]) == 0
    said = [record.getMessage() for record in caplog.records if "outside the image" in record.getMessage()]
    assert len(said) == 2  # of the student and of the teacher, once each in three epochs
    assert said[0].startswith("term 'topology': 100% of the student's bars are outside the image")


def test_nothing_is_measured_by_default(write, tmp_path):
    out = tmp_path / "run"
    assert main(["train", "--config", write(), "--out", str(out), "--schedule.epochs", "1"]) == 0
    assert json.loads((out / "record.json").read_text())["curve"][0]["diagnostics"] == {}


def test_shapes_need_a_teacher(tmp_path):
    recipe, _ = load_recipe("digits/none", ["--diagnostics.shape", "true"], kind=Recipe)
    with pytest.raises(RecipeError, match=r"diagnostics\.shape compares the student with a teacher"):
        assemble(recipe)
    teacher = make_teacher(tmp_path / "teacher.safetensors")
    big = ["--diagnostics.shape", "true", "--data.batch_size", "1000", "--teacher.weights", str(teacher)]
    recipe, _ = load_recipe("digits/kd", big, kind=Recipe)
    with pytest.raises(RecipeError, match=r"clouds of 1000 test images, and there are \d+"):
        assemble(recipe)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_calibrated_weight_has_the_share_that_was_asked_for(write, share):
    recipe, _ = load_recipe(write(), kind=Recipe)
    found = calibrate(recipe, "topology", share=share, epochs=0, batches=4)
    parts = assemble(recipe)
    parts.student.train()
    norms = {"topology": 0.0, "kd": 0.0}
    for batch, _ in zip(parts.loader.train_batches(0), range(4), strict=False):
        out = parts.student.extract(batch.images, ["pooled"])
        taught = parts.teacher(batch, ["pooled"])
        losses = {name: parts.objective.terms[name](out, taught, batch) for name in norms}
        for name, gradient in term_gradients(losses, out.features["pooled"]).items():
            norms[name] += gradient.norm().item() / 4
    assert found.norms == pytest.approx(norms, rel=1e-4)
    assert found.weight * norms["topology"] == pytest.approx(share * 2.0 * norms["kd"], rel=1e-4)
    assert (found.batches, abs(found.cosine) <= 1) == (4, True)


def test_an_epoch_without_the_term_comes_first(write):
    recipe, _ = load_recipe(write(), kind=Recipe)
    torch.manual_seed(3)
    first = calibrate(recipe, "topology", batches=4)
    assert first == calibrate(recipe, "topology", batches=4)
    assert first.weight != calibrate(recipe, "topology", epochs=0, batches=4).weight
    recipe.terms["topology"].weight = 1000.0
    assert calibrate(recipe, "topology", batches=4).weight == first.weight


def test_the_command(write, capsys):
    words = ["calibrate", "--config", write(), "--term", "topology", "--share", "0.5", "--batches", "3"]
    assert main([*words, "--epochs", "0"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("weight ")
    assert "its gradient is then 0.5 times as long as that of 'kd' with its weight" in said
    assert "over 3 minibatches" in said


def test_what_cannot_be_calibrated(write):
    recipe, _ = load_recipe(write(), kind=Recipe)
    with pytest.raises(UnknownName, match=r"there is no term 'topolgy'\. Did you mean 'topology'"):
        calibrate(recipe, "topolgy")
    with pytest.raises(RecipeError, match="two different terms, a positive share"):
        calibrate(recipe, "kd")
    with pytest.raises(RecipeError, match=r"got 'topology' and 'kd', share=0\.0"):
        calibrate(recipe, "topology", share=0.0)
    with pytest.raises(FeatureNotFound, match="no feature 'poled'"):
        calibrate(recipe, "topology", feature="poled")
    recipe.terms["kd"].weight = 0.0
    with pytest.raises(RecipeError, match="the reference 'kd' has weight 0 in this recipe"):
        calibrate(recipe, "topology")
