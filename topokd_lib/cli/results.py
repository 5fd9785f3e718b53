"""``topokd table``: what came out of finished runs."""

import json
from pathlib import Path

from topokd_lib.analysis import ResultsTable, read_runs
from topokd_lib.cli.parser import new_parser
from topokd_lib.errors import require_name
from topokd_lib.sweep import Sweep, sweep_table

__all__ = ["table"]


def table(words: list[str]) -> None:
    """Print the table of a sweep, or of all runs in folders."""
    parser = new_parser("table", "SWEEP.yaml | DIRECTORY ... [--baseline METHOD] [--json]")
    parser.add_argument(
        "places", nargs="+", help="a sweep, or folders such as runs/cifar100 or results/cifar100"
    )
    parser.add_argument("--baseline", help="what differences are taken to; else the sweep's, or `none`")
    parser.add_argument("--home", help="of the sweep; else the file's")
    parser.add_argument("--json", action="store_true", help="everything as JSON, each seed too")
    options = parser.parse_args(words)
    places = [Path(place) for place in options.places]
    if len(places) == 1 and places[0].is_file():
        sweep = Sweep.load(places[0], options.home)
        if options.baseline is not None:
            require_name("method", options.baseline, sweep.methods)
        found = sweep_table(sweep, baseline=options.baseline)
    else:
        runs = [run for place in places for run in read_runs(place)]
        found = ResultsTable.of_runs(runs, baseline=options.baseline)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if options.json else found.markdown())
