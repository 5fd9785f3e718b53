"""What the first cell of every chapter calls, so that all chapters look alike and repeat exactly."""

import inspect
import os
import random
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from topokd_lib.plotting.style import use_house_style

if TYPE_CHECKING:
    from IPython.display import Markdown

__all__ = ["glue", "init", "source"]


def init(seed: int = 0) -> None:
    """Prepare a chapter: house style, sharp figures, readable numbers, and results that repeat.

    It seeds ``random``, numpy and PyTorch, uses two threads on every machine because the order of additions
    depends on their number, and asks PyTorch for deterministic algorithms; where an operation has none,
    PyTorch warns. In a notebook, figures become vector graphics without a date. No warning is silenced.

    Args:
        seed: Of all three random number generators.
    """
    use_house_style()
    _draw_inline_as_svg()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (chapters may use libraries that draw from the global generator)
    torch.manual_seed(seed)
    torch.set_num_threads(2)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, cuBLAS is not deterministic
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms also loads the compiler, 150 MB
    torch.set_printoptions(precision=4, sci_mode=False, linewidth=72)
    options: dict[str, Any] = {"precision": 4, "suppress": True, "linewidth": 72}
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        options["legacy"] = "1.25"  # a number prints as 0.5, not as np.float64(0.5)
    np.set_printoptions(**options)


def glue(**values: object) -> None:
    """Hand results of a cell to the prose, where ``{glue:text}`name:.2f``` shows them.

    Only the book's own environment has prose to put them in; elsewhere, as in Colab, nothing happens.
    """
    try:
        from myst_nb import glue as hand_over  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return
    for name, value in values.items():
        hand_over(name, value, display=False)


def source(thing: object) -> "Markdown":
    """The source of a function, class or module of the library, highlighted, for the last line of a cell.

    Markdown follows the light and dark colours of the page, in the book and in Colab.

    Raises:
        TypeError: If it has no Python source.
    """
    from IPython.display import Markdown

    try:
        text = inspect.getsource(thing)  # type: ignore[arg-type]
    except (TypeError, OSError) as error:
        raise TypeError(
            f"only functions, classes and modules written in Python have a source to show, got {thing!r}"
        ) from error
    return Markdown(f"````python\n{text.rstrip()}\n````")  # type: ignore[no-untyped-call]


def _draw_inline_as_svg() -> None:
    """In a notebook: figures as SVG without a date. Elsewhere: nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", metadata={"Date": None})  # type: ignore[no-untyped-call]
