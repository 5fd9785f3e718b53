"""`python -m benchmarks`: every workload, or those named with --only."""

import argparse
import importlib
import json
import math
import os
import pkgutil
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the import reads the number of threads, which `main` sets first
    from benchmarks.measure import Case, Timing

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PACKAGES = (
    *("topokd-lib", "torch", "numpy", "scipy", "scikit-learn", "gudhi", "numba", "giotto-ph"),
    *("ripser", "persim", "cripser", "POT", "torchdistill"),
)


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def surroundings(threads: int) -> dict[str, Any]:
    """Where and with what the numbers were measured."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }


def installed(name: str) -> str | None:
    """The version of a package; one that some workload can do without may be absent."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def row(timing: "Timing", ours: "Timing") -> str:
    """One line of the table."""
    if timing.missing:
        return f"  {timing.name:40} {timing.missing}"
    if not timing.agrees:
        return f"  {timing.name:40} DISAGREES by {timing.difference:.1e}; not timed"
    ratio = f"{timing.median / ours.median:6.2f} ×" if ours.agrees else " " * 8
    busy = "  (busy machine)" if timing.slowdown > 1.3 else ""
    known = not math.isnan(timing.spread)  # fewer than four rounds have none
    spread = f"± {timing.spread:4.0%}" if known else f"{len(timing.cpu)} rounds"
    agreement = "something else" if timing.difference is None else f"differs by {timing.difference:.0e}"
    low = f"  BELOW its floor of {timing.floor:g}" if timing.below_floor(ours) else ""
    memory = "" if timing.peak is None else f"   {timing.peak:6.1f} MiB"
    return f"  {timing.name:40}{timing.median:9.4f} ms {ratio}   {spread}   {agreement}{memory}{busy}{low}"


def chosen(case: "Case", engines: Sequence[str]) -> "Case":
    """The contenders whose names contain one of the words, with the reference and ours."""
    first, *others, ours = case.contenders
    kept = [one for one in others if any(word.lower() in one.name.lower() for word in engines)]
    return replace(case, contenders=(first, *kept, ours))


def main() -> None:
    """Run the workloads and print tables; exit with 1 if a contender disagrees or comes too near to ours."""
    parser = argparse.ArgumentParser(description="Time the library next to what one would use otherwise.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="the sizes that matter most, in three minutes")
    size.add_argument("--full", action="store_true", help="all sizes (the default)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="workloads to run")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds for all of it")
    parser.add_argument("--rounds", type=int, default=11, help="samples of each contender")
    parser.add_argument("--engines", nargs="+", metavar="WORD", help="contenders whose names contain a word")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for every contender (default 1)")
    parser.add_argument("--memory", action="store_true", help="peak memory, too (Linux; takes minutes)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every sample there")
    options = parser.parse_args()
    budget = options.budget or (120 if options.quick else 600)

    # Read when the libraries are imported, so before the workloads are.
    os.environ.update(dict.fromkeys(THREADS, str(options.threads)))
    from benchmarks import workloads
    from benchmarks.measure import run_case
    from benchmarks.memory import peak

    known = [module.name for module in pkgutil.iter_modules(workloads.__path__)]
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"there is no workload {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    modules = [importlib.import_module(f"benchmarks.workloads.{name}") for name in options.only or known]

    import torch

    torch.set_num_threads(options.threads)
    record = {
        "measured": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "surroundings": surroundings(options.threads),
        "cases": [],
    }
    print(f"{cpu_model()}, {options.threads} thread(s); median CPU time per item, ratio to ours")
    todo = [(module, case) for module in modules for case in module.cases(options.quick)]
    failed = False
    for module, whole in todo:
        case = chosen(whole, options.engines) if options.engines else whole
        timings = run_case(case, seconds=budget / len(todo), rounds=options.rounds)
        for timing in timings if options.memory else ():
            workload = module.__name__.rpartition(".")[2]
            timing.peak = peak(workload, case.name, timing.name, quick=options.quick) if timing.cpu else None
        ours = timings[-1]
        failed |= any(
            not timing.missing and (not timing.agrees or timing.below_floor(ours)) for timing in timings
        )
        print(f"\n{module.TITLE}: {case.name}", flush=True)
        for timing in timings:
            print(row(timing, ours), flush=True)
        contenders = [vars(timing) for timing in timings]
        record["cases"].append({"workload": module.__name__, "case": case.name, "contenders": contenders})
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"\nEvery sample: {options.json}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
