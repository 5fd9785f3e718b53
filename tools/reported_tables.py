"""Write the tables of book/experiments/reported.md from results/reported.json and our records."""

from collections.abc import Sequence
from pathlib import Path

from topokd_lib.analysis import Reported, ReportedTable, load_reported, markdown_table, read_own_runs

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
PAGE = ROOT / "book" / "experiments" / "reported.md"
BEGIN, END = "% reported:begin", "% reported:end"


def page_tables(reported: Reported, results: Path = RESULTS) -> str:
    """All tables, each with its notes, its sources and our runs."""
    return "\n\n".join(_section(reported, table, results) for table in reported.tables)


def _section(reported: Reported, table: ReportedTable, results: Path) -> str:
    notes = reported.notes(table.key)
    parts = [
        f"## {table.printed_as}: {table.title}",
        f"Numbers are {table.quantity}; {table.better} is better.",
        markdown_table(table, notes=notes),
        "\n".join(f"{number}. {_about(note.rows)}{note}" for number, note in enumerate(notes, start=1)),
        _sources(reported, table),
    ]
    own = read_own_runs(table, results)
    if own:
        parts += ["Our runs, {term}`last epoch <Best epoch, last epoch>`:", markdown_table(table, own=own)]
    else:
        parts.append("Our runs: not run.")
    return "\n\n".join(parts)


def _about(rows: Sequence[str]) -> str:
    return f"**{', '.join(rows)}**: " if rows else ""


def _sources(reported: Reported, table: ReportedTable) -> str:
    """Which rows were found where."""
    rows: dict[str | None, list[str]] = {}
    for row in table.rows:
        rows.setdefault(row.source, []).append(row.name)
    nowhere = rows.pop(None, [])
    lines = []
    for key, names in rows.items():
        source = reported.sources[str(key)]
        cite = f" {{cite:p}}`{source.cite}`" if source.cite else ""
        lines.append(f"- {', '.join(names)}: {source.where}{cite}")
    if nowhere:
        lines.append(f"- {', '.join(nowhere)}: in no source that was searched")
    return "\n".join(["The same numbers were found in:", "", *lines])


def main() -> None:
    """Replace what stands between the markers."""
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{page_tables(load_reported())}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
