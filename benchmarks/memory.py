"""`python -m benchmarks.memory WORKLOAD CASE CONTENDER`: the peak memory of one contender.

In a process of its own: what another has allocated and freed stays with a process and would be used again.
"""

import argparse
import ctypes
import importlib
import subprocess
import sys
from pathlib import Path

__all__ = ["peak"]


def peak(workload: str, case: str, contender: str, *, quick: bool) -> float | None:
    """Extra memory at the peak in MiB; None where the system is not Linux, or the contender fails."""
    command = [sys.executable, "-m", "benchmarks.memory", workload, case, contender]
    done = subprocess.run(command + quick * ["--quick"], capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def main() -> None:
    """Print how many MiB one call takes at its peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("case")
    parser.add_argument("contender")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    cases = importlib.import_module(f"benchmarks.workloads.{options.workload}").cases(options.quick)
    case = next(case for case in cases if case.name == options.case)
    contender = next(one for one in case.contenders if one.name == options.contender)
    contender.compute(1)
    ctypes.CDLL(None).malloc_trim(0)  # give back what the first call has freed
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # from here on counts the peak
    before = _resident("VmRSS")
    contender.compute(contender.items)
    print(_resident("VmHWM") - before)


def _resident(field: str) -> float:
    """A line of the process's status, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    main()
