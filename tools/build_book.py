"""Execute every chapter, build the HTML with warnings as errors, and check what was built.

What a chapter took is printed and written to `_build/report.json`; no page shows it, so that two builds of
one state are equal (`python -m tools.compare_builds`).
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from nbclient.exceptions import DeadKernelError

from tools.book_extension import CACHES, ROOT, cache_folder

HTML = ROOT / "_build" / "html"
REPORT = ROOT / "_build" / "report.json"
SECONDS_PER_CHAPTER = 60
BYTES_PER_CHAPTER = 10**9  # of which PyTorch with CUDA takes 0.55 before the first line
# Factors that a strict build tolerates: the digits chapter takes up to 66 s and 1.07 GB on a slow machine.
SLOWER, LARGER = 1.5, 1.1
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def pages(toc: Any) -> Iterator[str]:
    """Every page named in a table of contents, in order."""
    if isinstance(toc, dict):
        for key in ("root", "file"):
            if key in toc:
                yield toc[key]
        for value in toc.values():
            yield from pages(value)
    elif isinstance(toc, list):
        for entry in toc:
            yield from pages(entry)


def chapters() -> list[Path]:
    """The notebooks of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    notebooks = (ROOT / f"{page}.ipynb" for page in pages(toc))
    return [path for path in notebooks if path.exists()]


class Cost(NamedTuple):
    """What the execution of a chapter took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def excess(self, slower: float = 1, larger: float = 1) -> str:
        """What is more than a chapter may take, in words; empty if nothing is, or not by these factors."""
        found = []
        # Both: on a busy machine the wall time is long, with several threads the CPU time is.
        if min(self.seconds, self.cpu_seconds) > slower * SECONDS_PER_CHAPTER:
            found.append(f"may take {SECONDS_PER_CHAPTER} s, took {self.seconds:.0f} s")
        if self.peak_bytes > larger * BYTES_PER_CHAPTER:
            found.append(f"may use {BYTES_PER_CHAPTER / 1e6:.0f} MB, used {self.peak_bytes / 1e6:.0f} MB")
        return "; ".join(found)

    def __str__(self) -> str:
        return f"{self.seconds:6.1f} s  ({self.cpu_seconds:5.1f} s of CPU)  {self.peak_bytes / 1e6:4.0f} MB"


class Executed(NamedTuple):
    """A chapter with its outputs, what it took, and what failed, if anything."""

    notebook: nbformat.NotebookNode
    cost: Cost
    error: str


def run_chapter(path: Path, cell_timeout: int) -> Executed:
    """Execute one notebook in its own folder and a kernel of its own.

    The peak is that of the largest child that this process ever had: call it in a fresh process.
    """
    notebook = nbformat.read(path, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = ["--IPKernelApp.log_level=40"]  # it warns of unencrypted connections within this machine
    try:
        result = single_nb_execution(
            notebook,
            str(path.parent),
            cell_timeout,
            allow_errors=False,
            extra_arguments=quiet,
            shutdown_kernel="immediate",  # PyTorch's way out reads another 115 MB of its libraries
        )
    except DeadKernelError:
        dead = "The kernel died while it ran this chapter; was the memory full?"
        return Executed(notebook, Cost(0, 0, 0), dead)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak_bytes = after.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    error = COLOUR.sub("", str(result.err)) if result.err else ""
    return Executed(notebook, Cost(result.time, cpu_seconds, peak_bytes), error)


def fresh_processes(jobs: int) -> ProcessPoolExecutor:
    """A pool whose every task has a process of its own, so that its children's memory is the task's alone."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1)


def waiting() -> list[Path]:
    """The chapters that the cache does not hold as executed and measured with the present library."""
    cache = get_cache(cache_folder())
    wanted = []
    for path in chapters():
        try:
            record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            wanted.append(path)
        else:
            if not set(Cost._fields) <= record.data.keys():  # Jupyter Book itself does not measure
                wanted.append(path)
    return wanted


