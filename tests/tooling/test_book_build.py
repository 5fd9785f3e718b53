"""The book's build: the cache sees the library, every page exists, and what is broken fails."""

import hashlib
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from tools import book_extension, build_book
from tools.environment import ROOT

OFFICIAL_MATHJAX = "300480069078b5892d2363a2b65e2dfbbf30fe5c80f83edbfecf4610fd093862"
"""SHA-256 of es5/tex-mml-chtml.js in the release of MathJax 3.2.2."""


def test_pages_of_a_table_of_contents_are_found_at_any_depth_and_in_order():
    toc = {
        "root": "intro",
        "parts": [
            {"caption": "A", "chapters": [{"file": "a", "sections": [{"file": "b"}]}]},
            {"chapters": []},
        ],
    }
    assert list(build_book.pages(toc)) == ["intro", "a", "b"]


def test_the_book_has_chapters_and_all_its_pages_have_sources():
    import yaml

    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    for page in build_book.pages(toc):
        assert any((ROOT / f"{page}{suffix}").exists() for suffix in (".md", ".ipynb")), page


def test_the_cache_changes_with_the_library_and_not_with_its_compiled_files(tmp_path, monkeypatch):
    monkeypatch.setattr(book_extension, "ROOT", tmp_path)
    library = tmp_path / "topokd_lib"
    (library / "__pycache__").mkdir(parents=True)
    (library / "kd.py").write_text("temperature = 4")
    before = book_extension.cache_folder()
    (library / "__pycache__" / "kd.pyc").write_bytes(b"compiled")
    assert book_extension.cache_folder() == before
    (library / "kd.py").write_text("temperature = 2")
    assert book_extension.cache_folder() != before


def test_parsed_pages_are_dropped_when_the_contents_change(tmp_path, monkeypatch):
    monkeypatch.setattr(book_extension, "ROOT", tmp_path)
    (tmp_path / "_toc.yml").write_text("root: a")
    doctrees = tmp_path / "doctrees"
    book_extension.drop_stale_pages(doctrees)
    (doctrees / "a.doctree").touch()
    book_extension.drop_stale_pages(doctrees)
    assert (doctrees / "a.doctree").exists()
    (tmp_path / "_toc.yml").write_text("root: b")
    book_extension.drop_stale_pages(doctrees)
    assert not (doctrees / "a.doctree").exists()


def test_mathjax_is_the_official_one_with_its_fonts(tmp_path):
    book_extension.copy_mathjax(tmp_path)
    renderer = (tmp_path / "tex-mml-chtml.js").read_bytes()
    assert hashlib.sha256(renderer).hexdigest() == OFFICIAL_MATHJAX
    assert len(list((tmp_path / "output/chtml/fonts/woff-v2").glob("*.woff"))) > 20
    assert (tmp_path / "input/tex/extensions/boldsymbol.js").exists()


def test_a_missing_mathjax_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(book_extension.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"need MathJax.*not installed here.*make book"):
        book_extension.copy_mathjax(tmp_path)


