"""Questions asked of trained networks, and the numbers that papers report.

Does the student look like the teacher, and in what; and what do others say of the same pair.
"""

from topokd_lib.analysis.approximation import ErrorBudget, error_budget, error_table
from topokd_lib.analysis.comparison import Comparison, compare, shape_agreement
from topokd_lib.analysis.free_cloud import (
    FreeCloud,
    free_cloud,
    free_cloud_table,
    run_free_clouds,
)
from topokd_lib.analysis.reported import (
    Caution,
    Correction,
    Reported,
    ReportedColumn,
    ReportedRow,
    ReportedTable,
    Source,
    load_reported,
    markdown_table,
    read_own_runs,
)
from topokd_lib.analysis.run_comparison import RunComparison, compare_runs
from topokd_lib.analysis.runs import (
    Difference,
    ResultsTable,
    RunResult,
    Spread,
    paired_difference,
    read_run,
    read_runs,
)

__all__ = [
    "Caution",
    "Comparison",
    "Correction",
    "Difference",
    "ErrorBudget",
    "FreeCloud",
    "Reported",
    "ReportedColumn",
    "ReportedRow",
    "ReportedTable",
    "ResultsTable",
    "RunComparison",
    "RunResult",
    "Source",
    "Spread",
    "compare",
    "compare_runs",
    "error_budget",
    "error_table",
    "free_cloud",
    "free_cloud_table",
    "load_reported",
    "markdown_table",
    "paired_difference",
    "read_own_runs",
    "read_run",
    "read_runs",
    "run_free_clouds",
    "shape_agreement",
]
