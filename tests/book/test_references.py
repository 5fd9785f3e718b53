"""What book, library, configuration and bibliography say of each other is true."""

import ast
import importlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from pybtex.database import parse_file

from topokd_lib.topology import rips_diagrams

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "book" / "_static"
MODULES = sorted((ROOT / "topokd_lib").rglob("*.py"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TOC = (ROOT / "_toc.yml").read_text(encoding="utf-8")
KEY = re.compile(r"\[([a-z]+\d{4}[a-z]+)\]")
EXPLAINED = re.compile(r"Explained in:\s*\n((?:\s+\S*book/\S+\n?)+)")


def bibliography() -> dict[str, dict[str, str]]:
    entries = parse_file(str(ROOT / "book" / "references.bib")).entries
    return {key: {"author": "author" in entry.persons, **entry.fields} for key, entry in entries.items()}


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def unknown_keys(text: str) -> list[str]:
    return sorted(set(KEY.findall(text)) - set(bibliography()))


def dead_chapters(text: str) -> list[str]:
    """Chapters named by a docstring that neither exist nor stand in the table of contents."""
    named = [path for group in EXPLAINED.findall(text + "\n") for path in group.split()]
    return [p for p in named if not (ROOT / p).exists() and p.removesuffix(".ipynb") not in TOC]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_docstring_cites_and_where_it_sends_the_reader_exists(path: Path):
    text = "\n".join(docstrings(path))
    assert not unknown_keys(text), f"not in book/references.bib: {unknown_keys(text)}"
    assert not dead_chapters(text), f"no such chapter, and none planned in _toc.yml: {dead_chapters(text)}"


def test_a_wrong_key_and_a_wrong_chapter_are_noticed():
    assert unknown_keys("After [hinton2015kd] and [nobody2099nothing].") == ["nobody2099nothing"]
    assert dead_chapters("Explained in:\n    book/shape/nowhere.ipynb\n") == ["book/shape/nowhere.ipynb"]
    assert dead_chapters("Explained in:\n    book/shape/filtrations.ipynb\n") == []


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in MODULES
        if p.parent.name == "objectives" and p.stem not in {"__init__", "base", "cross_entropy"}
    ],
    ids=lambda path: path.stem,
)
def test_a_method_names_its_paper_and_its_chapter(path: Path):
    head = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert KEY.search(head), f"{path.name}: the module's docstring cites no [key] of book/references.bib"
    assert EXPLAINED.search(head + "\n"), f"{path.name}: the module's docstring has no 'Explained in:'"


def incomplete(entries: dict[str, dict[str, str]]) -> list[str]:
    """Entries that a reader could not find, or whose key does not begin with their year's place."""
    complaints = []
    for key, fields in entries.items():
        complaints += [
            f"{key} has no {field}" for field in ("author", "title", "year") if not fields.get(field)
        ]
        if fields.get("year", "") not in key:
            complaints.append(f"{key} does not contain its year {fields.get('year')}")
        eprint, doi = fields.get("eprint", ""), fields.get("doi", "")
        if eprint and not re.fullmatch(r"\d{4}\.\d{4,5}", eprint):
            complaints.append(f"{key}: {eprint!r} is no arXiv number")
        if doi and not doi.startswith("10."):
            complaints.append(f"{key}: {doi!r} is no DOI")
    return complaints


def test_every_entry_can_be_found_by_a_reader():
    assert incomplete(bibliography()) == []


def test_an_incomplete_entry_is_noticed():
    bad = {"who2020what": {"author": "", "title": "T", "year": "2021", "eprint": "here", "doi": "doi:1"}}
    assert len(incomplete(bad)) == 4


def explorable_complaints(folder: Path, scripts: list[str]) -> list[str]:
    """Explorables that are heavy, reach out, or are not loaded."""
    complaints = []
    for path in sorted(folder.glob("*.js")):
        source = path.read_text(encoding="utf-8")
        if (size := len(source.encode())) > 6 * 1024:
            complaints.append(f"{path.name} has {size} bytes, more than 6 KB")
        if re.search(r"https?://(?!www\.w3\.org)|\bfetch\(|\bimport\b|XMLHttpRequest", source):
            complaints.append(f"{path.name} asks for something from outside")
        if f"explorables/{path.name}" not in scripts:
            complaints.append(f"{path.name} is not in html_js_files of _config.yml")
    return complaints


