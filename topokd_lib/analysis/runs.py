"""From the records of runs to a table: mean ± sd over seeds, and differences paired by seed.

Two students with the same seed begin with the same weights and see the same images in the same order, so
much of what chance does is the same for both, and their difference says more than two means do.
"""

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from topokd_lib.errors import RunDirectoryError, require_name

__all__ = ["Difference", "ResultsTable", "RunResult", "Spread", "paired_difference", "read_run", "read_runs"]


@dataclass(frozen=True)
class RunResult:
    """What a finished run achieved.

    Args:
        method: Row of a table: the folder of its recipe.
        column: The pair, or the student if it has no teacher.
        seed: Of the run.
        last: Test accuracy in percent after the last epoch.
        best: Of the best epoch, which was chosen by looking at the test images.
        seconds: Wall-clock time of training and evaluation.
        student: Name of the network.
        teacher: Name of the teaching network, or ``None``.
        commit: Of the code that trained it.
        path: Of the record.
    """

    method: str
    column: str
    seed: int
    last: float
    best: float
    seconds: float
    student: str
    teacher: str | None
    commit: str | None
    path: Path


def read_run(path: Path, *, root: Path | None = None) -> RunResult | None:
    """The result in a record, or ``None`` if the file is something else.

    Method and column are read off the path below ``root``: ``<method>/<column>/seed<k>``, as a run directory
    with ``record.json`` or as a file, or ``<method>-seed<k>.json``.

    Raises:
        RunDirectoryError: If the file cannot be read.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"cannot read {path} ({error}); restore it, or move it away") from error
    if not isinstance(record, dict) or not {"recipe", "last", "best", "student", "seed"} <= set(record):
        return None
    place = path.parent if path.name == "record.json" else path.with_suffix("")
    parts = list(place.relative_to(root or path.anchor or ".").parts) or [place.name]
    student = str(record["student"]["name"])
    seed = re.fullmatch(r"(?:(.+)-)?seed\d+", parts[-1])
    if seed:
        parts[-1:] = [seed[1]] if seed[1] else []
    alone = student.split("/")
    column = student
    if parts[-len(alone) :] == alone:
        parts = parts[: -len(alone)]
    elif seed and not seed[1] and parts:
        column = parts.pop()
    teacher = record.get("teacher")
    return RunResult(
        method="/".join(parts) or column,
        column=column,
        seed=int(record["seed"]),
        last=100 * record["last"]["top1"],
        best=100 * record["best"]["top1"],
        seconds=float(record.get("wall_time_seconds", math.nan)),
        student=student,
        teacher=teacher["name"] if teacher else None,
        commit=record.get("commit"),
        path=path,
    )


def read_runs(root: Path) -> list[RunResult]:
    """All results below a folder, such as ``runs`` or ``results``.

    Raises:
        RunDirectoryError: If there is no such folder, or no finished run in it.
    """
    if not root.is_dir():
        raise RunDirectoryError(
            f"there is no folder {root}; name one that holds runs, such as runs or results"
        )
    found = [read_run(path, root=root) for path in sorted(root.rglob("*.json"))]
    results = [result for result in found if result is not None]
    if not results:
        raise RunDirectoryError(
            f"there is no finished run below {root}; `topokd sweep FILE --status` says why"
        )
    return results


@dataclass(frozen=True)
class Spread:
    """Values of several seeds.

    Args:
        values: One per seed, in the order of the seeds.

    Example:
        >>> spread = Spread((70.0, 71.0, 72.0))
        >>> str(spread)
        '71.00 ± 1.00'
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation of a sample (n - 1 in the denominator); ``None`` for a single value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.sd is None else f"{self.mean:.2f} ± {self.sd:.2f}"


