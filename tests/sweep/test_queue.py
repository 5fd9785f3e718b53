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
from topokd_lib.cli import main
from topokd_lib.errors import Interrupted, RecipeError, RunDirectoryError
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


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_loses_nothing(tmp_path, capsys):
    """Real training, and a kill that leaves an orphan behind."""
    write_recipe(tmp_path, ("epochs: 2", "epochs: 4"))
    path = tmp_path / "plan.yaml"
    path.write_text("recipes: [mine.yaml]\nseeds: 2\n")
    words = ["sweep", str(path), "--home", str(tmp_path / "home"), "--workers", "2"]
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
