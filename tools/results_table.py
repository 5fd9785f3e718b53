"""Take over the records of a finished `topokd demo`, and write the README's table from the records.

`python -m tools.results_table runs/demo` copies; without an argument only the table is written anew.
"""

import argparse
import json
import shutil
import statistics
from pathlib import Path

from topokd_lib.demo import METHODS, Outcome

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "digits"
README = ROOT / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def take_over(demo: Path) -> None:
    """Copy the record of every run, and the comparison with the teacher."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    for record in demo.glob("**/record.json"):
        name = "-".join(record.relative_to(demo).parent.parts)
        shutil.copyfile(record, RECORDS / f"{name}.json")
    shutil.copyfile(demo / "summary.json", RECORDS / "likeness.json")


def table() -> str:
    """The README's table: mean ± standard deviation over the recorded seeds."""
    outcomes = [Outcome(**row) for row in json.loads((RECORDS / "likeness.json").read_text(encoding="utf-8"))]
    lines = [
        "| student | test accuracy % | image distance ×10³ | scaled H0 distance ×10³ |",
        "| --- | --- | --- | --- |",
    ]
    for method, title in METHODS.items():
        chosen = [outcome for outcome in outcomes if outcome.method == method]
        for outcome in chosen:
            record = json.loads((RECORDS / f"{method}-seed{outcome.seed}.json").read_text(encoding="utf-8"))
            if record["last"]["top1"] != outcome.accuracy:
                raise SystemExit(f"{method}, seed {outcome.seed}: likeness.json and the record disagree")
        columns = (
            [100 * outcome.accuracy for outcome in chosen],
            [1000 * outcome.image_distance for outcome in chosen],
            [1000 * outcome.death_distance for outcome in chosen],
        )
        cells = [f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" for values in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def seeds() -> int:
    """How many students of every method were recorded."""
    return len(list(RECORDS.glob("none-seed*.json")))


def main() -> None:
    """Copy if asked to, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, nargs="?", help="directory of a finished demo")
    options = parser.parse_args()
    if options.demo is not None:
        take_over(options.demo)
    text = README.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