def execute(wanted: list[Path], jobs: int, cell_timeout: int) -> dict[Path, str]:
    """Execute these chapters and keep their outputs in the cache; returns what failed, by chapter."""
    cache = get_cache(cache_folder())
    failed = {}
    with fresh_processes(jobs) as pool:
        running = {pool.submit(run_chapter, path, cell_timeout): path for path in wanted}
        for future in as_completed(running):
            path = running[future]
            done = future.result()
            name = path.relative_to(ROOT)
            if done.error:
                failed[path] = done.error
                print(f"  FAILED   {name}", flush=True)
            else:
                bundle = CacheBundleIn(done.notebook, str(path), data=done.cost._asdict())
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                print(f"  {done.cost}  {name}", flush=True)
    return failed


def costs() -> dict[str, Cost]:
    """What each chapter took, this time or when it was last executed."""
    cache = get_cache(cache_folder())
    taken = {}
    for path in chapters():
        name = str(path.relative_to(ROOT))
        try:
            record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            sys.exit(f"{name} or the library changed during the build; run it again.")
        taken[name] = Cost(*(record.data[field] for field in Cost._fields))
    return taken


def missing_pages() -> list[str]:
    """Pages that the table of contents names and the build did not write."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    expected = ["index.html", *(f"{page}.html" for page in pages(toc))]
    return [name for name in expected if not (HTML / name).is_file()]


def prune_caches(keep: int = 2) -> None:
    """Remove the executed chapters of earlier states of the library."""
    cache_folder().touch()
    for old in sorted(CACHES.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        shutil.rmtree(old)


def main() -> None:
    """Build the book; exit with an explanation if anything is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="chapters executed at the same time")
    parser.add_argument(
        "--strict", action="store_true", help="a chapter far over a minute or 1 GB is an error"
    )
    options = parser.parse_args()
    start = time.monotonic()
    os.chdir(ROOT)
    threads = str(max((os.cpu_count() or 1) // options.jobs, 1))
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, PYDEVD_DISABLE_FILE_VALIDATION="1")

    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    wanted = waiting()
    if wanted:
        print(f"Executing {len(wanted)} of {len(chapters())} chapters, {options.jobs} at a time", flush=True)
    failed = execute(wanted, options.jobs, config["execute"]["timeout"])
    for path, error in failed.items():
        print(f"\n{path.relative_to(ROOT)}\n{error}", file=sys.stderr)
    if failed:
        sys.exit(f"\n{len(failed)} of {len(chapters())} chapters failed; their tracebacks are above.")

    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", "-W", "-n", "--keep-going", "."]
    log = ROOT / "_build" / "book.log"
    with log.open("w", encoding="utf-8") as file:
        built = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    if built.returncode:
        lines = COLOUR.sub("", log.read_text(encoding="utf-8")).splitlines()
        telling = [line for line in lines if "WARNING" in line or "ERROR" in line] or lines[-20:]
        sys.exit("\n".join([*telling, "", f"Jupyter Book reported the above; full output: {log}"]))
    if missing := missing_pages():
        sys.exit(f"Jupyter Book ended well but wrote no {', '.join(missing)}; full output: {log}")

    prune_caches()
    taken = costs()
    for name, cost in taken.items():
        print(f"  {cost}  {name}")
    seconds = time.monotonic() - start
    report = {
        "jobs": options.jobs,
        "cores": os.cpu_count(),
        "seconds": seconds,
        "executed": len(wanted),
        "chapters": {name: cost._asdict() for name, cost in taken.items()},
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    total = sum(cost.seconds for cost in taken.values())
    print(f"{len(taken)} chapters take {total:.0f} s; this run took {seconds:.0f} s.")
    print(f"\n  The book: {HTML / 'index.html'}\n  To read it in a browser: make serve\n")
    for name, cost in taken.items():
        if excess := cost.excess():
            print(f"{name} {excess}")
    far = [f"{name} {excess}" for name, cost in taken.items() if (excess := cost.excess(SLOWER, LARGER))]
    if far and options.strict:
        sys.exit("\n".join(["Far over what a chapter may take:", *far]))


if __name__ == "__main__":
    main()
