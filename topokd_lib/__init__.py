"""Topological knowledge distillation: the library behind the book.

Sub-packages are imported where they are used, so that ``import topokd_lib`` stays instant.
"""

__version__ = "0.1.0"