def test_the_two_latest_caches_are_kept(tmp_path, monkeypatch):
    import os

    present = tmp_path / "present"
    for age, name in enumerate(["present", "last", "older", "oldest"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    monkeypatch.setattr(build_book, "CACHES", tmp_path)
    monkeypatch.setattr(build_book, "cache_folder", lambda: present)
    build_book.prune_caches()
    assert {path.name for path in tmp_path.iterdir()} == {"present", "last"}


def notebook(path, source):
    path.parent.mkdir(parents=True, exist_ok=True)
    heading, code = nbformat.v4.new_markdown_cell(f"# {path.stem}"), nbformat.v4.new_code_cell(source)
    heading["id"], code["id"] = "heading", "code"
    nbformat.write(nbformat.v4.new_notebook(cells=[heading, code]), path)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A book of one page and one chapter that prints a number of the library, with our tools."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "topokd_lib").mkdir()
    (root / "topokd_lib" / "number.txt").write_text("one")
    (root / "_config.yml").write_text(
        "title: A\nauthor: B\nonly_build_toc_files: true\n"
        "execute: {execute_notebooks: cache, timeout: 60}\n"
        "sphinx:\n  local_extensions: {book_extension: tools}\n"
        "  config: {mathjax_path: vendor/mathjax/tex-mml-chtml.js}\n"
    )
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: book/intro\nchapters:\n- file: book/part/chapter\n"
    )
    notebook(root / "book/part/chapter.ipynb", "print(open('../../topokd_lib/number.txt').read())")
    (root / "book/intro.md").write_text("# Introduction\n\n$x^2$\n")
    return SimpleNamespace(
        root=root,
        page=root / "_build/html/book/part/chapter.html",
        build=lambda: subprocess.run(
            [sys.executable, "-m", "tools.build_book", "--jobs", "1"],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        ),
    )


@pytest.mark.slow
def test_a_book_is_built_again_with_the_library_as_it_is(project):
    done = project.build()
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(project.root / "_build/html/index.html") in done.stdout
    assert "make serve" in done.stdout
    assert "one" in project.page.read_text()
    intro = (project.root / "_build/html/book/intro.html").read_text()
    assert '"../_static/vendor/mathjax/tex-mml-chtml.js' in intro

    report = json.loads((project.root / "_build/report.json").read_text())
    assert report["executed"] == 1
    assert report["chapters"]["book/part/chapter.ipynb"].keys() == set(build_book.Cost._fields)

    assert "Executing" not in project.build().stdout

    (project.root / "topokd_lib" / "number.txt").write_text("two")
    assert "Executing 1 of 1" in project.build().stdout
    assert "two" in project.page.read_text()


@pytest.mark.slow
def test_a_warning_fails_the_build(project):
    (project.root / "book/intro.md").write_text("# Introduction\n\n{ref}`nowhere`\n")
    done = project.build()
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    (project.root / "book/intro.md").write_text("# Introduction\n\n$x^2$\n")


@pytest.mark.slow
def test_a_failing_chapter_fails_the_build_with_its_name_and_traceback(project):
    notebook(project.root / "book/part/chapter.ipynb", "1 / 0")
    done = project.build()
    assert done.returncode == 1
    assert "book/part/chapter.ipynb" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert "1 of 1 chapters failed" in done.stderr


@pytest.mark.slow
def test_a_chapter_whose_kernel_dies_is_named_with_a_guess_at_the_cause(tmp_path):
    notebook(tmp_path / "chapter.ipynb", "import os; os._exit(1)")
    error = build_book.run_chapter(tmp_path / "chapter.ipynb", 30).error
    assert "kernel died" in error
    assert "memory" in error


@pytest.mark.slow
def test_a_chapter_that_waits_takes_time_but_no_computing(tmp_path):
    notebook(tmp_path / "chapter.ipynb", "import time; time.sleep(3)")
    done = build_book.run_chapter(tmp_path / "chapter.ipynb", 30)
    assert done.error == ""
    assert done.cost.seconds > 3 > done.cost.cpu_seconds > 0


@pytest.mark.slow
def test_the_memory_of_a_chapter_is_its_own(tmp_path):
    notebook(tmp_path / "large.ipynb", "taken = b'x' * 300_000_000")
    notebook(tmp_path / "small.ipynb", "1 + 1")
    with build_book.fresh_processes(1) as pool:
        large, small = (
            pool.submit(build_book.run_chapter, tmp_path / name, 30).result().cost.peak_bytes
            for name in ("large.ipynb", "small.ipynb")
        )
    assert 300e6 < large < 500e6
    assert 10e6 < small < 200e6


def test_a_chapter_may_take_a_minute_and_one_gigabyte():
    minute, gigabyte = build_book.SECONDS_PER_CHAPTER, build_book.BYTES_PER_CHAPTER
    assert build_book.Cost(minute, minute, gigabyte).excess() == ""
    assert build_book.Cost(minute + 9, minute, 0).excess() == ""  # a busy machine
    assert build_book.Cost(70, 65, 0).excess() == "may take 60 s, took 70 s"
    assert build_book.Cost(70, 65, 0).excess(slower=1.5) == ""
    assert build_book.Cost(0, 0, 2 * gigabyte).excess() == "may use 1000 MB, used 2000 MB"
    assert build_book.Cost(0, 0, gigabyte + 1).excess(larger=1.1) == ""
    assert build_book.Cost(70, 65, 2 * gigabyte).excess().count("may") == 2
    assert build_book.Cost(99, 95, 0).excess(build_book.SLOWER, build_book.LARGER)


def test_no_page_shows_what_differs_from_build_to_build():
    for page in (ROOT / "book").rglob("*.md"):
        assert "nb-exec-table" not in page.read_text(encoding="utf-8"), page


@pytest.mark.slow
def test_a_chapter_executed_again_gives_the_same_bytes(tmp_path):
    cell = """
from topokd_lib import book
book.init()
import torch, matplotlib.pyplot as plt
x = torch.rand(200, 2, requires_grad=True)
(x @ x.T).square().sum().backward()
plt.scatter(*x.detach().T, s=4); plt.plot([0, 1]); plt.fill_between([0, 1], [0, 1], clip_on=True)
plt.show()
print(x.grad.sum(), torch.rand(1), {"a", "b", "c"} == {"c", "b", "a"})
"""
    notebook(tmp_path / "chapter.ipynb", cell)
    runs = [build_book.run_chapter(tmp_path / "chapter.ipynb", 60) for _ in range(2)]
    assert [run.error for run in runs] == ["", ""]
    first, second = (run.notebook.cells[1].outputs for run in runs)
    assert first == second
    assert "image/svg+xml" in str(first)
