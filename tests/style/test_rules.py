"""Rules that keep the library the same everywhere. Each says what to do when it is broken."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import topokd_lib

LIBRARY = Path(topokd_lib.__file__).parent
ROOT = LIBRARY.parent
FILES = sorted(LIBRARY.rglob("*.py"))
METHODS = [
    path for path in FILES if path.parent.name == "objectives" and path.stem not in ("__init__", "base")
]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def exports(module: ast.Module) -> list[str] | None:
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return None


def functions(module: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef))


# The rules: each gives a list of complaints about one module.


def relative_imports(module: ast.Module) -> list[str]:
    return [
        f"line {node.lineno}: import from topokd_lib, not from {'.' * node.level}{node.module or ''}"
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def bare_not_implemented(module: ast.Module) -> list[str]:
    return [
        f"line {node.lineno}: make the method abstract, or say what is not there and what to do"
        for node in ast.walk(module)
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and re.fullmatch(r"NotImplementedError(\(\))?", ast.unparse(node.exc))
    ]


def empty_functions(module: ast.Module) -> list[str]:
    return [
        f"line {node.lineno}: {node.name} does nothing; a docstring says why, `pass` does not"
        for node in functions(module)
        if isinstance(node.body[-1], ast.Pass) or (len(node.body) == 1 and ast.unparse(node.body[0]) == "...")
    ]


def prints(module: ast.Module) -> list[str]:
    return [
        f"line {node.lineno}: return it, raise it or log it"
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]


def asserts_about_arguments(module: ast.Module) -> list[str]:
    return [
        f"line {node.lineno}: raise an error that says what to do"
        for function in functions(module)
        for node in ast.walk(function)
        if isinstance(node, ast.Assert)
        and {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        & {argument.arg for argument in function.args.args + function.args.kwonlyargs} - {"self"}
    ]


def unfinished(module: ast.Module) -> list[str]:
    docs = [ast.get_docstring(node) or "" for node in ast.walk(module)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]  # fmt: skip
    return [f"finish it: {doc.splitlines()[0]}" for doc in docs if re.search(r"\b(TODO|FIXME|XXX)\b", doc)]


RULES = [relative_imports, bare_not_implemented, empty_functions, asserts_about_arguments, unfinished]

BROKEN = {
    relative_imports: "from . import errors",
    bare_not_implemented: "def f():\n    raise NotImplementedError",
    empty_functions: "def f():\n    pass",
    prints: "print(1)",
    asserts_about_arguments: "def f(x):\n    assert x > 0\n    return x",
    unfinished: '"""TODO: all."""',
}


@pytest.mark.parametrize("rule", BROKEN, ids=lambda rule: rule.__name__)
def test_rule_sees_what_it_forbids(rule):
    assert len(rule(ast.parse(BROKEN[rule]))) == 1
    assert rule(ast.parse('"""Fine."""\n\n\ndef f(x):\n    return x\n')) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule):
    files = [path for path in FILES if path.name != "testing.py" or rule is not asserts_about_arguments]
    broken = {name(path): found for path in files if (found := rule(tree(path)))}
    assert broken == {}


def test_only_commands_print():
    speaking = {name(path) for path in FILES if prints(tree(path)) and path.parent.name != "cli"}
    assert speaking <= {"topokd_lib/demo.py"}


# ------------------------------------------------------------------------------------------ what is public


SPEAKING = [path for path in FILES if path != LIBRARY / "__init__.py" and len(tree(path).body) > 1]


@pytest.mark.parametrize("path", SPEAKING, ids=name)
def test_module_says_what_is_public(path):
    exported = exports(tree(path))
    assert exported is not None, "give it an __all__"
    module = importlib.import_module(module_name(path))
    assert [item for item in exported if not hasattr(module, item)] == []
    assert len(set(exported)) == len(exported)

    def order(item: str) -> tuple[int, str]:  # CONSTANTS, Classes, functions, as ruff's RUF022 has it
        return (0 if item.isupper() and len(item) > 1 else 1 if item[0].isupper() else 2, item)

    assert exported == sorted(exported, key=order)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_what_is_public_is_described(path):
    module = tree(path)
    assert ast.get_docstring(module), "begin the file with a sentence that says what it is for"
    public = exports(module) or []
    for node in module.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in public:
            assert ast.get_docstring(node), f"line {node.lineno}: say what {node.name} is"


def unshaped_tensors(module: ast.Module) -> list[str]:
    """Arguments of public functions; ``check_…`` is asked about tensors of any shape."""
    return [
        f"line {node.lineno}: name the axes of {argument.arg} in {node.name}: Float[Tensor, 'batch dim']"
        for node in module.body
        if isinstance(node, ast.FunctionDef)
        and node.name in (exports(module) or [])
        and not node.name.startswith("check_")
        for argument in node.args.args + node.args.kwonlyargs
        if argument.annotation and ast.unparse(argument.annotation) in ("Tensor", "torch.Tensor")
    ]


def test_tensors_that_cross_a_public_border_have_shapes():
    assert len(unshaped_tensors(ast.parse("__all__ = ['f']\n\ndef f(x: Tensor):\n    return x"))) == 1
    folders = ("topology", "objectives", "analysis", "prepare")
    found = {name(path): unshaped_tensors(tree(path)) for path in FILES if path.parent.name in folders}
    assert len(found) > 12
    assert {file: complaints for file, complaints in found.items() if complaints} == {}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_arguments_that_are_described_exist(path):
    """A renamed argument takes its description with it."""
    module = importlib.import_module(module_name(path))
    for item in exports(tree(path)) or []:
        thing = getattr(module, item)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or thing.__module__ != module.__name__:
            continue
        described = re.search(
            r"(?m)^ *Args:\n((?: {4,}.*\n|\n)+)", inspect.cleandoc(thing.__doc__ or "") + "\n"
        )
        if described:
            names = set(re.findall(r"(?m)^ {4}\*{0,2}(\w+):", described[1]))
            assert names <= set(inspect.signature(thing).parameters), f"{item} describes {names}"


# ------------------------------------------------------------------------------------------- what is cited


@pytest.fixture(scope="module")
def bibliography() -> set[str]:
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    return set(re.findall(r"(?m)^@\w+\{([^,\s]+),", text))


@pytest.mark.parametrize("path", METHODS, ids=lambda path: path.stem)
def test_method_says_where_it_is_from_and_where_it_is_explained(path, bibliography):
    text = ast.get_docstring(tree(path)) or ""
    explained = re.search(r"(?m)^Explained in:\n {4}(\S+)$", text)
    assert explained, "name the chapter: 'Explained in:' and its path on the next line"
    assert explained[1].startswith("book/")
    if path.stem != "cross_entropy":
        reference = re.search(r"(?m)^Reference:\n((?: {4}.*\n)+)", text)
        assert reference, "name the paper: 'Reference:', authors, title, where, and its [key]"
        assert re.search(r"\[\w+\]", reference[1])


@pytest.mark.parametrize("path", FILES, ids=name)
def test_keys_of_references_exist(path, bibliography):
    cited = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for block in re.findall(r"(?m)^ *Reference:\n((?: {4,}.*\n?)+)", ast.get_docstring(node) or ""):
                cited |= set(re.findall(r"\[(\w+)\]", block))
    assert cited <= bibliography


# ------------------------------------------------------------------------------- how modules hang together


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
    )
    return done.stdout.strip()


def test_importing_the_library_is_instant():
    seconds, heavy = run_python(
        "import sys, time; start = time.process_time(); import topokd_lib; "
        "print(time.process_time() - start, sorted({'torch', 'numpy', 'matplotlib'} & set(sys.modules)))"
    ).split(maxsplit=1)
    assert float(seconds) < 0.5
    assert heavy == "[]"


def test_asking_for_help_does_not_wait_for_torch():
    heavy = run_python(
        "import sys\nfrom topokd_lib.cli import main\nmain(['--version'])\nmain(['--help'])\n"
        "print('torch' in sys.modules)"
    )
    assert heavy.splitlines()[-1] == "False"


def test_training_does_not_load_what_it_does_not_need():
    heavy = run_python(
        "import sys, topokd_lib.recipes, topokd_lib.demo\n"
        "print(sorted({'matplotlib', 'torchvision', 'sklearn', 'gtda', 'umap', 'pandas'} & set(sys.modules)))"
    )
    assert heavy == "[]"


LINT = Path(sys.executable).with_name("lint-imports")


@pytest.mark.skipif(not LINT.exists(), reason="import-linter is not installed")
def test_imports_run_one_way():
    done = subprocess.run([LINT], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert " 0 broken" in done.stdout


FORBIDDEN = {
    "topology needs the trainer": ("topology/rips.py", "from topokd_lib.training import fit"),
    "topology needs outputs": ("topology/rips.py", "from topokd_lib.outputs import Batch"),
    "the trainer knows a method": ("training/fit.py", "from topokd_lib.objectives.kd import KD"),
    "models need data": ("models/base.py", "from topokd_lib.data import ImageData"),
    "a layer draws": ("training/fit.py", "from topokd_lib.plotting.style import TEACHER"),
    "a recipe analyses": ("recipes/run.py", "from topokd_lib.analysis import compare"),
    "a drawing needs recipes": ("plotting/results.py", "from topokd_lib.cli import main"),
    "the library needs the book": ("prepare/ripsnet.py", "from topokd_lib.book import init"),
    "the library needs its tests": ("pair.py", "from topokd_lib.testing import check_objective"),
    "errors need anything": ("errors.py", "from topokd_lib.outputs import Batch"),
}


@pytest.mark.skipif(not LINT.exists(), reason="import-linter is not installed")
@pytest.mark.parametrize("what", FORBIDDEN)
def test_contracts_bite(what, tmp_path):
    """A copy of the library's imports with one that is forbidden is refused."""
    for path in FILES:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    place, statement = FORBIDDEN[what]
    with (tmp_path / "topokd_lib" / place).open("a", encoding="utf-8") as file:
        file.write(f"\n{statement}\n")
    done = subprocess.run(
        [LINT, "--no-cache"], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.returncode == 1, done.stdout
    assert re.search(r"[1-9] broken", done.stdout)
