"""Build the book twice, cold and in two folders, and compare the HTML byte by byte.

Both builds are of this working tree as it stands. A page may hold nothing that differs from one build to
the next: no time, no date, no path of this machine, no order that hashing decides. Those that do are named.
"""

import argparse
import filecmp
import os
import subprocess
import sys
import tempfile
from itertools import zip_longest
from pathlib import Path

from tools.prove_colab import snapshot


def files(folder: Path) -> set[Path]:
    """Every file below a folder, relative to it."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two trees, a line for each file, with the first differing line of its text."""
    one, two = files(first), files(second)
    lines = [f"{name}: only in one of the builds" for name in sorted(one ^ two)]
    for name in sorted(one & two):
        if not filecmp.cmp(first / name, second / name, shallow=False):
            texts = ((tree / name).read_text(encoding="utf-8", errors="replace") for tree in (first, second))
            pairs = zip_longest(*(text.splitlines() for text in texts), fillvalue="")
            unequal = ((number, a, b) for number, (a, b) in enumerate(pairs, 1) if a != b)
            lines.append(
                str(name) + next((_shown(*line) for line in unequal), ": the same lines, other bytes")
            )
    return lines


def _shown(number: int, first: str, second: str) -> str:
    return f", line {number}:\n  - {first.strip()[:120]}\n  + {second.strip()[:120]}"


def build(folder: Path, jobs: int) -> Path:
    """The HTML of a cold build of this tree in another folder."""
    snapshot(folder)
    command = [sys.executable, "-m", "tools.build_book", "--jobs", str(jobs)]
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, check=True)
    return folder / "_build" / "html"


def main() -> None:
    """Build, build, compare; exit with 1 and the differences if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="chapters executed at the same time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="topokd-builds-") as name:
        first, second = (build(Path(name) / which, options.jobs) for which in ("first", "second"))
        found = differences(first, second)
        print("\n".join(found) or f"Two clean builds are equal in all of their {len(files(first))} files.")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
