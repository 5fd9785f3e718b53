"""The trainer knows no method, no model and no data set: no string in it equals the name of one."""

import ast
from pathlib import Path

import topokd_lib
from topokd_lib import objectives
from topokd_lib.data import DATA
from topokd_lib.models import MODELS

TRAINING = Path(topokd_lib.__file__).parent / "training"
GENERAL = {"InitStage", "Objective", "WeightedSum"}


def names() -> set[str]:
    methods = set(objectives.__all__) - GENERAL
    modules = {path.stem for path in (TRAINING.parent / "objectives").glob("*.py")} - {"__init__", "base"}
    return {name.lower() for name in methods | modules | set(MODELS) | set(DATA)}


def strings(source: str) -> set[str]:
    """String constants of a module, lower case, without the export lists."""
    tree = ast.parse(source)
    exported = {
        id(node)
        for statement in tree.body
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__"
        for node in ast.walk(statement)
    }
    return {
        node.value.lower()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in exported
    }


def test_the_rule_sees_a_violation():
    assert "kd" in names()
    assert names() & strings('def fit(name):\n    return name == "KD"') == {"kd"}
    assert not names() & strings('__all__ = ["KD"]')


def test_no_string_in_the_trainer_names_a_method_a_model_or_a_data_set():
    found = {path.name: names() & strings(path.read_text()) for path in TRAINING.glob("*.py")}
    assert len(found) >= 9
    assert not {file: sorted(used) for file, used in found.items() if used}
