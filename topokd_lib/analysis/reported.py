"""Numbers that papers report, with where each was found, what is misprinted, and what to beware of.

They lie in ``results/reported.json``, whose fields are those of the classes below; ``results/README.md``
explains them. A table shows either reported numbers or our own, never both.
"""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from topokd_lib.errors import require_name

__all__ = [
    "Caution",
    "Correction",
    "Reported",
    "ReportedColumn",
    "ReportedRow",
    "ReportedTable",
    "Source",
    "load_reported",
    "markdown_table",
    "read_own_runs",
]

REPORTED = Path(__file__).parents[2] / "results" / "reported.json"
ELSEWHERE = "torchvision/"
"""What names of models begin with and names of pairs leave out."""

MEASURES = {"top-1": "top1", "top-5": "top5"}
"""How records call what columns show."""

OwnRuns = Mapping[tuple[str, int], Sequence[float]]


@dataclass(frozen=True)
class Source:
    """Where numbers were found besides the tables.

    Args:
        where: Repository and file.
        cite: Key in the bibliography.
    """

    where: str
    cite: str | None = None


@dataclass(frozen=True)
class ReportedColumn:
    """What the numbers of a column are measured on; networks have the names of the library."""

    teacher: str
    student: str
    measure: str

    @property
    def pair(self) -> str:
        """Teacher and student, named as ``topokd train --pair`` does."""
        return f"{self.teacher.removeprefix(ELSEWHERE)}-{self.student.removeprefix(ELSEWHERE)}"


@dataclass(frozen=True)
class ReportedRow:
    """One method, or a network without one.

    Args:
        name: Unique in the table.
        values: One per column, in the units of the table; ``None`` where none is reported.
        source: Where else they were found, a key of :attr:`Reported.sources`; ``None`` for nowhere else.
        cite: Key of the method's paper in the bibliography; ``None`` for a row that is no method.
        group: What the method transfers.
        recipe: Name of the library's recipe for it, if there is one.
    """

    name: str
    values: tuple[float | None, ...]
    source: str | None = None
    cite: str | None = None
    group: str | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class Correction:
    """Something that is printed otherwise than here; ``rows`` is empty if the whole table is meant."""

    tables: tuple[str, ...]
    rows: tuple[str, ...]
    printed: str
    ours: str
    reason: str

    def __str__(self) -> str:
        return f"Printed: {self.printed}. Here: {self.ours}. {self.reason}"


@dataclass(frozen=True)
class Caution:
    """Something to know about numbers that stand here as printed."""

    tables: tuple[str, ...]
    rows: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class ReportedTable:
    """A table as a paper prints it, corrected.

    Args:
        key: Its name here.
        printed_as: Its name there.
        title: What it compares.
        quantity: What the numbers are, with their unit.
        better: Whether higher or lower numbers are better.
        decimals: How many are printed.
        baseline: The row that the others are compared with; ``None`` if there is none.
        columns: What is measured.
        rows: In the order in which they are printed.
    """

    key: str
    printed_as: str
    title: str
    quantity: str
    better: Literal["higher", "lower"]
    decimals: int
    baseline: str | None
    columns: tuple[ReportedColumn, ...]
    rows: tuple[ReportedRow, ...]

    def row(self, name: str) -> ReportedRow:
        """The row of that name.

        Raises:
            UnknownName: If there is none.
        """
        require_name(f"row of {self.key}", name, [row.name for row in self.rows])
        return next(row for row in self.rows if row.name == name)

    def mark(self, name: str, column: int) -> str:
        """``"▲"`` for better than the baseline in the same column, ``"▼"`` for worse, ``"="`` for equal.

        Empty for the baseline itself, for rows that are no method, and where a number is missing.

        Example:
            >>> table = load_reported().table("cifar100-alike")
            >>> table.row("FitNet").values[3], table.row("KD").values[3], table.mark("FitNet", 3)
            (73.5, 73.33, '▲')
        """
        row = self.row(name)
        if self.baseline in (None, name) or row.cite is None:
            return ""
        value, compared = row.values[column], self.row(str(self.baseline)).values[column]
        if value is None or compared is None:
            return ""
        if value == compared:
            return "="
        return "▲" if (value > compared) == (self.better == "higher") else "▼"

    def ordered(self) -> tuple[ReportedRow, ...]:
        """Networks first, then the baseline, then the other methods as printed."""
        return tuple(sorted(self.rows, key=lambda row: (row.cite is not None, row.name != self.baseline)))


