"""Addresses and versions that must be written in several places are the same in all of them."""

import re
import tomllib

import nbformat
import pytest
import yaml

import topokd_lib
from tools.environment import ROOT
from tools.prove_colab import ADDRESS
from tools.set_repository import change, files, repository, slug

NOTEBOOKS = sorted((ROOT / "book").rglob("*.ipynb"))
LINK = re.compile(r"github\.com/([\w-]+/[\w-]+)")


def test_every_file_that_repeats_the_address_has_the_present_one():
    address = repository()
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert config["repository"]["url"] == address
    assert citation["repository-code"] == address
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(LINK.findall((ROOT / name).read_text(encoding="utf-8"))) - {"OWNER/NAME"}
        assert named == {slug(address)}, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_installs_this_version_from_this_address(path):
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert ADDRESS.findall(first.source) == [f"git+{repository()}@v{topokd_lib.__version__}"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_is_kept_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs, f"strip the outputs: jupytext --to notebook --set-formats - {path}"
            assert cell.execution_count is None


def test_citation_and_changelog_know_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == topokd_lib.__version__
    assert f"## [{topokd_lib.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_licence_named_is_the_licence_given():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://github.com/some-one/a.book", "some-one/a.book"),
        ("https://github.com/someone/book.git", "someone/book"),
        ("https://github.com/someone/book/", "someone/book"),
    ],
)
def test_addresses_on_github_are_understood(address, expected):
    assert slug(address) == expected


@pytest.mark.parametrize("address", ["https://example.org/a/b", "someone/book", "git@github.com:a/b.git"])
def test_other_addresses_are_refused_with_the_reason(address):
    with pytest.raises(ValueError, match=r"need a repository on GitHub.*OWNER/NAME.*got"):
        slug(address)


def test_changing_the_address_reaches_text_and_leaves_other_files_alone(tmp_path):
    text, image, other = tmp_path / "a.md", tmp_path / "b.bin", tmp_path / "c.txt"
    text.write_text("git+https://github.com/old/book@v1 and colab/github/old/book/blob")
    image.write_bytes(b"\xff\xfe old/book")
    other.write_text("nothing")
    assert change("old/book", "new/place", [text, image, other]) == [text]
    assert text.read_text() == "git+https://github.com/new/place@v1 and colab/github/new/place/blob"
    assert image.read_bytes() == b"\xff\xfe old/book"


def test_the_files_of_the_repository_are_found():
    found = {str(path.relative_to(ROOT)) for path in files()}
    assert {"pyproject.toml", "Makefile", "topokd_lib/pair.py"} <= found
    assert not any(name.startswith((".venv/", "_build/")) for name in found)