@dataclass(frozen=True)
class Difference:
    """A method minus the baseline, over the seeds that both have.

    Args:
        mean: Mean difference in percentage points.
        low: Lower end of its confidence interval; ``None`` with one seed.
        high: Upper end.
        seeds: How many differences there are.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], *, confidence: float = 0.95
) -> Difference | None:
    r"""Mean of the differences of equal seeds with its interval from Student's t distribution.

    .. math:: \bar d \pm t_{n-1} \, s_d / \sqrt{n}

    Args:
        values: By seed.
        baseline: By seed.
        confidence: Probability that the interval is meant to cover the true mean with.

    Returns:
        ``None`` if no seed is in both.

    Raises:
        ValueError: If the confidence is not between 0 and 1.

    Example:
        >>> str(paired_difference({0: 71.0, 1: 72.0}, {0: 70.0, 1: 70.0, 2: 69.0}))
        '+1.50 [-4.85, +7.85]'
    """
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, got {confidence}")
    differences = [values[seed] - baseline[seed] for seed in sorted(set(values) & set(baseline))]
    if not differences:
        return None
    mean, count = statistics.mean(differences), len(differences)
    if count == 1:
        return Difference(mean, None, None, 1)
    half = float(t.ppf((1 + confidence) / 2, count - 1)) * statistics.stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)


@dataclass(frozen=True)
class ResultsTable:
    """Methods × pairs, from what was run; what was not says so.

    Args:
        methods: Rows, in order.
        columns: Pairs or students, in order.
        baseline: The row that the others are compared with, or ``None``.
        results: Runs by method, column and seed.
        planned: How many seeds there shall be, by method and column; unknown cells count what is there.
        impossible: Why a cell cannot be filled.
    """

    methods: tuple[str, ...]
    columns: tuple[str, ...]
    baseline: str | None
    results: Mapping[tuple[str, str], Mapping[int, RunResult]]
    planned: Mapping[tuple[str, str], int] = field(default_factory=dict)
    impossible: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @classmethod
    def of_runs(cls, runs: Iterable[RunResult], *, baseline: str | None = None) -> "ResultsTable":
        """The table of all runs in a folder; a network alone stands in the column of each of its pairs.

        Args:
            runs: See :func:`read_runs`.
            baseline: A method; by default the one whose name ends in ``none``, if there is one.

        Raises:
            UnknownName: If no run has the baseline's name.
        """
        runs = list(runs)
        pairs = {run.column: (run.teacher, run.student) for run in runs if run.column != run.student}
        results: dict[tuple[str, str], dict[int, RunResult]] = {}
        for run in runs:
            role = 0 if run.method.split("/")[-1] == "teacher" else 1
            among = [column for column, networks in pairs.items() if networks[role] == run.student]
            for column in [run.column] if run.column in pairs else among or [run.column]:
                results.setdefault((run.method, column), {})[run.seed] = run
        methods = sorted({method for method, _ in results})
        columns = sorted({column for _, column in results}, key=lambda column: (column not in pairs, column))
        if baseline is None:
            baseline = next((method for method in methods if method.split("/")[-1] == "none"), None)
        if baseline is not None:
            require_name("method", baseline, methods)
            methods = [baseline, *(method for method in methods if method != baseline)]
        return cls(tuple(methods), tuple(columns), baseline, results)

    def spread(self, method: str, column: str, which: str = "last") -> Spread | None:
        """Accuracies in percent of a cell, ``last`` or ``best``; ``None`` if nothing was run."""
        runs = self.results.get((method, column), {})
        return Spread(tuple(getattr(runs[seed], which) for seed in sorted(runs))) if runs else None

    def difference(self, method: str, column: str, which: str = "last") -> Difference | None:
        """To the baseline in the same column; ``None`` for the baseline itself and where nothing compares."""
        if self.baseline in (None, method):
            return None
        values, base = (
            {seed: getattr(run, which) for seed, run in self.results.get((row, column), {}).items()}
            for row in (method, str(self.baseline))
        )
        return paired_difference(values, base)

    def markdown(self) -> str:
        """One table for each column."""
        return "\n\n".join(self._section(column) for column in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON; a cell that was not run has ``"state": "not run"``."""
        return {
            "baseline": self.baseline,
            "unit": "test accuracy in percent; differences in percentage points, 95 % confidence",
            "cells": [self._cell(method, column) for column in self.columns for method in self.methods],
        }

    def _section(self, column: str) -> str:
        head = ["method", "last epoch %", "best epoch %", "seeds"]
        head += [f"last, minus {self.baseline} [95 %]"] if self.baseline else []
        lines = [f"### {column}", "", _row(head), _row(["---"] * len(head))]
        lines += [
            _row(self._cells(method, column)) for method in self.methods if self._belongs(method, column)
        ]
        return "\n".join(lines)

    def _cells(self, method: str, column: str) -> list[str]:
        last = self.spread(method, column)
        if last is None:
            reason = self.impossible.get((method, column))
            said = "not run" if reason is None else f"does not fit: {reason}"
            return [method, said, "", f"0 of {self.planned[method, column]}" if reason is None else "", ""][
                : 5 if self.baseline else 4
            ]
        done = len(last.values)
        planned = self.planned.get((method, column), done)
        cells = [method, str(last), str(self.spread(method, column, "best"))]
        cells.append(str(done) if done >= planned else f"{done} of {planned}, rest not run")
        if self.baseline:
            difference = self.difference(method, column)
            partial = difference is not None and difference.seeds < done
            cells.append(
                "" if difference is None else f"{difference}" + f" ({difference.seeds} seeds)" * partial
            )
        return cells

    def _cell(self, method: str, column: str) -> dict[str, Any]:
        runs = self.results.get((method, column), {})
        cell: dict[str, Any] = {"method": method, "column": column, "state": "run" if runs else "not run"}
        if reason := self.impossible.get((method, column)):
            return {**cell, "state": "impossible", "reason": reason}
        cell["planned"] = self.planned.get((method, column), len(runs))
        if not runs:
            return cell
        cell["seeds"] = sorted(runs)
        for which in ("last", "best"):
            spread, difference = self.spread(method, column, which), self.difference(method, column, which)
            assert spread is not None  # there are runs
            cell[which] = {"values": list(spread.values), "mean": spread.mean, "sd": spread.sd}
            if difference is not None:
                cell[which]["difference"] = asdict(difference)
        cell["seconds"] = [round(runs[seed].seconds, 1) for seed in sorted(runs)]
        cell["commits"] = sorted({str(run.commit) for run in runs.values()})
        return cell

    def _belongs(self, method: str, column: str) -> bool:
        """Whether a row has anything to say about a column."""
        key = (method, column)
        return key in self.results or key in self.planned or key in self.impossible


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
