"""``topokd sweep`` and ``topokd estimate``: many runs as one thing, and what they will take."""

import os
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from topokd_lib.cli.parser import Stages, new_parser
from topokd_lib.errors import RecipeError
from topokd_lib.sweep import Sweep, estimate, run_sweep, run_task, slurm_script, status_of

__all__ = ["cost", "sweep"]


def sweep(words: list[str]) -> None:
    """Run a sweep, go on with it, or say how it stands."""
    parser = new_parser(
        "sweep",
        "FILE [--workers N] [--results DIRECTORY] [--no-estimate] [--status | --list | --slurm SCRIPT]",
    )
    parser.add_argument("file", help="a YAML file: recipes, pairs, seeds; see `topokd_lib.sweep.Sweep.load`")
    parser.add_argument("--home", help="where runs/ and artefacts/ lie; else the file's, else here")
    parser.add_argument("--workers", type=int | None, help="processes at a time; else one per GPU, or one")
    parser.add_argument("--results", help="also copy the record of every finished run to this folder")
    parser.add_argument(
        "--no-estimate", action="store_true", help="start at once, without timing a few steps of each run"
    )
    parser.add_argument("--status", action="store_true", help="say how the sweep stands, and stop")
    parser.add_argument("--list", action="store_true", help="print the command of every run, and stop")
    parser.add_argument("--slurm", metavar="SCRIPT", help="write a script that submits it to SLURM, and stop")
    parser.add_argument("--task", type=int | None, help="be one of its runs; what that script calls")
    options = parser.parse_args(words)
    plan = Sweep.load(options.file, options.home)
    if options.task is not None:
        run_task(plan, options.task)
    if options.slurm is not None:
        write_script(plan, Path(options.slurm))
        return
    if options.list:
        for run in plan.runs:
            print(f"# {run.name}: {run.impossible}" if run.impossible else run.line)
        return
    if not options.status:
        say_plan(plan)
        if not options.no_estimate:
            say_cost(plan)
    records = None if options.results is None else Path(options.results)
    found = status_of(plan) if options.status else run_sweep(plan, workers=options.workers, records=records)
    counts = Counter(status.state for status in found)
    if options.status:
        for status in found:
            print(f"{status.state:<10} {status.name}{': ' if status.error else ''}{status.error}")
    print(f"{len(found)} runs: " + ", ".join(f"{number} {state}" for state, number in counts.items()))
    if not options.status and counts["failed"]:
        raise RecipeError(
            f"{counts['failed']} of {len(found)} runs failed; their logs are in {plan.folder / 'logs'}. "
            f"The same command tries them again"
        )


def say_plan(plan: Sweep) -> None:
    """How many runs there are, and how many of them are left."""
    left = [run for run in plan.runs if not run.impossible and not run.is_done(plan.home)]
    begun = sum(run.epochs_done(plan.home) > 0 for run in left)
    print(
        f"{len(left)} of {len(plan.runs)} runs are left"
        + (f", {begun} of them begun" if begun else "")
        + f"; `topokd sweep {plan.path} --list` shows their commands",
        flush=True,
    )


def say_cost(plan: Sweep) -> None:
    """What is left will take; a process of its own finds out, and gives back memory and GPU when it ends."""
    if all(run.impossible or run.is_done(plan.home) for run in plan.runs):
        return
    print("timing a few steps of each kind of run first; --no-estimate skips that", flush=True)
    words = [sys.executable, "-m", "topokd_lib.cli", "estimate", str(plan.path), "--home", str(plan.home)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    print(done.stdout, end="")
    if done.returncode:
        print("what it will take could not be measured; the runs start all the same")
    sys.stdout.flush()


def write_script(plan: Sweep, path: Path) -> None:
    """Write the script for SLURM, and what to type."""
    text = slurm_script(plan, path)
    try:
        (plan.folder / "logs").mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot write {path} ({error.strerror or error}); choose another place") from error
    print(f"bash {path}")


def cost(words: list[str]) -> None:
    """Print what each run of a sweep takes on this machine, and all of them."""
    parser = new_parser("estimate", "FILE [--seconds S] [--workers N]")
    parser.add_argument("file", help="a sweep")
    parser.add_argument("--home", help="of the sweep; else the file's")
    parser.add_argument("--seconds", type=float, default=5.0, help="to spend on each kind of run, about")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes at a time that do not share a device"
    )
    options = parser.parse_args(words)
    if options.workers < 1 or not options.seconds > 0:
        raise RecipeError(
            f"an estimate needs workers and seconds, got {options.workers} and {options.seconds}"
        )
    plan = Sweep.load(options.file, options.home)
    with closing(Stages()) as stages:
        found = estimate(plan, seconds=options.seconds, progress=stages.show)
    if not found:
        print(f"all runs are done; `topokd table {plan.path}` shows them")
        return
    head = ("run", "per epoch", "epochs", "per run", "runs left", "together")
    rows = [
        (
            one.name,
            duration(one.cost.epoch),
            str(one.cost.epochs),
            duration(one.cost.total),
            f"{one.left} of {one.runs}",
            duration(one.seconds),
        )
        for one in found
        if one.cost is not None
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for name, *numbers in (head, *rows):
        print(f"{name:<{widths[0]}}  " + "  ".join(map(str.rjust, numbers, widths[1:])))
    for one in found:
        if one.cost is None:
            print(f"{one.name}: cannot be measured: {one.error}")
    total = sum(one.seconds for one in found)
    more = ", without what cannot be measured" if any(one.cost is None for one in found) else ""
    print(f"all that is left: {duration(total)} on one device" + (
        f", {duration(total / options.workers)} with {options.workers} workers" if options.workers > 1 else ""
    ) + more)  # fmt: skip


def duration(seconds: float) -> str:
    """Seconds in the unit that one would say.

    Example:
        >>> duration(0.42), duration(75.0), duration(7300.0), duration(400000.0)
        ('0.4 s', '1.2 min', '2.0 h', '4.6 d')
    """
    for size, unit in ((86400.0 * 2, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / min(size, 86400.0):.1f} {unit}"
    return f"{seconds:.1f} s"
