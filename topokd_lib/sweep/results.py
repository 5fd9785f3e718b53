"""What a sweep has found so far, as a table that also says what is missing."""

from topokd_lib.analysis import ResultsTable, RunResult, read_run
from topokd_lib.sweep.plan import Sweep

__all__ = ["sweep_table"]


def sweep_table(sweep: Sweep, *, baseline: str | None = None) -> ResultsTable:
    """All cells of a sweep, those too that were not run or cannot be.

    Args:
        sweep: Which cells there are.
        baseline: In place of the sweep's.
    """
    results: dict[tuple[str, str], dict[int, RunResult]] = {}
    planned: dict[tuple[str, str], int] = {}
    impossible: dict[tuple[str, str], str] = {}
    for run in sweep.runs:
        for column in run.columns:
            cell = (run.method, column)
            if run.impossible:
                impossible[cell] = run.impossible
                continue
            planned[cell] = planned.get(cell, 0) + 1
            if run.is_done(sweep.home):
                record = sweep.home / run.output / "record.json"
                result = read_run(record, root=sweep.home / "runs")
                if result is not None and run.seed is not None:
                    results.setdefault(cell, {})[run.seed] = result
    columns = dict.fromkeys(column for run in sweep.runs for column in run.columns)
    first = sweep.baseline if baseline is None else baseline
    methods = [first, *(method for method in sweep.methods if method != first)]
    return ResultsTable(tuple(methods), tuple(columns), first, results, planned, impossible)
