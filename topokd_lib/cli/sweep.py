"""``topokd sweep``: many runs as one thing."""

from collections import Counter
from pathlib import Path

from topokd_lib.cli.parser import new_parser
from topokd_lib.errors import RecipeError
from topokd_lib.sweep import Sweep, run_sweep, status_of

__all__ = ["sweep"]


def sweep(words: list[str]) -> None:
    """Run a sweep, go on with it, or say how it stands."""
    parser = new_parser("sweep", "FILE [--workers N] [--results DIRECTORY] [--status | --list]")
    parser.add_argument("file", help="a YAML file: recipes, pairs, seeds; see `topokd_lib.sweep.Sweep.load`")
    parser.add_argument("--home", help="where runs/ and artefacts/ lie; else the file's, else here")
    parser.add_argument("--workers", type=int | None, help="processes at a time; else one per GPU, or one")
    parser.add_argument("--results", help="also copy the record of every finished run to this folder")
    parser.add_argument("--status", action="store_true", help="say how the sweep stands, and stop")
    parser.add_argument("--list", action="store_true", help="print the command of every run, and stop")
    options = parser.parse_args(words)
    plan = Sweep.load(options.file, options.home)
    if options.list:
        for run in plan.runs:
            print(f"# {run.name}: {run.impossible}" if run.impossible else run.line)
        return
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
