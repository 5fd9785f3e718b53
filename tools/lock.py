"""Write `requirements/py311.txt`: exact versions of all that `pyproject.toml` asks for, with its extras.

pip resolves and installs nothing. Versions already locked are kept; `--upgrade` takes the newest ones that
agree with `requirements/pins.txt`. Only names and versions are written, never addresses.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import LOCK, ROOT, locked_lines

PINS = ROOT / "requirements" / "pins.txt"
EXTRAS = "attribution,bench,book,dev,fast,giotto,shards,tensorboard"
LINUX = re.compile(r"""(platform_system|sys_platform) == ["'][Ll]inux["']""")
HEADER = f"""\
# Exact versions for Python 3.11, tested on Linux x86-64. Written by `make lock` from pyproject.toml
# and pins.txt, which says why some versions are held back; not edited by hand. Extras:
# {EXTRAS}.
"""


def resolve(constraints: list[str]) -> list[dict[str, Any]]:
    """What pip would install into an empty environment: one metadata record per package."""
    with tempfile.TemporaryDirectory() as folder:
        report, limits = Path(folder) / "report.json", Path(folder) / "constraints.txt"
        limits.write_text("\n".join(constraints), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run", "--ignore-installed"]
        command += ["--report", str(report), "-c", str(limits), f"{ROOT}[{EXTRAS}]"]
        if subprocess.run(command, check=False).returncode:
            sys.exit("pip found no set of versions; its message is above. Try `make lock UPGRADE=1`.")
        return [entry["metadata"] for entry in json.loads(report.read_text(encoding="utf-8"))["install"]]


def only_on_linux(packages: list[dict[str, Any]], root: str) -> set[str]:
    """Packages that only Linux needs: every way to them passes a marker that says so. Mostly CUDA's."""
    requires = {canonicalize_name(package["name"]): package.get("requires_dist", []) for package in packages}
    elsewhere: set[str] = set()
    todo = [canonicalize_name(root)]
    while todo:
        name = todo.pop()
        if name in elsewhere or name not in requires:
            continue
        elsewhere.add(name)
        needs = [Requirement(text) for text in requires[name]]
        todo += [canonicalize_name(need.name) for need in needs if not LINUX.search(str(need.marker))]
    return set(requires) - elsewhere


def lock_text(packages: list[dict[str, Any]], project: str) -> str:
    """The lock file for the resolved packages, without the project itself."""
    linux = only_on_linux(packages, project)
    lines = []
    for package in packages:
        name = canonicalize_name(package["name"])
        if name != canonicalize_name(project):
            marker = ' ; sys_platform == "linux"' if name in linux else ""
            lines.append(f"{name}=={package['version']}{marker}")
    return HEADER + "\n".join(sorted(lines)) + "\n"


def main() -> None:
    """Write the lock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="newest versions instead of the locked ones")
    options = parser.parse_args()
    constraints = locked_lines(PINS.read_text(encoding="utf-8"))
    pinned = {canonicalize_name(Requirement(line).name) for line in constraints}
    if LOCK.exists() and not options.upgrade:
        locked = locked_lines(LOCK.read_text(encoding="utf-8"))
        constraints += [line for line in locked if canonicalize_name(Requirement(line).name) not in pinned]
    text = lock_text(resolve(constraints), "topokd-lib")
    LOCK.write_text(text, encoding="utf-8")
    print(f"{LOCK.relative_to(ROOT)}: {len(locked_lines(text))} packages")


if __name__ == "__main__":
    main()
