"""Execute every chapter, build the HTML with warnings as errors, and check what was built."""

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
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
SECONDS_PER_CHAPTER = 60
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


class Executed(NamedTuple):
    """A chapter with its outputs, what it took, and what failed, if anything."""

    notebook: nbformat.NotebookNode
    seconds: float
    cpu_seconds: float
    error: str


def run_chapter(path: Path, cell_timeout: int) -> Executed:
    """Execute one notebook in its own folder and a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = ["--IPKernelApp.log_level=40"]  # it warns of unencrypted connections within this machine
    try:
        result = single_nb_execution(
            notebook, str(path.parent), cell_timeout, allow_errors=False, extra_arguments=quiet
        )
    except DeadKernelError:
        return Executed(notebook, 0, 0, "The kernel died while it ran this chapter; was the memory full?")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    error = COLOUR.sub("", str(result.err)) if result.err else ""
    return Executed(notebook, result.time, cpu_seconds, error)


def execute(jobs: int, cell_timeout: int) -> dict[Path, str]:
    """Execute the chapters that the cache does not hold; returns what failed, by chapter."""
    cache = get_cache(cache_folder())
    wanted = []
    for path in chapters():
        try:
            cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            wanted.append(path)
    if not wanted:
        return {}
    print(f"Executing {len(wanted)} of {len(chapters())} chapters, {jobs} at a time", flush=True)
    failed = {}
    with ProcessPoolExecutor(jobs) as pool:
        running = {pool.submit(run_chapter, path, cell_timeout): path for path in wanted}
        for future in as_completed(running):
            path = running[future]
            done = future.result()
            name = path.relative_to(ROOT)
            if done.error:
                failed[path] = done.error
                print(f"  FAILED   {name}", flush=True)
            else:
                taken = {"execution_seconds": done.seconds, "cpu_seconds": done.cpu_seconds}
                bundle = CacheBundleIn(done.notebook, str(path), data=taken)
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
                print(f"  {done.seconds:6.1f} s  {name}", flush=True)
    return failed


def execution_seconds() -> dict[Path, tuple[float, float]]:
    """Wall and CPU seconds of each chapter, this time or when it was last executed."""
    cache = get_cache(cache_folder())
    seconds = {}
    for path in chapters():
        try:
            record = cache.match_cache_notebook(nbformat.read(path, as_version=4))
        except KeyError:
            sys.exit(f"{path.relative_to(ROOT)} or the library changed during the build; run it again.")
        wall = float(record.data["execution_seconds"])
        seconds[path] = wall, float(record.data.get("cpu_seconds", wall))
    return seconds


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
    parser.add_argument("--strict", action="store_true", help="a chapter slower than a minute is an error")
    options = parser.parse_args()
    start = time.monotonic()
    os.chdir(ROOT)
    threads = str(max((os.cpu_count() or 1) // options.jobs, 1))
    os.environ.update(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, PYDEVD_DISABLE_FILE_VALIDATION="1")

    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    failed = execute(options.jobs, config["execute"]["timeout"])
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
    seconds = execution_seconds()
    for path, (wall, cpu) in seconds.items():
        print(f"  {wall:6.1f} s  ({cpu:.1f} s of CPU)  {path.relative_to(ROOT)}")
    # Both: on a busy machine the wall time is long, with several threads the CPU time is.
    slow = [path for path, taken in seconds.items() if min(taken) > SECONDS_PER_CHAPTER]
    total = sum(wall for wall, _ in seconds.values())
    print(f"{len(seconds)} chapters take {total:.0f} s; this run took {time.monotonic() - start:.0f} s.")
    print(f"\n  The book: {HTML / 'index.html'}\n  To read it in a browser: make serve\n")
    if slow and options.strict:
        names = ", ".join(str(path.relative_to(ROOT)) for path in slow)
        sys.exit(f"A chapter may take {SECONDS_PER_CHAPTER} s; these took longer: {names}")


if __name__ == "__main__":
    main()
