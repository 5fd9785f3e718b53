"""The queue with processes that pretend to train: quick, and as bad as wanted. The last test is for real."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recipes.made import write_recipe
from tests.sweep import pretend
from topokd_lib.cli import Stages, main
from topokd_lib.errors import INTERRUPTED, Interrupted, RecipeError, RunDirectoryError
from topokd_lib.recipes.load import KINDS
from topokd_lib.recipes.run import artefact_lock, occupy_artefact
from topokd_lib.sweep import PlannedRun, Sweep, run_sweep, status_of, sweep_table
from topokd_lib.training import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pretending(monkeypatch):
    """Processes that are there in no time."""
    program = [sys.executable, "-S", str(pretend.__file__)]
    monkeypatch.setattr(PlannedRun, "program", lambda run, *more: [*program, *run.words, *more])


def plan(folder: Path, *methods: str, seeds: int = 2) -> Sweep:
    entries = "".join(f"  - {{recipe: digits/none, name: {method}}}\n" for method in methods)
    path = folder / "plan.yaml"
    path.write_text(f"recipes:\n{entries}seeds: {seeds}\n", encoding="utf-8")
    return Sweep.load(path, folder / "home")


def states(sweep: Sweep) -> dict[str, str]:
    content = json.loads((sweep.folder / "status.json").read_text())
    return {entry["name"].replace("/resnet8/seed", " "): entry["state"] for entry in content}


def started(sweep: Sweep) -> list[str]:
    return (sweep.home / "started.txt").read_text().splitlines()


def test_all_runs_are_run_once_and_never_again(pretending, tmp_path):
    sweep, said = plan(tmp_path, "good", "better"), []
    found = run_sweep(sweep, workers=2, say=said.append)
    assert {status.state for status in found} == {"done"}
    assert states(sweep) == dict.fromkeys(("good 0", "good 1", "better 0", "better 1"), "done")
    assert len(said) == 4
    assert said[-1].startswith("[4/4] ")
    run_sweep(sweep, workers=2, say=said.append)
    assert len(said) == 4
    assert len(started(sweep)) == 4


def test_what_fails_is_listed_with_its_error_and_the_rest_goes_on(pretending, tmp_path):
    sweep = plan(tmp_path, "broken", "shot", "good", seeds=1)
    found = {status.name.partition("/")[0]: status for status in run_sweep(sweep, say=lambda _: None)}
    assert found["good"].state == "done"
    assert found["broken"].state == "failed"
    assert found["broken"].error == "exit status 2: the loss is nan (kd) in epoch 1 of seed 0"
    assert found["shot"].error == "killed by SIGKILL"
    assert {status.name: status.error for status in status_of(sweep) if status.state == "failed"} == {
        "broken/resnet8/seed0": found["broken"].error,
        "shot/resnet8/seed0": "killed by SIGKILL",
    }
    again = {status.name: status.attempts for status in run_sweep(sweep, say=lambda _: None)}
    assert again == {"broken/resnet8/seed0": 2, "shot/resnet8/seed0": 2, "good/resnet8/seed0": 1}


def test_what_needs_something_that_failed_is_not_tried(pretending, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("""\
prepare: [{recipe: digits/teacher, name: broken}]
recipes: [{recipe: digits/kd, set: {teacher.weights: runs/broken/resnet20/seed0}}, digits/none]
""")
    sweep = Sweep.load(path, tmp_path / "home")
    run_sweep(sweep, say=lambda _: None)
    assert list(states(sweep).values()) == ["failed", "done", "blocked"]
    assert not any("digits/kd" in line for line in started(sweep))


def test_records_of_finished_runs_are_copied_on_request(pretending, tmp_path):
    sweep = plan(tmp_path, "good")
    run_sweep(sweep, say=lambda _: None)
    run_sweep(sweep, say=lambda _: None, records=tmp_path / "results")
    copied = tmp_path / "results" / "good" / "resnet8" / "seed1.json"
    assert copied.read_bytes() == (sweep.home / "runs/good/resnet8/seed1/record.json").read_bytes()


def test_gpus_are_dealt_in_turn(pretending, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    sweep = plan(tmp_path, "good", seeds=4)
    run_sweep(sweep, workers=2, say=lambda _: None)
    assert {line.split()[1] for line in started(sweep)} == {"4", "7"}


def test_a_run_that_another_process_holds_is_waited_for(pretending, tmp_path):
    sweep = plan(tmp_path, "good", seeds=1)
    place = sweep.home / sweep.runs[0].output
    place.mkdir(parents=True)
    run = RunDirectory.open(place, recipe="student: resnet8\n")
    left = multiprocessing.get_context("fork").Process(target=finish_elsewhere, args=(run,))
    left.start()
    while status_of(sweep)[0].state != "running":
        assert left.is_alive()
        time.sleep(0.01)
    (found,) = run_sweep(sweep, say=lambda _: None)
    left.join()
    assert (found.state, found.attempts) == ("done", 0)
    assert not (sweep.home / "started.txt").exists()


def finish_elsewhere(run: RunDirectory) -> None:
    with run.occupy():
        time.sleep(1)
        (run.path / "record.json").write_text("{}")


def test_a_sweep_that_is_told_to_stop_stops_its_processes_and_goes_on_later(pretending, tmp_path):
    sweep = plan(tmp_path, "slow", "good", seeds=1)

    def stop(line: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    start = time.monotonic()
    with pytest.raises(Interrupted, match="the sweep was stopped by SIGTERM; the same command goes on"):
        run_sweep(sweep, workers=2, say=stop)
    assert time.monotonic() - start < 15
    assert states(sweep) == {"slow 0": "waiting", "good 0": "done"}


def test_mistakes_are_told(pretending, tmp_path):
    sweep = plan(tmp_path, "good")
    with pytest.raises(RecipeError, match="a sweep needs at least one worker, got 0"):
        run_sweep(sweep, workers=0)
    sweep.home.write_text("in the way")
    with pytest.raises(RecipeError, match=r"cannot write the status of the sweep to .*; choose another home"):
        run_sweep(sweep)
    sweep.home.unlink()
    sweep.folder.mkdir(parents=True)
    (sweep.folder / "status.json").write_text("[half")
    with pytest.raises(RunDirectoryError, match=r"cannot read .*status\.json .*; delete it"):
        status_of(sweep)


def test_table_of_a_sweep_says_what_was_not_run(pretending, tmp_path):
    sweep = plan(tmp_path, "good", "broken", "better", seeds=3)
    run_sweep(sweep, say=lambda _: None)
    (tmp_path / "home/runs/better/resnet8/seed2/record.json").unlink()
    assert sweep_table(sweep).markdown().splitlines() == [
        "### resnet8",
        "",
        "| method | last epoch % | best epoch % | seeds | last, minus good [95 %] |",
        "| --- | --- | --- | --- | --- |",
        "| good | 81.00 ± 1.00 | 82.00 ± 1.00 | 3 |  |",
        "| broken | not run |  | 0 of 3 |  |",
        "| better | 90.50 ± 0.71 | 91.50 ± 0.71 | 2 of 3, rest not run | +10.00 [+10.00, +10.00] |",
    ]


def test_a_process_that_has_no_way_to_stop_in_between_has_not_failed(pretending, tmp_path):
    sweep = plan(tmp_path, "deaf", "good", seeds=1)
    with pytest.raises(Interrupted):
        run_sweep(sweep, workers=2, say=lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert states(sweep) == {"deaf 0": "waiting", "good 0": "done"}


def test_a_run_by_another_recipe_is_not_taken_for_this_one(pretending, tmp_path):
    (run,) = (sweep := plan(tmp_path, "good", seeds=1)).runs
    run_sweep(sweep, say=lambda _: None)
    stored = sweep.home / run.output / "recipe.yaml"
    stored.write_text(run.text)
    assert run.is_done(sweep.home)
    stored.write_text(run.text.replace("  channels_last: false\n", ""))  # of a version without this field
    assert run.is_done(sweep.home)
    stored.write_text(run.text.replace("seed: 0", "seed: 1"))
    assert not run.is_done(sweep.home)
    stored.write_text(run.text.replace("batch_size: 64", "batch_size: 32"))
    assert status_of(sweep)[0].state == "waiting"


def test_epochs_behind_an_interrupted_run_are_counted(tmp_path):
    (run,) = (sweep := plan(tmp_path, "good", seeds=1)).runs
    assert run.epochs_done(sweep.home) == 0
    log = sweep.home / run.output / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"stage": "hint"}\n{"stage": "main"}\n{"stage": "main"}\n')
    assert run.epochs_done(sweep.home) == 2


EVERYTHING = """\
prepare:
  - {recipe: digits/teacher, set: {schedule.epochs: 1, schedule.milestones: []}}
  - {recipe: digits/ripsnet, set: {plan.clouds: 50, plan.epochs: 2}}
  - {recipe: digits/dist_pro_search, set: {plan.epochs: 1}}
  - digits/tgd_persistence
  - {recipe: digits/igkd_attributions, set: {attributions.steps: 1}}
