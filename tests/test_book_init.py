import os
import random
import subprocess
import sys

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from topokd_lib import book
from topokd_lib.data import load_digits
from topokd_lib.plotting.style import HOUSE_STYLE


@pytest.fixture
def undone(monkeypatch):
    """``init`` changes the whole process; put everything back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", os.environ.get("CUBLAS_WORKSPACE_CONFIG", ":4096:8"))
    threads, printing = torch.get_num_threads(), np.get_printoptions()
    with mpl.rc_context():
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)  # noqa: FBT003
    torch.set_printoptions(profile="default")
    np.set_printoptions(**printing)


def test_the_same_seed_gives_the_same_numbers(undone):
    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    book.init()
    first = draw()
    book.init(0)
    assert draw() == first
    book.init(1)
    assert not set(draw()) & set(first)


def test_it_sets_style_threads_determinism_and_printing(undone):
    assert book.init() is None
    assert mpl.rcParams["svg.hashsalt"] == HOUSE_STYLE["svg.hashsalt"] == "topokd"
    assert mpl.rcParams["figure.facecolor"] == "none"
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert repr(torch.tensor([1 / 3, 1e-3])) == "tensor([0.3333, 0.0010])"
    assert str(np.array([1 / 3, 1e-3])) == "[0.3333 0.001 ]"
    assert repr(np.float64(0.5)) == "0.5"


def test_it_works_outside_notebooks():
    code = (
        "import sys; from topokd_lib import book; book.init();"
        "sys.exit('IPython' in sys.modules or 'sklearn' in sys.modules or 'torchvision' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


CHAPTER = [
    "from topokd_lib import book\n\nbook.init()",
    "import matplotlib.pyplot as plt\nimport torch\n\nplt.plot(torch.rand(9));",
    "book.init()  # again, now that the backend has started\nplt.plot([0, 1], [1, 0]);",
    "book.source(book.init)",
]


def run(cells):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    return [cell.outputs for cell in NotebookClient(notebook, timeout=120).execute().cells]


def test_in_a_notebook_figures_are_svg_and_two_builds_are_equal():
    first, second = run(CHAPTER), run(CHAPTER)
    assert first[0] == []
    for ours, again in zip(first[1:3], second[1:3], strict=True):
        (figure,) = [output for output in ours if output.output_type == "display_data"]
        assert "image/png" not in figure.data
        svg = figure.data["image/svg+xml"]
        assert "dc:date" not in svg
        assert "fill: #ffffff" not in svg
        assert ours == again
    (shown,) = first[3]
    assert "book.init" not in shown.data["text/markdown"]
    assert "def init(seed: int = 0)" in shown.data["text/markdown"]


def test_glue_hands_numbers_to_the_prose():
    pytest.importorskip("myst_nb", reason="only the book's environment has prose to put numbers in")
    ((accuracy, loss),) = run(["from topokd_lib import book\n\nbook.glue(accuracy=0.75, loss=2)"])
    assert accuracy.data["application/papermill.record/text/plain"] == "0.75"
    assert accuracy.metadata["scrapbook"]["name"] == "accuracy"
    assert loss.metadata["scrapbook"]["name"] == "loss"


def test_glue_does_nothing_where_there_is_no_book(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "myst_nb", None)  # importing it then fails as if it were absent
    assert book.glue(accuracy=0.75) is None
    assert capsys.readouterr().out == ""


def test_source_is_shown_as_highlighted_python():
    text = book.source(load_digits).data
    assert text.startswith("````python\ndef load_digits(")
    assert text.endswith("\n````")
    assert "class ImageData" in book.source(type(load_digits())).data


def test_what_has_no_source_is_refused():
    with pytest.raises(
        TypeError, match=r"written in Python have a source to show, got <built-in function len>"
    ):
        book.source(len)
