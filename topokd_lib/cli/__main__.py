"""``python -m topokd_lib.cli`` is ``topokd``, also where scripts are not installed."""

import sys

from topokd_lib.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
