"""The environment is made where it can be; where it cannot, a message says what was found and what to do."""

import ast
import json
import re
import sys

import pytest

from tools import environment
from tools.environment import Trouble

OFFLINE = """\
WARNING: Retrying after connection broken by 'NewConnectionError: Name or service not known': /simple/attrs/
ERROR: Could not find a version that satisfies the requirement attrs==26.1.0 (from versions: none)
ERROR: No matching distribution found for attrs==26.1.0
"""


def test_it_runs_under_an_old_python_with_nothing_installed():
    tree = ast.parse((environment.ROOT / "tools" / "environment.py").read_text(), feature_version=(3, 7))
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 12, 1), (2, 7, 18)])
def test_another_python_is_refused_and_named(version):
    with pytest.raises(Trouble) as caught:
        environment.check_python(version, "/usr/bin/python3")
    message = str(caught.value)
    assert "needs Python 3.11" in message
    assert f"Found Python {version[0]}.{version[1]} (/usr/bin/python3)" in message
    assert "make book PYTHON=" in message


def test_python_3_11_is_accepted():
    environment.check_python((3, 11, 7), "python3.11")


def test_a_small_disk_is_refused_before_anything_is_downloaded(tmp_path):
    with pytest.raises(Trouble, match=r"needs 10 GB of free disk(.|\n)*Found 2\.5 GB(.|\n)*make book VENV="):
        environment.check_disk(2.5e9, tmp_path)
    environment.check_disk(10e9, tmp_path)


def test_missing_git_is_named():
    with pytest.raises(Trouble, match=r"git is needed(.|\n)*no `git`(.|\n)*Install it"):
        environment.check_git(None)
    environment.check_git("/usr/bin/git")


def test_an_unreachable_registry_is_told_from_other_failures():
    message = environment.explain_pip(OFFLINE, "the.log")
    assert "registry cannot be reached" in message
    assert "Name or service not known" in message
    assert "the.log" in message


@pytest.mark.parametrize(
    "output",
    [
        "ERROR: Could not find a version that satisfies attrs==99 (from versions: 25.1, 26.1)",
        "ERROR: ResolutionImpossible: for help visit …",
        "WARNING: Retrying after 'Connection reset'\nERROR: Failed building wheel for gudhi",
    ],
)
def test_a_registry_that_answered_is_not_blamed(output):
    message = environment.explain_pip(output, "the.log")
    assert "registry was reached" in message
    assert output.splitlines()[-1][:40] in message
    assert "conda env create" in message


def test_a_disk_that_fills_up_is_recognised():
    message = environment.explain_pip("ERROR: [Errno 28] No space left on device", "the.log")
    assert "filled the disk" in message
    assert "VENV=" in message


@pytest.fixture
def venv(tmp_path, monkeypatch):
    """A project with a lock of one package, and an environment whose python only repeats what it is told."""
    (tmp_path / "requirements").mkdir()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "LOCK", tmp_path / "requirements" / "py311.txt")
    environment.LOCK.write_text("# exact\nattrs==26.1.0\n")
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\n[project]\nname = "x"\n[tool.ruff]\nline-length = 9\n'
    )
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    answers(folder, "exit 0")
    return folder


def answers(folder, script):
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n{script}\n')
    python.chmod(0o755)


def test_an_environment_is_made_once(venv):
    wanted = environment.fingerprints()
    assert environment.plan(venv, wanted) == ["packages", "project"]
    environment.make(venv, ["packages", "project"], wanted, lambda text: None)
    asked = (venv / "asked").read_text()
    assert "attrs==26.1.0" in asked
    assert "--no-deps -e" in asked
    assert environment.plan(venv, wanted) == []


def test_only_what_changed_is_done_again(venv):
    environment.make(venv, ["packages", "project"], environment.fingerprints(), lambda text: None)
    project = environment.ROOT / "pyproject.toml"
    project.write_text(project.read_text().replace("line-length = 9", "line-length = 10"))
    assert environment.plan(venv, environment.fingerprints()) == []
    project.write_text(project.read_text().replace('name = "x"', 'name = "y"'))
    assert environment.plan(venv, environment.fingerprints()) == ["project"]
    environment.LOCK.write_text("# another comment\nattrs==26.2.0\n")
    assert environment.plan(venv, environment.fingerprints()) == ["packages", "project"]


def test_an_interrupted_installation_is_begun_anew(venv):
    wanted = environment.fingerprints()
    environment.make(venv, ["packages", "project"], wanted, lambda text: None)
    answers(venv, f"cat <<'END'\n{OFFLINE}\nEND\nexit 1")
    with pytest.raises(Trouble, match="registry cannot be reached"):
        environment.make(venv, ["packages", "project"], wanted, lambda text: None)
    assert environment.plan(venv, wanted) == ["create", "packages", "project"]


def test_a_damaged_stamp_counts_as_none(venv):
    (venv / "made-from.json").write_text("{")
    assert environment.read_stamp(venv) == {}


def test_the_stamp_holds_no_time_so_that_equal_environments_have_equal_stamps(venv):
    environment.make(venv, ["project"], environment.fingerprints(), lambda text: None)
    assert set(json.loads((venv / "made-from.json").read_text())) == {"lock", "project", "root"}


def test_a_wrong_python_stops_make_with_the_message(tmp_path):
    """The real command, with an interpreter that says it is Python 3.9."""
    import subprocess

    code = (
        "import sys, runpy; sys.version_info = (3, 9, 2); sys.argv = ['environment.py', '--venv', 'no']; "
        f"runpy.run_path({str(environment.ROOT / 'tools' / 'environment.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert re.search(r"needs Python 3\.11(.|\n)*Found Python 3\.9", done.stderr)
    assert "Traceback" not in done.stderr
