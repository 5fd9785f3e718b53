"""``topokd table``, ``plot`` and ``compare``: what came out of finished runs."""

import json
import statistics
from pathlib import Path

from topokd_lib.analysis import ResultsTable, compare_runs, read_runs
from topokd_lib.cli.parser import new_parser
from topokd_lib.errors import RecipeError, RunDirectoryError, require_name
from topokd_lib.sweep import Sweep, sweep_table

__all__ = ["compare", "plot", "table"]


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
    found = _table(options.places, options.home, options.baseline)
    print(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if options.json else found.markdown())


def plot(words: list[str]) -> None:
    """Draw the curves of runs, or accuracy over cost of the methods of a sweep."""
    from topokd_lib.plotting.runs import plot_curves, plot_pareto

    parser = new_parser("plot", "curves RUN ... | cost SWEEP.yaml | cost DIRECTORY ... [--out FILE]")
    parser.add_argument("kind", choices=["curves", "cost"], help="accuracy over epochs, or over time")
    parser.add_argument("places", nargs="+", help="run directories, or a sweep or folders of runs")
    parser.add_argument("--out", default="plot.svg", help="the ending chooses the format: .svg, .png, .pdf")
    parser.add_argument("--home", help="of the sweep; else the file's")
    options = parser.parse_args(words)
    if options.kind == "curves":
        figure = plot_curves({place: _curve(Path(place)) for place in options.places})
    else:
        found = _table(options.places, options.home, None)
        several = len(found.columns) > 1
        figure = plot_pareto(
            {
                f"{method}, {column}" if several else method: (
                    statistics.mean(run.seconds / 60 for run in runs.values()),
                    statistics.mean(run.last for run in runs.values()),
                )
                for (method, column), runs in found.results.items()
            },
            cost="minutes of training, mean over seeds",
            value="test accuracy after the last epoch, %",
        )
    try:
        figure.savefig(options.out, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot draw {options.out} ({error}); choose another place or format") from error
    print(options.out)


def compare(words: list[str]) -> None:
    """Print how two runs differ: recipes, curves, and test images."""
    parser = new_parser("compare", "RUN RUN")
    parser.add_argument("first", help="a finished run directory")
    parser.add_argument("second", help="another, trained on the same data")
    options = parser.parse_args(words)
    found = compare_runs(Path(options.first), Path(options.second))
    print("\n".join(found.recipes) or "The recipes are equal.")
    print("\n| epoch | first % | second % |\n| --- | --- | --- |")
    for epoch, *accuracies in found.curves:
        cells = ["" if accuracy is None else f"{accuracy:.2f}" for accuracy in accuracies]
        print(f"| {epoch} | {' | '.join(cells)} |")
    print(
        f"\nOf {found.images} test images both classify {found.both} correctly, only the first "
        f"{found.first}, only the second {found.second}, neither {found.neither}.\n"
        f"They agree on {found.same / found.images:.2%}. Exact McNemar test: p = {found.p_value:.3g}"
    )


def _table(places: list[str], home: str | None, baseline: str | None) -> ResultsTable:
    """Of a sweep's file, or of folders."""
    if len(places) == 1 and Path(places[0]).is_file():
        sweep = Sweep.load(places[0], home)
        if baseline is not None:
            require_name("method", baseline, sweep.methods)
        return sweep_table(sweep, baseline=baseline)
    runs = [run for place in places for run in read_runs(Path(place))]
    return ResultsTable.of_runs(runs, baseline=baseline)


def _curve(run: Path) -> list[float]:
    """Test accuracies in percent after each epoch that a run has logged; it need not be finished."""
    try:
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"cannot read the log of {run} ({error}); give directories that `topokd train` printed"
        ) from error
    found = [100 * line["test"]["top1"] for line in lines if line["test"]]
    if not found:
        raise RunDirectoryError(f"{run} has not finished an epoch yet")
    return found
