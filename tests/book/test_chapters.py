"""The rules that every chapter keeps, each as a function from a chapter to a list of complaints.

A rule is run on every notebook of the table of contents, on a small chapter that keeps all rules, and on
small chapters that break this one: a rule that cannot complain would be worth nothing.
"""

import ast
import importlib
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from pybtex.database import parse_file

ROOT = Path(__file__).parents[2]
HEADINGS = (
    "The question", "You will be able to", "By hand", "The idea in symbols", "From scratch",
    "The library says the same", "See it move", "It works, a little", "At full scale", "Where it breaks",
    "Summary", "Exercises", "Notes and sources",
)  # fmt: skip
FIRST_CELL = """try:
    import topokd_lib
except ModuleNotFoundError:
    %pip install -q --no-deps "topokd-lib @ git+ADDRESS"
    %pip install -q gudhi jaxtyping jsonargparse lightning-fabric safetensors
from topokd_lib import book

book.init()"""
LINES, COLUMNS, WORDS, EXERCISES, RECALL, LINKED_TERMS = 12, 72, (1200, 3500), 5, range(3, 6), 8
FORBIDDEN = {
    "torchvision": "takes ten seconds to import",
    "ipywidgets": "loads scripts from other hosts and is dead without a kernel",
    "plotly": "draws nothing in the built book",
    "tqdm.auto": "turns into an ipywidget",
    "requests": "reaches for the network",
    "urllib": "reaches for the network",
    "http": "reaches for the network",
    "socket": "reaches for the network",
    "wget": "reaches for the network",
    "gdown": "reaches for the network",
}


@dataclass(frozen=True)
class Chapter:
    """A notebook with its cells in order."""

    name: str
    cells: list[Any]

    @property
    def code(self) -> list[Any]:
        return [cell for cell in self.cells if cell.cell_type == "code"]

    @property
    def shown(self) -> list[Any]:
        """Cells that a reader sees."""
        return [cell for cell in self.cells if "remove-cell" not in cell.metadata.get("tags", ())]

    @property
    def text(self) -> str:
        return "\n\n".join(cell.source for cell in self.cells if cell.cell_type == "markdown")

    def trees(self) -> Iterator[tuple[Any, ast.Module]]:
        """Code cells with their syntax trees; lines of IPython are left out."""
        for cell in self.code:
            lines = [
                re.match(r"\s*", line)[0] + "pass" if line.lstrip().startswith(("%", "!")) else line
                for line in cell.source.splitlines()
            ]
            yield cell, ast.parse("\n".join(lines))


def read(path: Path) -> Chapter:
    return Chapter(path.stem, nbformat.read(path, as_version=4).cells)


def pages(toc: Any) -> Iterator[str]:
    """Every page of a table of contents."""
    if isinstance(toc, list):
        for entry in toc:
            yield from pages(entry)
    elif isinstance(toc, dict):
        yield from (toc[key] for key in ("root", "file") if key in toc)
        for value in toc.values():
            yield from pages(value)


TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
NOTEBOOKS = [path for page in pages(TOC) if (path := ROOT / f"{page}.ipynb").exists()]
BIBLIOGRAPHY = set(parse_file(str(ROOT / "book" / "references.bib")).entries)


def glossary() -> set[str]:
    """The terms of the glossary in lower case."""
    terms: set[str] = set()
    for block in re.findall(r"^:::\{glossary\}\n(.*?)^:::$", _page("glossary"), re.S | re.M):
        terms |= {line.strip().lower() for line in block.splitlines() if line and not line.startswith(" ")}
    return terms


