"""The script for a cluster, run by bash against stand-ins of the three commands that it calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sweep.test_queue import plan
from topokd_lib.cli import main
from topokd_lib.errors import RecipeError
from topokd_lib.sweep import Sweep, run_task, slurm_script

TEACHER = """\
prepare: [digits/teacher, digits/ripsnet]
recipes: [digits/none, digits/kd, digits/topkd]
seeds: 2
"""

SBATCH = """#!/bin/bash
echo "sbatch $*" >> calls.txt
echo $((100 + $(wc -l < calls.txt)))
"""
SRUN = """#!/bin/bash
echo "srun ${@: -2}" >> calls.txt
exit ${SRUN_STATUS:-0}
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> calls.txt
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder in which the commands of SLURM write down how they were called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", SCONTROL)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(TEACHER)
    assert main(["sweep", "plan.yaml", "--home", "home", "--slurm", "job.sh"]) == 0
    return tmp_path


def run(script: str, **environment: str) -> int:
    return subprocess.run(
        ["bash", script], env={**os.environ, **environment}, check=False, timeout=60
    ).returncode


def test_script_submits_what_is_needed_first(cluster, capsys):
    assert run("job.sh") == 0
    runs = Sweep.load("plan.yaml", "home").runs
    assert [r.method for r in runs] == [
        "digits/teacher", "digits/none", "digits/none", "digits/ripsnet", "digits/kd", "digits/kd",
        "digits/topkd", "digits/topkd",
    ]  # fmt: skip
    assert Path("calls.txt").read_text().splitlines() == [
        "sbatch --parsable --array=0-2 job.sh",
        "sbatch --parsable --dependency=afterany:101 --array=3-5 job.sh",
        "sbatch --parsable --dependency=afterany:102 --array=6-7 job.sh",
    ]


@pytest.mark.parametrize(("status", "requeued"), [("0", False), ("2", False), ("75", True)])
def test_task_runs_its_number_and_asks_for_another_turn_when_it_was_stopped(cluster, status, requeued):
    number = {"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_JOB_ID": "7"}
    assert run("job.sh", SRUN_STATUS=status, **number) == (0 if requeued else int(status))
    calls = ["srun --task 4"] + ["scontrol requeue 7_4"] * requeued
    assert Path("calls.txt").read_text().splitlines() == calls


def test_script_leaves_out_what_is_done(tmp_path):
    sweep = plan(tmp_path, "good", "better")
    record = sweep.home / sweep.runs[1].output / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert "--array=0,2-3 " in slurm_script(sweep, Path("job.sh"))


def test_nothing_left_to_submit(tmp_path):
    sweep = plan(tmp_path, "good", seeds=1)
    record = sweep.home / sweep.runs[0].output / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    with pytest.raises(RecipeError, match=r"all runs of .* are done; `topokd table"):
        slurm_script(sweep, Path("job.sh"))


def test_task_becomes_the_process_of_its_run(tmp_path, monkeypatch):
    sweep = plan(tmp_path, "good")
    sweep.home.mkdir()
    monkeypatch.chdir(tmp_path)
    called = []

    def become(*words: object) -> None:
        called.append(words)
        raise SystemExit

    monkeypatch.setattr("os.execv", become)
    with pytest.raises(SystemExit):
        run_task(sweep, 1)
    assert called == [(sys.executable, sweep.runs[1].program())]
    assert Path.cwd() == sweep.home


def test_task_that_cannot_be_run(cluster):
    sweep = Sweep.load("plan.yaml", "home")
    with pytest.raises(RecipeError, match="has runs 0 … 7, asked for 8"):
        run_task(sweep, 8)
    with pytest.raises(
        RecipeError, match=r"digits/kd/resnet8/seed0 needs digits/teacher/resnet20/seed0, and"
    ):
        run_task(sweep, 4)
