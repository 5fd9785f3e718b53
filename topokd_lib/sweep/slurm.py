"""The same sweep on a cluster: one SLURM array task for each run."""

import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from topokd_lib.errors import INTERRUPTED, RecipeError
from topokd_lib.sweep.plan import Sweep

__all__ = ["run_task", "slurm_script"]

SCRIPT = """\
#!/bin/bash
# {count} runs of {file}. Submit with `bash {script}`; change the lines below to what your cluster asks for.
#SBATCH --job-name={name}
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@180
#SBATCH --output={logs}/%A_%a.log

if [ -z "${{SLURM_ARRAY_TASK_ID:-}}" ]; then  # called by hand: submit, what is needed first
{submit}
  exit
fi

cd {here} || exit 1
srun {command} --task "$SLURM_ARRAY_TASK_ID"
code=$?
if [ "$code" -eq {interrupted} ]; then  # stopped at a checkpoint because its time was over: it goes on later
  exec scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def slurm_script(sweep: Sweep, script: Path) -> str:
    """A batch script that submits itself as job arrays, one after the other where one needs the other.

    Args:
        sweep: What to run; runs that are done are left out, and the rest keep their numbers.
        script: Where the script will be written, for its own comment.

    Raises:
        RecipeError: If there is nothing left to run.
    """
    levels: dict[int, list[int]] = {}
    depth: dict[str, int] = {}
    for number, run in enumerate(sweep.runs):
        if not run.impossible and not run.is_done(sweep.home):
            depth[run.name] = 1 + max((depth.get(name, -1) for name in run.needs), default=-1)
            levels.setdefault(depth[run.name], []).append(number)
    if not levels:
        raise RecipeError(f"all runs of {sweep.path} are done; `topokd table {sweep.path}` shows them")
    submit = []
    for level, numbers in sorted(levels.items()):
        after = ' --dependency="afterany:$job"' if level else ""
        submit.append(f'  job=$(sbatch --parsable{after} --array={_ranges(numbers)} "$0") || exit 1')
    home = ["--home", str(sweep.home.resolve())]
    words = [sys.executable, "-m", "topokd_lib.cli", "sweep", str(sweep.path.resolve()), *home]
    return SCRIPT.format(
        count=sum(map(len, levels.values())),
        file=sweep.path,
        script=script,
        name=sweep.name,
        logs=shlex.quote(str((sweep.folder / "logs").resolve())),
        submit="\n".join(submit),
        here=shlex.quote(str(Path.cwd())),
        command=shlex.join(words),
        interrupted=INTERRUPTED,
    )


def run_task(sweep: Sweep, number: int) -> NoReturn:
    """Become the process of one run, counted from 0 in the order of ``topokd sweep FILE --list``.

    Raises:
        RecipeError: If there is no such run, it cannot be, or what it needs is not there.
    """
    if not 0 <= number < len(sweep.runs):
        raise RecipeError(f"{sweep.path} has runs 0 … {len(sweep.runs) - 1}, asked for {number}")
    run = sweep.runs[number]
    if run.impossible:
        raise RecipeError(f"{run.name} cannot be run: {run.impossible}")
    missing = [
        other.name for other in sweep.runs if other.name in run.needs and not other.is_done(sweep.home)
    ]
    if missing:
        raise RecipeError(f"{run.name} needs {', '.join(missing)}, and that is not done")
    os.chdir(sweep.home)
    os.execv(sys.executable, run.program())


def _ranges(numbers: list[int]) -> str:
    """Numbers as SLURM writes them.

    Example:
        >>> _ranges([0, 1, 2, 5, 7, 8])
        '0-2,5,7-8'
    """
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ",".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)