def _page(name: str) -> str:
    return (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")


_NOT_PROSE = re.compile(
    r"""(?P<kept>\{term\}`[^`]*`)
    | ```.*?``` | \$\$.*?\$\$ | \$[^$]+\$ | (?:\{[\w:.-]+\})?`[^`]*` | \]\([^)]*\)
    | ^\#[^\n]*$ | ^:::[^\n]*$ | ^:\w[\w-]*:[^\n]*$ | ^\|[^\n]*$
    | </?(?:a|b|br|div|em|i|p|span|svg|details|summary)\b[^>]*>""",
    re.M | re.S | re.X,
)


def _prose(text: str) -> str:
    """Text with everything blanked that is no sentence: code, formulas, headings, directives, tables, tags.

    Roles are blanked too, except links to the glossary.
    """
    return _NOT_PROSE.sub(lambda m: m["kept"] or re.sub(r"[^\n]", " ", m[0]), text)


# ── The rules ─────────────────────────────────────────────────────────────────────────────────────────────

Rule = Callable[[Chapter], list[str]]
RULES: dict[str, Rule] = {}


def rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


@rule
def no_outputs(chapter: Chapter) -> list[str]:
    """Outputs come from the build."""
    kept = [c for c in chapter.code if c.get("outputs") or c.get("execution_count") is not None]
    return [f"cell {c.id} has an output or an execution count; strip the notebook" for c in kept]


@rule
def unique_ids(chapter: Chapter) -> list[str]:
    """A cell is found again by its id."""
    ids = [cell.id for cell in chapter.cells]
    return [f"the cell id {i!r} occurs {ids.count(i)} times" for i in sorted(set(ids)) if ids.count(i) > 1]


@rule
def first_cell(chapter: Chapter) -> list[str]:
    """The same first cell everywhere, or Colab does not work everywhere."""
    cell = chapter.cells[0]
    if cell.cell_type != "code":
        return ["the notebook must begin with the code cell that installs the library where it is missing"]
    complaints = []
    if re.sub(r"git\+https://\S+?@v[\w.]+", "git+ADDRESS", cell.source) != FIRST_CELL:
        complaints.append(f"the first cell differs from the standard one:\n{FIRST_CELL}")
    if "remove-cell" not in cell.metadata.get("tags", ()):
        complaints.append("the first cell needs the tag remove-cell; the book has no use for it")
    return complaints


@rule
def header_line(chapter: Chapter) -> list[str]:
    """What it costs to read this, before reading it."""
    first = next((c.source for c in chapter.cells if c.cell_type == "markdown"), "")
    complaints = [] if re.match(r"# \S", first) else ["the first text cell must begin with the title, '# …'"]
    missing = [word for word in ("reading time", "run time", "prerequisites") if word not in first.lower()]
    return complaints + [f"the line under the title must state the {word}" for word in missing]


@rule
def headings(chapter: Chapter) -> list[str]:
    """The same sections in the same order."""
    text = re.sub(r"```.*?```", "", chapter.text, flags=re.S)
    found = tuple(re.findall(r"^## (.+?)\s*$", text, re.M))
    return [] if found == HEADINGS else [f"sections must be\n  {HEADINGS}\nfound\n  {found}"]


@rule
def short_cells(chapter: Chapter) -> list[str]:
    """A cell has one purpose and fits a phone held sideways."""
    complaints = []
    for cell in chapter.code[1:]:
        if "remove-cell" in cell.metadata.get("tags", ()):
            continue
        lines = cell.source.splitlines()
        if len(lines) > LINES:
            complaints.append(f"cell {cell.id} has {len(lines)} lines; split it after at most {LINES}")
        wide = [line for line in lines if len(line) > COLUMNS]
        complaints += [f"cell {cell.id}: {len(w)} columns, at most {COLUMNS}: {w.strip()}" for w in wide]
    return complaints


@rule
def code_between_prose(chapter: Chapter) -> list[str]:
    """A sentence says what to expect of a cell, and a sentence reads the result."""
    complaints = []
    shown = chapter.shown
    for before, cell in zip([None, *shown], shown, strict=False):
        if cell.cell_type == "code" and (before is None or before.cell_type == "code"):
            complaints.append(f"no sentence announces cell {cell.id}")
    if shown and shown[-1].cell_type == "code":
        complaints.append(f"no sentence reads the result of cell {shown[-1].id}")
    return complaints


@rule
def figures_described(chapter: Chapter) -> list[str]:
    """A figure has a name to refer to, a caption, and words for those who cannot see it."""
    complaints = []
    for cell in chapter.code:
        settings = cell.metadata.get("mystnb", {})
        draws = re.search(r"plt\.|\.subplots\(|_figure\(|\bplot_\w+\(|\bdraw_\w+\(", cell.source)
        hidden = "remove-cell" in cell.metadata.get("tags", ())
        defines = "def " in cell.source and not settings
        if not settings and (not draws or hidden or defines):
            continue
        figure, alt = settings.get("figure", {}), settings.get("image", {}).get("alt", "")
        complaints += [f"figure {cell.id} has no {key}" for key in ("name", "caption") if not figure.get(key)]
        if len(alt) < 40 or re.search(r"_images|\.(png|svg|jpe?g)\b", alt):
            complaints.append(
                f"figure {cell.id} needs an alternative text of at least 40 letters, not {alt!r}"
            )
    return complaints


@rule
def colon_fences(chapter: Chapter) -> list[str]:
    """Colab shows the inside of a backtick fence as code."""
    return [
        f"write ':::' instead of backticks around {d}"
        for d in re.findall(r"^`{3,}(\{.+)$", chapter.text, re.M)
    ]


@rule
def exercises(chapter: Chapter) -> list[str]:
    """Enough to do, and a solution that has been run for all but the open question."""
    found = re.findall(
        r"^:{3,}\{exercise(?:-start)?\}([^\n]*)\n(?:(?!:::)[^\n]*\n)*?:label: *(\S+)", chapter.text, re.M
    )
    complaints = []
    if len(found) < EXERCISES:
        complaints.append(f"there are {len(found)} exercises, at least {EXERCISES} are needed")
    open_ones = {label for title, label in found if title.strip().lower().startswith("open")}
    if len(open_ones) > 1:
        complaints.append(f"one exercise may be open, not {len(open_ones)}: {sorted(open_ones)}")
    solved, present = set(), None
    for cell in chapter.cells:
        if cell.cell_type == "code" and present:
            solved.add(present)
        if cell.cell_type == "markdown":
            for start, label in re.findall(r"^:{3,}\{solution-(start|end)\} *(\S*)", cell.source, re.M):
                present = label if start == "start" else None
    for _, label in found:
        if label not in solved | open_ones:
            complaints.append(
                f"exercise {label} has no solution with a code cell; title it 'Open: …' if it is open"
            )
    return complaints


@rule
def questionnaire(chapter: Chapter) -> list[str]:
    """Questions that only a reader can answer, with folded answers."""
    start = re.search(r"questionnaire", chapter.text, re.I)
    if not start:
        return ["there is no questionnaire"]
    rest = re.split(r"^## |^:{3,}\{exercise", chapter.text[start.end() :], flags=re.M)[0]
    folded = len(re.findall(r"^:class: .*dropdown|^:{3,}\{dropdown\}", rest, re.M))
    allowed = f"{RECALL.start} to {RECALL.stop - 1}"
    return [] if folded in RECALL else [f"the questionnaire has {folded} folded answers, not {allowed}"]


@rule
def terms_resolve(chapter: Chapter) -> list[str]:
    """A linked term is in the glossary."""
    used = re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`", chapter.text)
    unknown = {" ".join(t.split()) for t in used if " ".join(t.lower().split()) not in glossary()}
    complaints = [f"{term!r} is not in the glossary" for term in sorted(unknown)]
    if len(set(used)) < LINKED_TERMS:
        complaints.append(
            f"only {len(set(used))} terms are linked to the glossary, at least {LINKED_TERMS} should be"
        )
    return complaints


@rule
def terms_linked_at_first_use(chapter: Chapter) -> list[str]:
    """A term of several words, which nobody takes for everyday language, is linked where it first occurs."""
    announcement = re.compile(r"^## You will be able to$.*?(?=^## )", re.M | re.S)
    links_only = announcement.sub(lambda m: " ".join(re.findall(r"\{term\}`[^`]*`", m[0])), chapter.text)
    prose = _prose(links_only)
    linked = [(m.start(), " ".join(m[0].lower().split())) for m in re.finditer(r"\{term\}`[^`]*`", prose)]
    plain = re.sub(r"\{term\}`[^`]*`", lambda m: " " * len(m[0]), prose)
    complaints = []
    for term in sorted(t for t in glossary() if " " in t and "," not in t):
        words = r"\s+".join(map(re.escape, term.split()))
        first = re.search(rf"\b{words}s?\b", plain, re.I)
        if first and not any(term in text and at < first.start() for at, text in linked):
            around = " ".join(plain[max(first.start() - 40, 0) : first.end() + 20].split())
            complaints.append(f"{term!r} is not linked where it first occurs: … {around} …")
    return complaints


@rule
def citations_exist(chapter: Chapter) -> list[str]:
    """A citation is in the bibliography."""
    groups = re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", chapter.text)
    keys = {key.strip() for group in groups for key in group.split(",")}
    return [f"[{key}] is not in book/references.bib" for key in sorted(keys - BIBLIOGRAPHY)]


@rule
def length(chapter: Chapter) -> list[str]:
    """One sitting: 1500 to 3000 words, with some room."""
    words = len(_prose(chapter.text).replace("{term}", "").split())
    low, high = WORDS
    return [] if low <= words <= high else [f"{words} words; a chapter has {low} to {high}"]


@rule
def public_names(chapter: Chapter) -> list[str]:
    """A chapter shows what a reader may use."""
    complaints = []
    for cell, tree in chapter.trees():
        modules: dict[str, Any] = {}
        excused = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("book.source", "source")
            for inner in ast.walk(node)
        }  # what is shown as source may be an inside
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("topokd_lib"):
                module = importlib.import_module(node.module)
                for name in node.names:
                    complaints += _not_public(module, name.name, cell.id)
                    if (inner := _submodule(module, name.name)) is not None:
                        modules[name.asname or name.name] = inner
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or id(node) in excused:
                continue
            if node.attr.startswith("_") and not node.attr.endswith("__"):
                complaints.append(f"cell {cell.id} uses {ast.unparse(node)}, which is private")
            elif isinstance(node.value, ast.Name) and node.value.id in modules:
                complaints += _not_public(modules[node.value.id], node.attr, cell.id)
    return complaints


def _submodule(module: Any, name: str) -> Any:
    try:
        return importlib.import_module(f"{module.__name__}.{name}")
    except ModuleNotFoundError:
        return None


def _not_public(module: Any, name: str, cell: str) -> list[str]:
    if name in getattr(module, "__all__", ()) or (not name.startswith("_") and _submodule(module, name)):
        return []
    return [f"cell {cell} uses {module.__name__}.{name}, which is not in its __all__"]


@rule
def shown_cells_suffice(chapter: Chapter) -> list[str]:
    """Who copies the cells of a page needs nothing that the page hides."""
    shown: set[str] = set()
    hidden: set[str] = set()
    complaints = []
    for cell, tree in chapter.trees():
        bound = _bound(tree)
        if "remove-cell" in cell.metadata.get("tags", ()):
            hidden |= bound
            continue
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        complaints += [
            f"cell {cell.id} uses {name}, which only a hidden cell brings"
            for name in sorted((used & hidden) - bound - shown)
        ]
        shown |= bound
    return complaints


def _bound(tree: ast.Module) -> set[str]:
    """Names that a cell imports, defines or assigns."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


@rule
def imports(chapter: Chapter) -> list[str]:
    """Nothing that is slow, needs the network, or draws what a page cannot show."""
    complaints = []
    for cell, tree in chapter.trees():
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        for name, reason in FORBIDDEN.items():
            if any(n == name or n.startswith(f"{name}.") for n in names):
                complaints.append(f"cell {cell.id} imports {name}, which {reason}")
    outside = re.compile(r"^\s*[!%]|https?://", re.M)
    return complaints + [
        f"cell {cell.id} runs a shell or notebook command, or names an address"
        for cell in chapter.code[1:]
        if outside.search(cell.source)
    ]


@rule
def formulas_named_in_code_exist(chapter: Chapter) -> list[str]:
    """A comment that names a formula names one of this chapter."""
    defined = re.findall(r"\$\$ *\((\S+?)\)|^:label: *(\S+)|\\label\{(\S+?)\}", chapter.text, re.M)
    labels = {label for match in defined for label in match if label}
    return [
        f"cell {cell.id} names the formula {label}, which no display defines"
        for cell in chapter.code
        for label in re.findall(r"\beq-[\w-]+", cell.source)
        if label not in labels
    ]


# ── The rules, kept ───────────────────────────────────────────────────────────────────────────────────────


def test_the_table_of_contents_has_chapters():
    assert NOTEBOOKS, "no page of _toc.yml is a notebook"


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_keeps_the_rule(path: Path, name: str):
    complaints = RULES[name](read(path))
    assert not complaints, f"{RULES[name].__doc__}\n" + "\n".join(f"- {line}" for line in complaints)


# ── The rules, broken ─────────────────────────────────────────────────────────────────────────────────────


def _chapter(changes: dict[str, str] | None = None) -> Chapter:
    """A chapter that keeps every rule, with sections replaced by `changes`."""
    changes = changes or {}
    filler = " ".join(["plain"] * 1300)
    linked = " ".join(f"{{term}}`{t}`" for t in sorted(glossary()) if "," not in t)
    questions = "\n\n".join([":::{admonition} Why?\n:class: dropdown\nBecause.\n:::"] * 3)
    text = dict.fromkeys(HEADINGS, f"Words {filler[:600]}")
    text["The question"] += f" {linked} {filler} {{cite:p}}`hinton2015kd`"
    text["By hand"] += "\n\n$$ a = b $$ (eq-good)\n\n:::{note}\nA note.\n:::"
    text["Summary"] += f"\n\n### Questionnaire\n\n{questions}"
    text.update(changes)
    cells = [nbformat.v4.new_code_cell(FIRST_CELL.replace("ADDRESS", "https://github.com/a/b@v1"))]
    cells[0].metadata["tags"] = ["remove-cell"]
    title = "# Title\n\n*Reading time: 5 minutes. Prerequisites: none. Run time: 1 s.*"
    cells.append(nbformat.v4.new_markdown_cell(changes.get("title", title)))
    for heading in HEADINGS:
        cells.append(nbformat.v4.new_markdown_cell(f"## {heading}\n\n{text[heading]}"))
        if heading == "From scratch":
            cells.append(nbformat.v4.new_code_cell("from topokd_lib.data import BETTI\n\n1  # eq-good"))
        if heading == "See it move":
            cells.append(nbformat.v4.new_code_cell("import matplotlib.pyplot as plt\n\nplt.plot([1, 2]);"))
            figure = {"name": "fig-x", "caption": "It rises."}
            cells[-1].metadata["mystnb"] = {
                "figure": figure,
                "image": {"alt": "A line that rises. " * 3},
            }
        if heading == "Exercises":
            for i in range(EXERCISES):
                cells.append(nbformat.v4.new_markdown_cell(
                    f":::{{exercise}}\n:label: ex-{i}\nDo it.\n:::\n\n:::{{solution-start}} ex-{i}\n:::"
                ))  # fmt: skip
                cells.append(nbformat.v4.new_code_cell(f"{i} + 1"))
                cells.append(nbformat.v4.new_markdown_cell(":::{solution-end}\n:::"))
    for number, cell in enumerate(cells):
        cell.id = f"good-{number}"
    return Chapter("good", cells)


def _with_code(source: str, *, at: int = 1, **metadata: Any) -> Chapter:
    """The good chapter with the source of its code cell `at` replaced."""
    chapter = deepcopy(_chapter())
    chapter.code[at].source = source
    chapter.code[at].metadata.update(metadata)
    return chapter


def _changed(change: Callable[[Chapter], object]) -> Chapter:
    chapter = deepcopy(_chapter())
    change(chapter)
    return chapter


def _without(word: str) -> Chapter:
    return Chapter("bad", [cell for cell in _chapter().cells if word not in cell.source])


def _solution_without_code() -> Chapter:
    chapter = _chapter()
    start = next(i for i, c in enumerate(chapter.cells) if "solution-start} ex-2" in c.source)
    return Chapter("bad", chapter.cells[: start + 1] + chapter.cells[start + 2 :])


BREAKS: dict[str, list[tuple[Callable[[], Chapter], str]]] = {
    "no_outputs": [(lambda: _changed(lambda c: c.code[1].update(execution_count=3)), "execution count")],
    "unique_ids": [(lambda: _changed(lambda c: c.cells[3].update(id="good-2")), "good-2")],
    "first_cell": [
        (lambda: _with_code("import topokd_lib", at=0), "standard"),
        (lambda: _with_code(_chapter().code[0].source, at=0, tags=[]), "remove-cell"),
        (lambda: _changed(lambda c: c.cells.pop(0)), "begin with"),
    ],
    "header_line": [(lambda: _chapter({"title": "# Title\n\n*Reading time: 5 minutes.*"}), "prerequisites")],
    "headings": [(lambda: _changed(lambda c: c.cells.pop(2)), "sections")],
    "short_cells": [
        (lambda: _with_code("a = 1\n" * 13), "13 lines"),
        (lambda: _with_code("a = '" + "x" * 70 + "'"), "76 columns"),
    ],
    "code_between_prose": [
        (lambda: _changed(lambda c: c.cells.insert(2, deepcopy(c.code[1])) or c.cells.pop(1)), "announces"),
        (lambda: _changed(lambda c: c.cells.append(deepcopy(c.code[1]))), "reads"),
    ],
    "figures_described": [
        (lambda: _with_code("plt.plot([1]);"), "caption"),
        (lambda: _with_code("1", mystnb={"figure": {"name": "a", "caption": "b"}}), "alternative"),
    ],
    "colon_fences": [(lambda: _chapter({"By hand": "```{note}\nx\n```"}), "{note}")],
    "exercises": [
        (
            lambda: _without("ex-4"),
            "4 exercises",
        ),
        (_solution_without_code, "ex-2"),
    ],
    "questionnaire": [
        (lambda: _chapter({"Summary": "Nothing."}), "no questionnaire"),
        (lambda: _chapter({"Summary": "### Questionnaire\n\n:::{dropdown} Why?\nx\n:::"}), "1 folded"),
    ],
    "terms_resolve": [
        (lambda: _chapter({"By hand": "{term}`flux capacitor`"}), "flux capacitor"),
        (lambda: _chapter({"The question": "{term}`bar`"}), "only 1"),
    ],
    "terms_linked_at_first_use": [(lambda: _chapter({"title": "# T\n\nOn persistence images."}), "image")],
    "citations_exist": [(lambda: _chapter({"By hand": "{cite:p}`nobody2099nothing`"}), "nobody2099nothing")],
    "length": [(lambda: _chapter(dict.fromkeys(HEADINGS, "Short.")), "words")],
    "public_names": [
        (lambda: _with_code("from topokd_lib.models.base import math"), "__all__"),
        (lambda: _with_code("from topokd_lib import objectives\nobjectives.Pair"), "objectives.Pair"),
        (lambda: _with_code("x._inside"), "private"),
    ],
    "shown_cells_suffice": [(lambda: _with_code("book.source(len)"), "uses book")],
    "imports": [
        (lambda: _with_code("from tqdm.auto import tqdm"), "tqdm.auto"),
        (lambda: _with_code("import torchvision.models"), "torchvision"),
        (lambda: _with_code("from urllib import request"), "urllib"),
        (lambda: _with_code("!ls"), "shell"),
        (lambda: _with_code("torch.hub.load_state_dict_from_url('https://example.org/w.pt')"), "address"),
    ],
    "formulas_named_in_code_exist": [(lambda: _with_code("1 + 1  # eq-bad"), "eq-bad")],
}


def test_every_rule_is_broken_below():
    assert set(BREAKS) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_a_good_chapter_gives_no_reason_to_complain(name: str):
    assert RULES[name](_chapter()) == []


@pytest.mark.parametrize(
    ("name", "bad", "word"),
    [(name, bad, word) for name, cases in BREAKS.items() for bad, word in cases],
    ids=[f"{name}-{i}" for name, cases in BREAKS.items() for i in range(len(cases))],
)
def test_a_rule_complains_about_a_chapter_that_breaks_it(name: str, bad: Callable[[], Chapter], word: str):
    complaints = RULES[name](bad())
    assert any(word in line for line in complaints), complaints
