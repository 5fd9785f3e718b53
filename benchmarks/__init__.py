"""How fast the library is, next to what one would use otherwise: correctness first, then time.

Every file in `workloads/` is one workload: a module with `TITLE` and a function `cases(quick)`.
"""
