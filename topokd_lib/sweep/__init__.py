"""Many runs as one thing: planned in a file, estimated, run as a queue that survives, or on a cluster."""

from topokd_lib.sweep.estimate import RunEstimate, estimate
from topokd_lib.sweep.measure import RunCost
from topokd_lib.sweep.plan import Entry, PlannedRun, Sweep
from topokd_lib.sweep.queue import RunStatus, run_sweep, status_of
from topokd_lib.sweep.results import sweep_table
from topokd_lib.sweep.slurm import run_task, slurm_script

__all__ = [
    "Entry",
    "PlannedRun",
    "RunCost",
    "RunEstimate",
    "RunStatus",
    "Sweep",
    "estimate",
    "run_sweep",
    "run_task",
    "slurm_script",
    "status_of",
    "sweep_table",
]
