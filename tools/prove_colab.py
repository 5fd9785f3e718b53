"""Run every chapter as Colab would: from an empty folder, on Colab's versions, without anything of ours.

The first cell of a chapter installs the library from the repository's address; here that address is replaced
by a copy of this working tree, as it stands. Afterwards none of Colab's own packages may have changed.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from packaging.requirements import Requirement

from tools.build_book import chapters
from tools.environment import ROOT, locked_lines

COLAB = ROOT / "requirements" / "colab.txt"
ADDRESS = re.compile(r"git\+https://[^\s\"']+")


def find_python(versions: tuple[str, ...] = ("3.13", "3.12", "3.11")) -> Path:
    """An interpreter as near to Colab's as this machine has, on the PATH or among pyenv's."""
    for version in versions:
        candidates = [shutil.which(f"python{version}")]
        candidates += sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}*/bin/python"))
        for candidate in candidates:
            if candidate and _says([candidate, "-c", "import sys; print(sys.version)"]).startswith(version):
                return Path(candidate)
    sys.exit(f"This needs one of Python {', '.join(versions)} on the PATH, or --python PATH; found none.")


def _says(command: list[object]) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False).stdout


def base_environment(python: Path) -> Path:
    """An environment with Colab's packages; made once and kept in the user's cache."""
    key = hashlib.sha256((_says([python, "-VV"]) + COLAB.read_text(encoding="utf-8")).encode()).hexdigest()[
        :12
    ]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    base = cache / "topokd-colab" / key
    if not (base / "complete").exists():
        print(f"Creating an environment like Colab's in {base} (once; about 3 GB to download)", flush=True)
        subprocess.run([python, "-m", "venv", "--clear", base], check=True)
        subprocess.run([base / "bin" / "python", "-m", "pip", "install", "-qq", "-r", COLAB], check=True)
        (base / "complete").touch()
    return base


def overlay(base: Path, folder: Path) -> Path:
    """A fresh environment on top of `base`, so that installing into it leaves `base` as it is; its Python."""
    subprocess.run([base / "bin" / "python", "-m", "venv", folder], check=True)
    below, own = (next(path.glob("lib/python3*/site-packages")) for path in (base, folder))
    (own / "colab.pth").write_text(f"{below}\n", encoding="utf-8")
    return folder / "bin" / "python"


def versions(python: Path) -> dict[str, str]:
    """The versions that a kernel of this environment imports."""
    names = [Requirement(line).name for line in locked_lines(COLAB.read_text(encoding="utf-8"))]
    code = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {names}}}))"
    return json.loads(_says([python, "-c", code]))


def snapshot(folder: Path) -> Path:
    """A repository that holds the working tree as it stands, uncommitted changes included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    author = ["-c", "user.name=make colab", "-c", "user.email=colab@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "As it stands"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def run(notebook: Path, address: str, kernel: str, cell_timeout: int) -> tuple[float, str]:
    """Seconds that a chapter took in an empty folder, and what went wrong, if anything."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.source = ADDRESS.sub(address, cell.source)
    start, trouble = time.monotonic(), ""
    with tempfile.TemporaryDirectory() as empty:
        client = NotebookClient(
            content, kernel_name=kernel, timeout=cell_timeout, resources={"metadata": {"path": empty}}
        )
        try:
            client.execute()
        except (CellExecutionError, CellTimeoutError) as error:
            trouble = str(error)
    return time.monotonic() - start, trouble


def main() -> None:
    """Run the chapters and print a table; exit with 1 if one fails or a package of Colab's was replaced."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--python", type=Path, help="interpreter to use instead of the one nearest to Colab's"
    )
    parser.add_argument("--timeout", type=int, default=300, help="seconds for a cell")
    parser.add_argument("notebooks", nargs="*", type=Path, help="these instead of all chapters")
    options = parser.parse_args()
    base = base_environment(options.python or find_python())
    with tempfile.TemporaryDirectory(prefix="topokd-colab-") as name:
        folder = Path(name)
        python = overlay(base, folder / "environment")
        there = subprocess.run(
            [python, "-c", "import topokd_lib"], cwd=folder, capture_output=True, check=False
        )
        if not there.returncode:
            sys.exit(
                "topokd_lib can be imported before it is installed: is PYTHONPATH set? Nothing is proven."
            )
        before = versions(python)
        print(_says([python, "-VV"]).strip(), *(f"{key} {value}" for key, value in before.items()), sep=", ")
        specification = folder / "jupyter" / "kernels" / "colab" / "kernel.json"
        specification.parent.mkdir(parents=True)
        command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        specification.write_text(json.dumps({"argv": command, "display_name": "Colab", "language": "python"}))
        os.environ.update(JUPYTER_PATH=str(folder / "jupyter"), PYDEVD_DISABLE_FILE_VALIDATION="1")
        address = f"git+file://{snapshot(folder / 'repository')}"
        failed = 0
        for notebook in options.notebooks or chapters():
            seconds, trouble = run(notebook, address, "colab", options.timeout)
            failed += bool(trouble)
            print(f"  {seconds:6.1f} s  {'FAILED' if trouble else 'ok':6}  {notebook.name}", flush=True)
            if trouble:
                print(trouble, file=sys.stderr)
        after = versions(python)
    changed = {key: f"{before[key]} → {after[key]}" for key in before if before[key] != after[key]}
    if changed:
        print(f"The first cell replaced packages of Colab's: {changed}", file=sys.stderr)
    sys.exit(bool(failed or changed))


if __name__ == "__main__":
    main()