recipes: [digits/none]
set: {schedule.epochs: 1, schedule.milestones: []}
"""


@pytest.fixture
def everything(tmp_path) -> Sweep:
    path = tmp_path / "plan.yaml"
    path.write_text(EVERYTHING)
    return Sweep.load(path, tmp_path / "home")


def test_everything_that_can_be_prepared_can_be_part_of_a_sweep(everything):
    assert {run.command for run in everything.runs} == set(KINDS)
    assert [run.columns for run in everything.runs if run.command != "train"] == [()] * 4


@pytest.mark.slow
def test_a_sweep_prepares_everything_once(everything, tmp_path, capsys):
    words = ["sweep", str(everything.path), "--home", str(everything.home), "--no-estimate"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("6 of 6 runs are left; ")
    assert said[-1] == "6 runs: 6 done"
    assert all(run.is_done(everything.home) for run in everything.runs)
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2  # nothing was started again


def test_a_preparation_that_another_process_is_at_is_waited_for(everything, capsys):
    run = next(run for run in everything.runs if run.command == "prepare image-persistence")
    place = everything.home / run.output
    left = multiprocessing.get_context("fork").Process(target=prepare_elsewhere, args=(place,))
    left.start()
    while not run.is_running(everything.home):
        assert left.is_alive()
        time.sleep(0.01)
    words = ["prepare", "image-persistence", "--config", "digits/tgd_persistence", "--artefact", str(place)]
    assert main(words) == 2
    assert f"another process is preparing {place}; wait until" in capsys.readouterr().err
    left.join()
    assert not run.is_running(everything.home)
    assert run.is_done(everything.home)
    assert not artefact_lock(place).exists()


def test_a_lock_that_was_taken_away_locks_nothing(tmp_path, monkeypatch):
    """The file was opened before the process that held it ended, and locked after that."""
    path = tmp_path / "maps"
    monkeypatch.setattr("topokd_lib.recipes.run.lock", lambda _: artefact_lock(path).unlink() or True)
    with pytest.raises(RecipeError, match="another process is preparing"), occupy_artefact(path):
        pytest.fail("two processes would prepare it")


def prepare_elsewhere(place: Path) -> None:
    with occupy_artefact(place):
        time.sleep(3)
        place.mkdir()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_preparation_that_is_told_to_stop_says_that_it_goes_on(tmp_path, capsys, monkeypatch, number):
    """With the status that a queue and a cluster take for: again."""
    place = tmp_path / "maps"
    words = ["prepare", "image-persistence", "--config", "digits/tgd_persistence", "--artefact", str(place)]
    words += ["--processes", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(Stages, "show", lambda *_: os.kill(os.getpid(), number))
        assert main(words) == INTERRUPTED
    assert f"stopped by {number.name}; the same command goes on" in capsys.readouterr().err
    assert (tmp_path / "maps.partial").is_dir()
    assert main(words) == 0
    assert place.is_dir()


def test_a_sweep_says_what_is_left_and_what_it_takes_before_it_starts(pretending, tmp_path, capsys):
    sweep = plan(tmp_path, "good", "better", seeds=1)
    record = sweep.home / sweep.runs[0].output / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert main(["sweep", str(sweep.path), "--home", str(sweep.home)]) == 0
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0] == f"1 of 2 runs are left; `topokd sweep {sweep.path} --list` shows their commands"
    assert "--no-estimate skips that" in lines[1]
    assert " ".join(lines[2].split()) == "run per epoch epochs per run runs left together"
    assert lines[3].startswith("better/resnet8 ")
    assert not any(line.startswith("good") for line in lines)
    assert lines[4].startswith("all that is left: ")
    assert lines[5].startswith("[2/2] better/resnet8/seed0 done")
    assert main(["sweep", str(sweep.path), "--home", str(sweep.home)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["2 runs: 2 done"]


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_loses_nothing(tmp_path, capsys):
    """Real training, and a kill that leaves an orphan behind."""
    write_recipe(tmp_path, ("epochs: 2", "epochs: 4"))
    path = tmp_path / "plan.yaml"
    path.write_text("recipes: [mine.yaml]\nseeds: 2\n")
    words = ["sweep", str(path), "--home", str(tmp_path / "home"), "--workers", "2", "--no-estimate"]
    process = subprocess.Popen(
        [sys.executable, "-m", "topokd_lib.cli", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    logs = [tmp_path / f"home/runs/mine/resnet8/seed{seed}/log.jsonl" for seed in (0, 1)]
    deadline = time.monotonic() + 120
    while not any(log.exists() for log in logs):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("2 runs: 2 done\n")
    assert [len(log.read_text().splitlines()) for log in logs] == [4, 4]
    assert main(["sweep", str(path), "--home", str(tmp_path / "home"), "--status"]) == 0
    assert capsys.readouterr().out.count("done ") == 2
