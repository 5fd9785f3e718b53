"""Questions asked of trained networks: does the student look like the teacher, and in what."""

from topokd_lib.analysis.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