def test_explorables_are_small_and_self_contained_and_loaded():
    scripts = [name for name, _ in CONFIG["sphinx"]["config"]["html_js_files"]]
    assert explorable_complaints(STATIC / "explorables", scripts) == []
    assert all((STATIC / name).exists() for name in scripts)


def test_a_bad_explorable_is_noticed(tmp_path: Path):
    (tmp_path / "bad.js").write_text("fetch('https://example.org');" + " " * 7000, encoding="utf-8")
    assert len(explorable_complaints(tmp_path, [])) == 3


def asks_outside(css: str) -> list[str]:
    return re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*\)|@import[^;]*;", css)


def test_the_style_sheet_is_self_contained():
    css = (STATIC / "topokd.css").read_text(encoding="utf-8")
    assert asks_outside(css) == []
    for name in re.findall(r'url\("([^"]+)"\)', css):
        assert (STATIC / name).exists(), f"topokd.css names {name}, which does not exist"
    assert asks_outside("@import url(//fonts.example.org/a.css);")


def missing_reference_pages(toc: str) -> list[str]:
    """Subpackages with public names that no page of the reference documents."""
    pages = re.findall(r"file: (book/reference/\w+)", toc)
    text = "\n".join((ROOT / f"{page}.md").read_text(encoding="utf-8") for page in pages)
    documented = set(re.findall(r"automodule:: (\S+)", text))
    packages = [
        p.parent.name for p in MODULES if p.name == "__init__.py" and p.parent.parent == ROOT / "topokd_lib"
    ]
    modules = [p.stem for p in MODULES if p.parent == ROOT / "topokd_lib" and p.stem != "__init__"]
    names = [f"topokd_lib.{name}" for name in (*packages, *modules) if name != "cli"]
    public = [name for name in names if getattr(importlib.import_module(name), "__all__", ())]
    return sorted(set(public) - documented)


def test_every_public_subpackage_has_a_page_in_the_reference():
    assert missing_reference_pages(TOC) == []
    assert "topokd_lib.topology" in missing_reference_pages(TOC.replace("book/reference/topology", ""))


def drawn(figure: ET.Element, name: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Points of a cloud of the front page's figure, and its finite bars as drawn, per dimension."""
    space = "{http://www.w3.org/2000/svg}"
    unit, bar_unit = float(figure.attrib["data-unit"]), float(figure.attrib["data-bar-unit"])
    groups = {group.attrib.get("id"): group for group in figure.iter(f"{space}g")}
    circles = groups[name].iter(f"{space}circle")
    points = [[float(c.attrib["cx"]) / unit, float(c.attrib["cy"]) / unit] for c in circles]
    bars = []
    for group in groups[f"{name}-bars"].findall(f"{space}g"):
        lines = [p for p in group if "stroke-width" not in p.attrib and p.attrib.get("class") != "essential"]
        found = [re.match(r"M([\d.]+) [\d.]+H([\d.]+)", p.attrib["d"]) for p in lines]
        bars.append(torch.tensor([[float(m[1]), float(m[2])] for m in found if m]).double() / bar_unit)
    return torch.tensor(points, dtype=torch.float64), bars


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_the_bars_of_the_front_page_are_those_of_its_points(name: str):
    points, bars = drawn(ET.parse(STATIC / "figures" / "front.svg").getroot(), name)
    computed = rips_diagrams(points[None], dimensions=(0, 1))
    for found, expected in zip(bars, computed, strict=True):
        assert len(found) == len(expected[0])
        order = expected[0][:, 1].argsort()
        torch.testing.assert_close(found, expected[0][order], atol=1e-3, rtol=0)
    loops = bars[1][:, 1] - bars[1][:, 0]
    assert (loops.max() > 0.5) == (name == "teacher"), "only the teacher has a loop worth the name"
