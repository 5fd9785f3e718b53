"""Record what the last `make book` measured, and write the colophon's table from the record.

`python -m tools.book_costs` after a build from a cold cache (`make clean book`); with `--table` only the
table is written anew. The record lies in `results`, on which chapters may depend: the next build is cold.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tools.build_book import REPORT, ROOT
from topokd_lib.training.run import provenance

RECORD = ROOT / "results" / "book.json"
COLOPHON = ROOT / "book" / "colophon.md"
BEGIN, END = "% costs:begin", "% costs:end"


def take_over() -> None:
    """Keep the report of the last build, with where and with what it ran."""
    if not REPORT.is_file():
        raise SystemExit("There is no report of a build: run `make clean book` first.")
    report = json.loads(REPORT.read_text(encoding="utf-8"))
    if report["executed"] != len(report["chapters"]):
        raise SystemExit(
            f"The last build executed {report['executed']} of {len(report['chapters'])} chapters and kept "
            "the others; run `make clean book`, so that all are measured in one build."
        )
    record = {"command": f"make clean book JOBS={report['jobs']}", **provenance(), **report}
    RECORD.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def table(record: dict[str, Any]) -> str:
    """The colophon's table and the sentence that says what was measured."""
    lines = ["| Chapter | CPU, s | memory, MB |", "| --- | ---: | ---: |"]
    for name, cost in record["chapters"].items():
        link = Path(name).relative_to("book")
        lines.append(f"| []({link}) | {cost['cpu_seconds']:.0f} | {cost['peak_bytes'] / 1e6:.0f} |")
    source = (
        f"Measured with `{record['command']}`, {record['jobs']} chapters at a time on {record['cores']} "
        f"cores ({record['hardware']['cpu']}), commit `{record['commit'][:7]}`; the whole build took "
        f"{record['seconds']:.0f} s. The seconds are those of the processor, "
        "since other work ran on the machine. Memory is the peak of the chapter's process."
    )
    return "\n".join([*lines, "", source])


def main() -> None:
    """Record unless asked for the table alone, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true", help="only write the table anew, from the record")
    if not parser.parse_args().table:
        take_over()
    text = COLOPHON.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    shown = table(json.loads(RECORD.read_text(encoding="utf-8")))
    COLOPHON.write_text(f"{before}{BEGIN}\n\n{shown}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