@dataclass(frozen=True)
class Reported:
    """Everything that ``results/reported.json`` holds.

    Args:
        origin: Where the tables were copied from.
        sources: Where else their numbers were found.
        tables: The tables, corrected.
        corrections: What is printed otherwise.
        cautions: What is as printed and needs a remark.
    """

    origin: str
    sources: Mapping[str, Source]
    tables: tuple[ReportedTable, ...]
    corrections: tuple[Correction, ...]
    cautions: tuple[Caution, ...]

    def table(self, key: str) -> ReportedTable:
        """The table of that key.

        Raises:
            UnknownName: If there is none.
        """
        require_name("reported table", key, [table.key for table in self.tables])
        return next(table for table in self.tables if table.key == key)

    def notes(self, key: str) -> tuple[Correction | Caution, ...]:
        """What there is to say about a table, corrections first."""
        notes: tuple[Correction | Caution, ...] = (*self.corrections, *self.cautions)
        return tuple(note for note in notes if key in note.tables)


def load_reported(path: Path = REPORTED) -> Reported:
    """Read the reported numbers and check that they fit together.

    Raises:
        FileNotFoundError: If there is no such file; the library alone, without the repository, has none.
        ValueError: If a field is missing or unknown, a row has not one value per column, or a name
            refers to nothing.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there are no reported numbers at {path}; they come with the repository, not with the "
            f"installed library: give load_reported the path of its results/reported.json"
        )
    try:
        reported = _build(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not the fields of topokd_lib.analysis.reported: {error!r}") from error
    complaints = _complaints(reported)
    if complaints:
        raise ValueError(f"{path}: {'; '.join(complaints)}")
    return reported


def read_own_runs(table: ReportedTable, results: Path) -> dict[tuple[str, int], list[float]]:
    """Our accuracies after the last epoch, in percent, by row and column of a table.

    Args:
        table: Says which recipes and which networks.
        results: The folder of records: ``<recipe>/<pair>/seed<k>.json``, and the network's name instead of
            the pair for the rows ``teacher`` and ``student``.
    """
    found = {}
    for row in table.rows:
        for index, column in enumerate(table.columns):
            if row.recipe is None or column.measure not in MEASURES:
                continue
            alone = {"teacher": column.teacher, "student": column.student}
            records = sorted((results / row.recipe / alone.get(row.name, column.pair)).glob("seed*.json"))
            if records:
                texts = (record.read_text(encoding="utf-8") for record in records)
                found[row.name, index] = [
                    100 * json.loads(text)["last"][MEASURES[column.measure]] for text in texts
                ]
    return found


def markdown_table(
    table: ReportedTable, *, own: OwnRuns | None = None, notes: Sequence[Correction | Caution] = ()
) -> str:
    """A table in MyST Markdown: networks, then the baseline, then the methods.

    Args:
        table: What to show.
        own: ``None`` shows the reported numbers, with marks against the baseline. Else these runs are shown
            and nothing else: mean ± standard deviation (number of runs), and "not run" where there is none.
        notes: Numbered from 1; a row that one of them is about bears its number.

    Raises:
        ValueError: If ``own`` is given and the library has no recipe for any row.

    Example:
        >>> table = load_reported().table("imagenet-mobilenetv2")
        >>> print(markdown_table(table))
        | | top-1 | top-5 |
        | --- | --- | --- |
        | teacher | 76.16 | 92.86 |
        | student | 66.20 | 85.80 |
        | TopKD {cite:p}`kim2024topkd` | 76.80 | 92.80 |
    """
    rows = table.ordered()
    if own is not None:
        rows = tuple(row for row in rows if row.recipe is not None)
        if not rows:
            raise ValueError(f"no runs to show: the library has no recipe for any row of {table.key}")
    grouped = any(row.group for row in rows)
    head = ["", *(["transfers"] if grouped else []), *_headings(table)]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        numbers = [str(k) for k, note in enumerate(notes, start=1) if row.name in note.rows]
        label = row.name + (f" {{cite:p}}`{row.cite}`" if row.cite else "")
        label += f" {{sup}}`{', '.join(numbers)}`" if numbers else ""
        cells = [
            _cell(table, row, k) if own is None else _own_cell(own.get((row.name, k), ()), table.decimals)
            for k in range(len(table.columns))
        ]
        lines.append([label, *([row.group or ""] if grouped else []), *cells])
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def _headings(table: ReportedTable) -> list[str]:
    if len({column.pair for column in table.columns}) == 1:
        return [column.measure for column in table.columns]
    return [f"{column.teacher}<br>→\N{NO-BREAK SPACE}{column.student}" for column in table.columns]


def _cell(table: ReportedTable, row: ReportedRow, column: int) -> str:
    value = row.values[column]
    if value is None:
        return "–"
    return f"{value:.{table.decimals}f}\N{NO-BREAK SPACE}{table.mark(row.name, column)}".rstrip()


def _own_cell(runs: Sequence[float], decimals: int) -> str:
    if not runs:
        return "not run"
    spread = f" ± {statistics.stdev(runs):.{decimals}f}" if len(runs) > 1 else ""
    return f"{statistics.mean(runs):.{decimals}f}{spread} ({len(runs)})"


def _build(content: dict[str, Any]) -> Reported:
    def note(about: dict[str, Any]) -> dict[str, Any]:
        return {**about, "tables": tuple(about["tables"]), "rows": tuple(about["rows"])}

    tables = []
    for about in content["tables"]:
        columns = tuple(ReportedColumn(**column) for column in about["columns"])
        rows = tuple(ReportedRow(**{**row, "values": tuple(row["values"])}) for row in about["rows"])
        tables.append(ReportedTable(**{**about, "columns": columns, "rows": rows}))
    return Reported(
        origin=content["origin"],
        sources={key: Source(**source) for key, source in content["sources"].items()},
        tables=tuple(tables),
        corrections=tuple(Correction(**note(about)) for about in content["corrections"]),
        cautions=tuple(Caution(**note(about)) for about in content["cautions"]),
    )


def _complaints(reported: Reported) -> list[str]:
    """What does not fit together."""
    found = []
    rows: dict[str, list[str]] = {}
    for table in reported.tables:
        names = rows.setdefault(table.key, [])
        names += [row.name for row in table.rows]
        found += [f"{table.key} has {name!r} twice" for name, times in Counter(names).items() if times > 1]
        if table.baseline is not None and table.baseline not in names:
            found.append(f"{table.key} has no row {table.baseline!r}, its baseline")
        for row in table.rows:
            if len(row.values) != len(table.columns):
                found.append(
                    f"{table.key}, {row.name}: {len(row.values)} values for {len(table.columns)} columns"
                )
            if row.source is not None and row.source not in reported.sources:
                found.append(f"{table.key}, {row.name}: there is no source {row.source!r}")
    notes: tuple[Correction | Caution, ...] = (*reported.corrections, *reported.cautions)
    for note in notes:
        for key in note.tables:
            missing = set(note.rows) - set(rows.get(key, ()))
            if key not in rows:
                found.append(f"a note is about {key!r}, which is no table")
            elif missing:
                found.append(f"a note is about {', '.join(sorted(missing))}, no row of {key}")
    return found
