"""The pieces of the Colab proof that need no download; the whole of it is `make colab`."""

import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

from tools import prove_colab
from tools.environment import ROOT, locked_lines


def test_a_machine_without_such_a_python_is_told_which_ones_do():
    with pytest.raises(SystemExit, match=r"needs one of Python 9\.8, 9\.9 on the PATH, or --python PATH"):
        prove_colab.find_python(("9.8", "9.9"))


def test_a_python_that_is_found_is_of_the_version_asked_for():
    python = prove_colab.find_python(("3.11",))
    assert prove_colab._says([python, "-c", "import sys; print(sys.version_info[:2])"]).strip() == "(3, 11)"


def test_the_address_of_the_first_cell_is_replaced_with_its_tag_and_nothing_else():
    cell = '%pip install -q --no-deps "topokd-lib @ git+https://github.com/a/b@v0.1.0"\n%pip install -q gudhi'
    assert prove_colab.ADDRESS.sub("git+file:///here", cell) == (
        '%pip install -q --no-deps "topokd-lib @ git+file:///here"\n%pip install -q gudhi'
    )


def test_the_copy_holds_uncommitted_changes_and_leaves_ignored_files(tmp_path, monkeypatch):
    project, copy = tmp_path / "project", tmp_path / "copy"
    project.mkdir()
    copy.mkdir()
    monkeypatch.setattr(prove_colab, "ROOT", project)
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    (project / ".gitignore").write_text("_build/\n")
    (project / "_build").mkdir()
    (project / "_build" / "page.html").touch()
    (project / "library").mkdir()
    (project / "library" / "new.py").write_text("answer = 42\n")
    prove_colab.snapshot(copy)
    listed = subprocess.run(["git", "ls-files"], cwd=copy, capture_output=True, text=True, check=True).stdout
    assert listed.split() == [".gitignore", "library/new.py"]
    shutil.rmtree(copy / ".git")


def test_what_colab_brings_is_named_exactly_where_it_matters():
    listed = {
        Requirement(line).name: Requirement(line)
        for line in locked_lines((ROOT / "requirements" / "colab.txt").read_text(encoding="utf-8"))
    }
    for name in ("numpy", "scipy", "scikit-learn", "torch", "torchvision"):
        assert str(listed[name].specifier).startswith("=="), name
