"""``topokd demo``."""

from contextlib import closing
from pathlib import Path

from topokd_lib.cli.parser import Stages, new_parser
from topokd_lib.demo import run_demo

__all__ = ["demo"]


def demo(words: list[str]) -> None:
    """Run the main experiment in small."""
    parser = new_parser("demo", "[--out DIRECTORY] [--seeds N]")
    parser.add_argument("--out", default="runs/demo", help="where everything is written")
    parser.add_argument("--seeds", type=int, default=5, help="students of every method, at least 2")
    options = parser.parse_args(words)
    with closing(Stages()) as stages:
        run_demo(Path(options.out), seeds=options.seeds, progress=stages.show)
