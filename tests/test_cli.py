"""The command as a user meets it: real files, real mistakes, and nothing that was there is ever lost."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import topokd_lib
from tests.recipes.made import make_ripsnet, make_teacher, write_recipe
from topokd_lib.cli import Stages, main
from topokd_lib.models import MODELS
from topokd_lib.objectives import objective_names
from topokd_lib.recipes import DataSpec, recipe_names

COMMAND = [sys.executable, "-c", "import sys; from topokd_lib.cli import main; sys.exit(main())"]


@pytest.fixture
def topokd(capsys):
    """Run the command; gives its status, what it said, and what it complained of."""

    def run(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as stop:  # argparse's way to end after --help
            status = stop.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def refuses(topokd):
    """Run a command that must fail; gives its complaint, which is a message and no traceback."""

    def run(*words):
        status, out, complaint = topokd(*words)
        assert status == 2
        assert out == ""
        assert complaint.startswith("topokd: ")
        assert "Traceback" not in complaint
        return complaint.removeprefix("topokd: ").rstrip("\n")

    return run


@pytest.fixture
def mine(tmp_path):
    return write_recipe(tmp_path)


def content(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()
    }


def outcome(run: Path) -> list[dict]:
    """What was learned, without how long it took."""
    curve = json.loads((run / "record.json").read_text())["curve"]
    return [{k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")} for epoch in curve]


def forbid_training(monkeypatch):
    def trained(*args, **kwargs):
        raise AssertionError("something was trained")

    monkeypatch.setattr("topokd_lib.recipes.run.fit", trained)


# ---------------------------------------------------------------------------------- what it says of itself


def test_overview_names_every_command(topokd):
    status, said, _ = topokd("--help")
    assert status == 0
    for command in ("train", "prepare ripsnet", "evaluate", "recipes", "demo"):
        assert re.search(rf"^  {command} +\w", said, re.MULTILINE)
        assert topokd(*command.split(), "--help")[0] == 0
    assert max(map(len, said.splitlines())) <= 100


def test_without_a_command_the_overview_is_shown_and_the_status_is_2(topokd):
    status, said, complaint = topokd()
    assert (status, said) == (2, "")
    assert complaint.startswith("usage: topokd COMMAND")


def test_version(topokd):
    assert topokd("--version") == (0, f"topokd {topokd_lib.__version__}\n", "")


def test_help_of_train_explains_every_field_without_markup(topokd):
    _, said, _ = topokd("train", "--help")
    assert said.startswith("usage: topokd train [--config RECIPE]")
    for option in ("--out", "--dry-run", "--print-recipe", "--data.batch_size", "--student", "--terms",
                   "--teacher", "--schedule.milestones", "--engine.precision", "--seed"):  # fmt: skip
        assert f"\n  {option}" in said
    assert "Passes over the training images." in said
    assert "`" not in said


@pytest.mark.parametrize("command", ["prepare ripsnet", "evaluate", "recipes", "demo"])
def test_help_of_the_others(command, topokd):
    status, said, _ = topokd(*command.split(), "--help")
    assert status == 0
    assert said.startswith(f"usage: topokd {command}")
    assert "`" not in said
    assert "<class" not in said


def test_unknown_commands_are_answered_with_the_nearest(refuses):
    assert refuses("trian").startswith("there is no command 'trian'. Did you mean 'train'? Known: ")
    assert "Did you mean 'prepare ripsnet'?" in refuses("prepare", "ripsent")
    assert "prepare ripsnet" in refuses("prepare")


def test_recipes_lists_everything_that_can_be_named(topokd):
    status, said, _ = topokd("recipes")
    assert status == 0
    for name in recipe_names():
        assert re.search(rf"^  {re.escape(name)} +\S.{{15}}", said, re.MULTILINE)
    for name in [*MODELS, *objective_names(), "digits", "shapes"]:
        assert re.search(rf"\b{re.escape(name)}\b", said)


def test_print_recipe_gives_a_recipe_that_says_the_same(topokd, mine, tmp_path):
    _, printed, _ = topokd("train", "--config", mine, "--seed", 5, "--print-recipe")
    complete = tmp_path / "complete.yaml"
    complete.write_text(printed, encoding="utf-8")
    assert topokd("train", "--config", complete, "--print-recipe") == (0, printed, "")
    assert "seed: 5" in printed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["complete.yaml", "mine.yaml"]


# ------------------------------------------------------------------------ train, evaluate, and train again


def test_train_keeps_a_record_and_evaluate_agrees_with_it(topokd, mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, said, complaint = topokd("train", f"--config={mine}")
    run = Path("runs/mine/resnet8/seed0")
    record = json.loads((run / "record.json").read_text())
    last, best = record["last"], record["best"]
    assert status == 0
    assert said.startswith(
        f"{run}: test accuracy {last['top1']:.2%} after epoch 2 (best {best['top1']:.2%} after epoch "
        f"{best['epoch']}), "
    )
    assert complaint == ""  # no progress bar: this is no terminal
    assert last["top1"] > 0.5  # five times chance; it learns

    for options, kept in (([], last), (["--best"], best)):
        status, said, _ = topokd("evaluate", run, *options)
        assert status == 0
        assert said == (
            f"{run}: top-1 {kept['top1']:.2%}, top-5 {kept['top5']:.2%}, cross-entropy {kept['loss']:.4f} "
            f"on 360 test images\n"
        )


def test_finished_run_returns_at_once_and_stays_as_it_is(topokd, mine, tmp_path, monkeypatch):
    words = ["train", "--config", mine, "--out", tmp_path / "run"]
    _, first, _ = topokd(*words)
    before = content(tmp_path)
    forbid_training(monkeypatch)
    assert topokd(*words) == (0, first, "")
    assert content(tmp_path) == before


def test_directory_of_another_recipe_is_refused_with_the_difference(topokd, refuses, mine, tmp_path):
    run = tmp_path / "run"
    topokd("train", "--config", mine, "--out", run)
    before = content(tmp_path)
    complaint = refuses("train", "--config", mine, "--out", run, "--schedule.epochs", 3)
    assert complaint.startswith(f"{run} holds a run with another recipe; choose another directory")
    assert "\n-  epochs: 2\n+  epochs: 3\n" in complaint
    assert content(tmp_path) == before


def test_another_start_than_the_one_the_directory_was_begun_with_is_refused(topokd, refuses, mine, tmp_path):
    start = make_teacher(tmp_path / "start.safetensors", seed=1)
    words = ["train", "--config", mine, "--initial_weights", str(start), "--out", str(tmp_path / "run")]
    topokd(*words)
    make_teacher(start, seed=2)
    complaint = refuses(*words)
    assert complaint.startswith(f"{tmp_path / 'run'} holds a run with initial_weights")
    assert "choose another directory" in complaint


def test_directory_of_something_else_is_refused(refuses, mine, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    before = content(tmp_path)
    assert "is no run directory: it holds chapter.tex" in refuses(
        "train", "--config", mine, "--out", tmp_path / "thesis"
    )
    assert content(tmp_path) == before


def test_place_below_a_file_is_refused(refuses, mine, tmp_path):
    (tmp_path / "file").write_text("mine")
    place = tmp_path / "file" / "run"
    assert refuses("train", "--config", mine, "--out", place).startswith(
        f"cannot use {place} as a run directory"
    )
    assert (tmp_path / "file").read_text() == "mine"


def test_damaged_checkpoint_is_named_with_the_way_out(topokd, refuses, mine, tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    topokd("train", "--config", mine, "--out", whole)
    topokd("train", "--config", mine, "--out", run)
    for name in ("record.json", "student.safetensors"):  # as if it had been interrupted before the end
        (run / name).unlink()
    damaged = (run / "last.ckpt").read_bytes()[:1000]
    (run / "last.ckpt").write_bytes(damaged)
    before = content(run)
    complaint = refuses("train", "--config", mine, "--out", run)
    assert complaint.startswith(f"cannot read {run / 'last.ckpt'} (")
    assert f"Delete it to continue from {run / 'previous.ckpt'}" in complaint
    assert content(run) == before

    (run / "last.ckpt").unlink()  # the advice works
    assert topokd("train", "--config", mine, "--out", run)[0] == 0
    assert outcome(run) == outcome(whole)
    assert (run / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()


def test_interrupted_run_continues_to_the_same_record(topokd, refuses, mine, tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    words = ["train", "--config", mine, "--schedule.epochs", "12"]
    process = subprocess.Popen(
        [*COMMAND, *words, "--out", str(run)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 120
        while not (run / "previous.ckpt").exists():  # two epochs are complete
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said == ""
    assert complaint == "\ntopokd: stopped; the same command goes on from what is complete\n"
    done = len((run / "log.jsonl").read_text().splitlines())
    assert 1 <= done < 12
    assert "is not finished: there is no student.safetensors" in refuses("evaluate", run)

    assert topokd(*words, "--out", run)[0] == 0
    assert topokd(*words, "--out", whole)[0] == 0
    assert outcome(run) == outcome(whole)
    assert (run / "student.safetensors").read_bytes() == (whole / "student.safetensors").read_bytes()
    assert len(json.loads((run / "provenance.json").read_text())["earlier_sessions"]) == 1


def test_evaluate_refuses_what_is_no_run(refuses, tmp_path):
    assert refuses("evaluate", tmp_path).startswith(f"{tmp_path} holds no run: there is no recipe.yaml in it")
    assert refuses("evaluate") == "the following arguments are required: run"


# ------------------------------------------------------------------------------- mistakes in what is asked


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--student", "resnt8"], "there is no model 'resnt8'. Did you mean 'resnet8'?"),
        (["--data.name", "digit"], "there is no data set 'digit'. Did you mean 'digits'?"),
        (["--data.options.siz", "8"], "data set 'digits' has no option 'siz'. Did you mean 'size'?"),
        (["--data.augment", "crops"], "got 'crops'. Did you mean 'crop'?"),
        (
            ["--terms.ce.objective", "CrosEntropy"],
            "there is no objective 'CrosEntropy'. Did you mean 'CrossEntropy'?",
        ),
        (["--terms.ce.weight", "-1"], "the weight of term 'ce' must not be negative, got -1.0"),
        (
            ["--terms.kd.objective", "KD"],
            "term 'kd': KD compares the student with a teacher, and this run has none",
        ),
        (["--data.batch_size", "5000"], "one step needs 5000 training images"),
        (["--seed", "-1"], "a seed must not be negative, got seed=-1"),
        (["--schedule.epochs", "two"], "schedule.epochs must be int, got 'two'."),
        (
            ["--schedule.epoch", "2"],
            "there is no option '--schedule.epoch'. Did you mean '--schedule.epochs'?",
        ),
        (["--config", "digits/dk"], "there is no file and no recipe 'digits/dk'. Did you mean 'digits/kd'?"),
        (["--config"], "argument --config: expected one argument"),
        (
            ["--config", "digits/kd", "--teacher.weights", "nowhere"],
            "there is no weight file nowhere; train one",
        ),
    ],
)
def test_mistake_is_told_in_a_line_before_anything_is_written(
    words, expected, refuses, mine, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    complaint = refuses("train", "--config", mine, *words)
    assert expected in complaint
    assert "\n" not in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_nothing_named_at_all(refuses):
    assert (
        refuses("train") == "the recipe lacks data.name, student, terms; `topokd recipes` lists complete ones"
    )
    assert refuses("demo", "--seeds", "x") == "Parser key \"seeds\": Expected a <class 'int'>. Got value: x"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_accelerator_that_is_not_there(refuses, mine):
    complaint = refuses("train", "--config", mine, "--engine.accelerator", "cuda", "--dry-run")
    assert complaint.startswith("engine.accelerator=cuda cannot be used here: ")


def test_loss_that_is_no_number_ends_the_run_and_keeps_what_was_good(refuses, mine, tmp_path):
    complaint = refuses("train", "--config", mine, "--out", tmp_path / "run", "--schedule.lr", "1e30")
    assert "in epoch 1 of stage 'main', step 2; nothing was stored. Lower the learning rate" in complaint
    assert (tmp_path / "run" / "recipe.yaml").exists()


# ---------------------------------------------------------------------------- teachers and their artefacts


@pytest.fixture
def school(tmp_path):
    """A teacher with its RipsNet, and the words that name both."""
    teacher = make_teacher(tmp_path / "teacher.safetensors")
    artefact = make_ripsnet(tmp_path / "ripsnet.safetensors", teacher, DataSpec("digits", {"size": 8}))
    return ["train", "--config", "digits/topkd", "--dry-run", "--teacher.weights", teacher,
            "--terms.topology.objective.init_args.artefact", artefact]  # fmt: skip


def test_teacher_and_ripsnet_that_fit(school, topokd):
    assert topokd(*school)[0] == 0


def test_teacher_of_another_data_set(school, refuses, tmp_path):
    other = make_teacher(tmp_path / "other.safetensors", classes=6)
    complaint = refuses(*school, "--teacher.weights", other)
    assert complaint == (
        "term 'kd': KD compares logits class by class: student resnet8 has 10 classes, teacher resnet8 has "
        "6; train both on the same data set"
    )


def test_teacher_file_that_is_damaged(school, refuses, tmp_path):
    weights = tmp_path / "half.safetensors"
    weights.write_bytes((tmp_path / "teacher.safetensors").read_bytes()[:5000])
    complaint = refuses(*school, "--teacher.weights", weights)
    assert complaint.startswith(f"{weights} is not a complete safetensors file (")
    assert "Copy it again from where it was trained" in complaint


def test_artefact_of_another_teacher(school, refuses, tmp_path):
    other = make_teacher(tmp_path / "other.safetensors", seed=1)
    complaint = refuses(*school, "--teacher.weights", other)
    assert complaint.startswith(
        "term 'topology': this RipsNet belongs to something else (fingerprint: made for "
    )
    assert complaint.endswith("make a new one with `topokd prepare ripsnet`")


@pytest.mark.parametrize("damage", ["truncated", "text", "gone", "another file"])
def test_artefact_that_cannot_be_read(damage, school, refuses, tmp_path):
    path = tmp_path / "ripsnet.safetensors"
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "text":
            path.write_text("not a RipsNet")
        case "gone":
            path.unlink()
        case _:
            path.write_bytes((tmp_path / "teacher.safetensors").read_bytes())
    before = content(tmp_path)
    complaint = refuses(*school)
    assert complaint.startswith("term 'topology': ")
    assert str(path) in complaint
    assert complaint.endswith("make one with `topokd prepare ripsnet`")
    assert content(tmp_path) == before


def test_batch_that_is_no_cloud_of_the_artefact(school, refuses):
    assert refuses(*school, "--data.batch_size", 32) == (
        "term 'topology': the RipsNet was trained on clouds of 64 points, and a minibatch of this run has "
        "32; train with batch_size=64, or prepare another one (topokd prepare ripsnet)"
    )


def test_feature_that_the_student_does_not_offer(school, refuses):
    complaint = refuses(*school, "--terms.topology.objective.init_args.student_feature", "poled")
    assert complaint.startswith(
        "term 'topology': student resnet8 has no feature 'poled'. Did you mean 'pooled'?"
    )


@pytest.mark.parametrize("place", ["file/ripsnet.safetensors", "directory"])
def test_prepare_finds_out_before_the_work_that_it_cannot_write(place, refuses, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    teacher = make_teacher(tmp_path / "teacher.safetensors")
    before = content(tmp_path)

    def worked(*args, **kwargs):
        raise AssertionError("clouds were made in vain")

    monkeypatch.setattr("topokd_lib.recipes.run.prepare_ripsnet", worked)
    complaint = refuses("prepare", "ripsnet", "--config", "digits/ripsnet", "--teacher.weights", teacher,
                        "--artefact", tmp_path / place)  # fmt: skip
    assert complaint.startswith(f"cannot write the artefact {tmp_path / place} (")
    assert complaint.endswith("); choose another path")
    assert content(tmp_path) == before


def test_prepare_that_cannot_be_carried_out_leaves_the_old_artefact(school, refuses, tmp_path):
    before = content(tmp_path)
    words = ["prepare", "ripsnet", "--config", "digits/ripsnet", "--teacher.weights", school[5]]
    words += ["--artefact", tmp_path / "ripsnet.safetensors"]
    assert "has no feature 'pool'. Did you mean 'pooled'?" in refuses(*words, "--plan.feature", "pool")
    assert "at least one cloud is needed, got clouds=0" in refuses(*words, "--plan.clouds", 0)
    assert "plan.pooling must be one of 'sum', 'mean', got 'max'" in refuses(*words, "--plan.pooling", "max")
    assert content(tmp_path) == before


# ------------------------------------------------------------------------------------- the shell around it


def test_reader_that_has_seen_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -c 'from topokd_lib.cli import main; raise SystemExit(main())' recipes | true; "
        "exit ${PIPESTATUS[0]}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == ""


SCRIPT = Path(sys.executable).with_name("topokd")


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="the library is not installed")
def test_two_processes_train_one_run_and_say_it_once(mine, topokd, tmp_path):
    words = ["train", "--config", mine, "--out", str(tmp_path / "run"), "--data.batch_size", "32"]
    words += ["--engine.devices", "2", "--engine.accelerator", "cpu"]
    done = subprocess.run(
        [SCRIPT, *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.startswith(f"{tmp_path / 'run'}: test accuracy ")
    assert len(done.stdout.splitlines()) == 1
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["last"]["count"] == 360  # every test image once


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_bars_are_drawn_on_terminals_and_removed(monkeypatch):
    monkeypatch.setattr("sys.stderr", Terminal())
    stages = Stages()
    stages.show("clouds", 1, 2)
    stages.show("clouds", 2, 2)
    stages.show("training", 1, 3)
    drawn = sys.stderr.getvalue()
    assert "clouds" in drawn
    assert "training" in drawn
    stages.close()
    assert sys.stderr.getvalue().split("\r")[-1].strip() == ""


def test_nothing_is_drawn_elsewhere(school, topokd, tmp_path):
    words = ["prepare", "ripsnet", "--config", "digits/ripsnet", "--teacher.weights", school[5]]
    words += ["--artefact", tmp_path / "new" / "r.safetensors", "--plan.clouds", 24, "--plan.epochs", 2]
    status, said, complaint = topokd(*words)
    assert (status, complaint) == (0, "")
    assert "\r" not in said
    assert said.splitlines()[1].startswith("validation error ")
