"""The lock holds exact versions and nothing else, and everything that names versions agrees with it."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environment import LOCK, ROOT, locked_lines
from tools.lock import EXTRAS, PINS, lock_text, only_on_linux


def requirements(path):
    return {
        canonicalize_name(Requirement(line).name): Requirement(line)
        for line in locked_lines(path.read_text(encoding="utf-8"))
    }


def test_every_line_is_a_name_and_an_exact_version():
    lines = locked_lines(LOCK.read_text(encoding="utf-8"))
    assert lines == sorted(lines)
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; sys_platform == \"linux\")?", line), line


def test_the_lock_covers_what_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = list(project["dependencies"])
    for extra in EXTRAS.split(","):
        asked += project["optional-dependencies"][extra]
    locked = requirements(LOCK)
    for text in asked:
        wanted = Requirement(text)
        found = locked[canonicalize_name(wanted.name)]
        exact = next(iter(found.specifier)).version
        assert wanted.specifier.contains(exact), f"{found} does not satisfy {text}: run `make lock`"


def test_versions_chosen_by_hand_are_kept():
    locked = requirements(LOCK)
    for name, pin in requirements(PINS).items():
        assert locked[name].specifier == pin.specifier


def test_this_environment_is_the_locked_one():
    different = {}
    for name, locked in requirements(LOCK).items():
        if locked.marker is not None and not locked.marker.evaluate():
            continue
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "not installed"
        if not locked.specifier.contains(installed):
            different[str(locked)] = installed
    assert not different, "bring it up to date with `make env`"


def test_conda_names_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert "python=3.11" in environment["dependencies"]
    lines = environment["dependencies"][-1]["pip"]
    assert f"--editable .[{EXTRAS}]" in lines
    listed = {Requirement(line).name: Requirement(line) for line in lines if not line.startswith("-")}
    assert set(listed) >= {
        "jupyter-book",
        "torch",
        "torchvision",
        "gudhi",
        "giotto-tda",
        "matplotlib",
        "umap-learn",
    }
    locked = requirements(LOCK)
    for name, requirement in listed.items():
        assert requirement.specifier.contains(next(iter(locked[name].specifier)).version)


PACKAGES = [
    {"name": "ours", "version": "1", "requires_dist": ["torch", "tqdm"]},
    {"name": "torch", "version": "2", "requires_dist": ['cuda_lib ; platform_system == "Linux"', "numpy"]},
    {"name": "cuda-lib", "version": "3", "requires_dist": ["cuda-part"]},
    {"name": "cuda-part", "version": "4"},
    {"name": "numpy", "version": "5"},
    {"name": "tqdm", "version": "6", "requires_dist": ["colorama ; sys_platform == 'win32'"]},
]


def test_what_only_linux_needs_is_marked_with_all_that_it_needs():
    assert only_on_linux(PACKAGES, "ours") == {"cuda-lib", "cuda-part"}


def test_a_lock_names_everything_but_the_project():
    assert locked_lines(lock_text(PACKAGES, "ours")) == [
        'cuda-lib==3 ; sys_platform == "linux"',
        'cuda-part==4 ; sys_platform == "linux"',
        "numpy==5",
        "torch==2",
        "tqdm==6",
    ]
