import json
import platform
import subprocess

import numpy
import pytest
import torch

import topokd_lib
from tests.training.toy import TinyNet, ToyData
from topokd_lib.errors import RunDirectoryError
from topokd_lib.models import Teacher, create_model
from topokd_lib.training import EpochRecord, Evaluation, History, RunDirectory, load_checkpoint
from topokd_lib.training import run as run_module

RECIPE = "student: tiny\nschedule:\n  epochs: 2\n"


def record(epoch: int, top1: float) -> EpochRecord:
    return EpochRecord(
        epoch, "main", 0.1, 1.5, {"labels": 1.5}, 0.4, Evaluation(top1, 1.0, 0.7, 10), 2.0, 9.0
    )


def provenance_of(run: RunDirectory) -> dict:
    return json.loads((run.path / "provenance.json").read_text())


def test_a_new_directory_says_what_was_asked_and_where_it_runs(tmp_path):
    run = RunDirectory.open(tmp_path / "deep" / "run", recipe=RECIPE, seed=3, data=ToyData())
    assert (run.path / "recipe.yaml").read_text() == RECIPE
    assert (run.resumed, run.record, run.latest_checkpoint) == (False, None, None)
    found = provenance_of(run)
    assert found["seed"] == 3
    assert found["data"] == {"name": "toy", "fingerprint": "0123456789abcdef"}
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["versions"]["numpy"] == numpy.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["topokd_lib"] == topokd_lib.__version__
    assert found["hardware"]["cpu"]
    assert found["hardware"]["cores"] >= 1
    assert len(found["hardware"]["gpus"]) == torch.cuda.device_count()
    assert found["started"].endswith("+00:00")
    assert found["earlier_sessions"] == []


