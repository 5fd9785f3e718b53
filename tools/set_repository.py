"""Change the repository's address everywhere: `python -m tools.set_repository https://github.com/OWNER/NAME`.

`pyproject.toml` holds the address; `_config.yml`, the chapters' first cells, `CITATION.cff` and the links
of the Markdown files repeat it, because the tools that read those cannot look it up.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tools.environment import ROOT

GITHUB = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")


def repository(root: Path = ROOT) -> str:
    """The address in `pyproject.toml`."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def slug(address: str) -> str:
    """`OWNER/NAME` of an address on GitHub, which is the only host that Colab's and Binder's buttons open."""
    match = GITHUB.fullmatch(address)
    if not match:
        raise ValueError(
            "the buttons to Colab and Binder need a repository on GitHub, https://github.com/OWNER/NAME; "
            f"got {address!r}"
        )
    return match[1]


def files(root: Path = ROOT) -> list[Path]:
    """The files of the repository, those not yet added included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [path for name in filter(None, listed.split("\0")) if (path := root / name).is_file()]


def change(old: str, new: str, paths: list[Path]) -> list[Path]:
    """Replace `OWNER/NAME` in every text file; returns those that changed."""
    changed = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if old in text:
            path.write_text(text.replace(old, new), encoding="utf-8")
            changed.append(path)
    return changed


def main() -> None:
    """Change the address and name the files."""
    if len(sys.argv) != 2:
        sys.exit(f"{__doc__}\nThe address is now {repository()}")
    try:
        new = slug(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    for path in change(slug(repository()), new, files()):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