def test_the_commit_is_that_of_the_library_and_nothing_elses(tmp_path, monkeypatch):
    """Inside another project's repository, but not part of it, the library has no commit."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    package = tmp_path / "site" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(run_module.topokd_lib, "__file__", str(package))
    assert run_module._commit() == (None, None)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "someone else's")
    assert run_module._commit() == (None, None)
    git("add", ".")
    git("commit", "-q", "-m", "ours")
    assert run_module._commit() == (git("rev-parse", "HEAD"), False)
    package.write_text("changed = 1\n")
    assert run_module._commit() == (git("rev-parse", "HEAD"), True)


def test_the_same_run_can_be_opened_again_and_notes_it(tmp_path):
    first = RunDirectory.open(tmp_path / "run", recipe=RECIPE, data=ToyData())
    first.begin(History())
    second = RunDirectory.open(tmp_path / "run", recipe=RECIPE, data=ToyData())
    assert second.resumed
    second.begin(History())
    third = RunDirectory.open(tmp_path / "run", recipe=RECIPE, data=ToyData())
    third.begin(History())
    found = provenance_of(third)
    assert len(found["earlier_sessions"]) == 2
    assert all("versions" in session for session in found["earlier_sessions"])
    assert found["data"] == {"name": "toy", "fingerprint": "0123456789abcdef"}


def test_another_recipe_is_shown_as_a_difference(tmp_path):
    RunDirectory.open(tmp_path, recipe=RECIPE)
    with pytest.raises(RunDirectoryError) as raised:
        RunDirectory.open(tmp_path, recipe=RECIPE.replace("epochs: 2", "epochs: 5"))
    lines = str(raised.value).splitlines()
    assert "choose another directory" in lines[0]
    assert "-  epochs: 2" in lines
    assert "+  epochs: 5" in lines
    assert any(line.startswith("--- ") and "recipe.yaml" in line for line in lines)
    assert (tmp_path / "recipe.yaml").read_text() == RECIPE


def test_another_seed_is_refused(tmp_path):
    RunDirectory.open(tmp_path, recipe=RECIPE, seed=0)
    with pytest.raises(RunDirectoryError, match="a run with seed 0, this one has seed 1"):
        RunDirectory.open(tmp_path, recipe=RECIPE, seed=1)


def test_other_data_under_the_same_name_are_refused(tmp_path):
    RunDirectory.open(tmp_path, recipe=RECIPE, data=ToyData("aaaa"))
    with pytest.raises(RunDirectoryError, match=r"with data .*aaaa.*, this one has data .*bbbb"):
        RunDirectory.open(tmp_path, recipe=RECIPE, data=ToyData("bbbb"))


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "holiday.jpg").write_text("")
    with pytest.raises(RunDirectoryError, match=r"it holds holiday\.jpg and no recipe\.yaml"):
        RunDirectory.open(tmp_path, recipe=RECIPE)
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_directory_that_was_interrupted_while_it_was_made_can_be_used(tmp_path):
    (tmp_path / "provenance.json").write_text("{}")
    (tmp_path / "recipe.yaml.partial").write_text("stud")
    run = RunDirectory.open(tmp_path, recipe=RECIPE)
    assert not run.resumed
    assert provenance_of(run)["seed"] == 0


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_place_that_cannot_be_written_to(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"(cannot use|cannot create) .*choose"):
        RunDirectory.open(tmp_path / name, recipe=RECIPE)


def test_a_full_disk_is_reported_with_the_directory(tmp_path, monkeypatch):
    def fails(*arguments) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(RunDirectoryError, match=r"cannot create the run directory .*No space left"):
        RunDirectory.open(tmp_path / "run", recipe=RECIPE)


@pytest.mark.parametrize("content", ["not json", "[1]"])
def test_a_damaged_provenance_is_reported(tmp_path, content):
    RunDirectory.open(tmp_path, recipe=RECIPE)
    (tmp_path / "provenance.json").write_text(content)
    with pytest.raises(RunDirectoryError, match=r"provenance\.json"):
        RunDirectory.open(tmp_path, recipe=RECIPE)


def test_a_recipe_that_is_no_text_is_reported(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RunDirectoryError, match=r"cannot read .*recipe\.yaml"):
        RunDirectory.open(tmp_path, recipe=RECIPE)


def test_the_log_is_brought_in_line_with_what_is_known(tmp_path):
    run = RunDirectory.open(tmp_path, recipe=RECIPE)
    run.begin(History())
    run.write_log(record(1, 0.5))
    run.write_log(record(2, 0.6))
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"epoch": 3, "sta')  # killed while writing
    run.begin(History([record(1, 0.5)]))
    run.write_log(record(2, 0.6))
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [EpochRecord.from_dict(json.loads(line)) for line in lines] == [record(1, 0.5), record(2, 0.6)]


def test_weights_are_kept_when_they_are_the_best(tmp_path):
    run = RunDirectory.open(tmp_path, recipe=RECIPE, data=ToyData())
    history = History()
    kept = []
    for epoch, top1 in enumerate((0.3, 0.8, 0.5, 0.8), start=1):
        history.records.append(record(epoch, top1))
        run.save(history, {"epoch": epoch}, TinyNet(), 3)
        kept.append(run.best_path.read_bytes())
    assert kept[0] != kept[1] == kept[2] == kept[3]
    assert run.latest_checkpoint == tmp_path / "last.ckpt"
    assert load_checkpoint(run.checkpoint_path) == {"epoch": 4}


def test_the_record_of_a_finished_run_says_everything(tmp_path):
    run = RunDirectory.open(tmp_path, recipe=RECIPE, seed=4, data=ToyData())
    history = History([record(1, 0.9), record(2, 0.6)])
    run.finish(history, TinyNet(), 3)
    found = RunDirectory.open(tmp_path, recipe=RECIPE, seed=4, data=ToyData()).record
    assert found is not None
    assert found["recipe"] == {"student": "tiny", "schedule": {"epochs": 2}}
    assert (found["seed"], found["data"]["fingerprint"]) == (4, "0123456789abcdef")
    assert (found["last"]["epoch"], found["last"]["top1"]) == (2, 0.6)
    assert (found["best"]["epoch"], found["best"]["top1"]) == (1, 0.9)
    assert found["wall_time_seconds"] == 4.0
    assert History.from_list(found["curve"]) == history
    assert found["student"] == {"name": "tiny", "parameters": sum(p.numel() for p in TinyNet().parameters())}
    assert {"commit", "uncommitted_changes", "versions", "hardware", "started"} <= set(found)


def test_a_teacher_that_was_trained_anew_is_noticed(tmp_path):
    teacher = Teacher(create_model("resnet8", num_classes=3))
    RunDirectory.open(tmp_path / "run", recipe="a: 1\n", teacher=teacher)
    RunDirectory.open(tmp_path / "run", recipe="a: 1\n", teacher=teacher)
    with torch.no_grad():
        teacher.model.last_layer.bias.add_(1.0)
    with pytest.raises(RunDirectoryError, match=r"holds a run with teacher .*'resnet8'.* this one has"):
        RunDirectory.open(tmp_path / "run", recipe="a: 1\n", teacher=teacher)


def test_initial_weights_that_changed_are_noticed(tmp_path):
    start = tmp_path / "start.safetensors"
    start.write_bytes(b"one")
    run = RunDirectory.open(tmp_path / "run", recipe="a: 1\n", initial_weights=start)
    RunDirectory.open(tmp_path / "run", recipe="a: 1\n", initial_weights=start).begin(History())
    assert provenance_of(run)["initial_weights"] == "7692c3ad3540bb80"  # of sha256sum
    start.write_bytes(b"two")
    with pytest.raises(RunDirectoryError, match=r"holds a run with initial_weights 7692\w+, this one has"):
        RunDirectory.open(tmp_path / "run", recipe="a: 1\n", initial_weights=start)


def test_a_run_that_was_begun_before_initial_weights_were_noted_goes_on(tmp_path):
    run = RunDirectory.open(tmp_path, recipe=RECIPE)
    noted = provenance_of(run)
    del noted["initial_weights"]
    (tmp_path / "provenance.json").write_text(json.dumps(noted))
    RunDirectory.open(tmp_path, recipe=RECIPE).begin(History())
    assert provenance_of(run)["initial_weights"] is None
