"""What recipes need and tests make: a small teacher, a small RipsNet, and the overrides that name them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from topokd_lib.data import load_data
from topokd_lib.models import create_model
from topokd_lib.prepare import RipsNetPlan
from topokd_lib.recipes import DataSpec, Recipe, RipsNetRecipe, TeacherSpec, find_recipe, run_ripsnet_recipe
from topokd_lib.training import save_student

MINE = """\
# A recipe of my own
data: {name: digits, options: {size: 8}}
student: resnet8
terms:
  ce: {objective: CrossEntropy}
schedule: {epochs: 2, milestones: []}
"""
"""Trains in a second."""

HERE = {"digits", "shapes"}
"""Data sets that need no download; recipes with others are tried on one of these."""


def write_recipe(directory: Path, *changes: tuple[str, str]) -> str:
    """A file with :data:`MINE`, with parts of the text replaced."""
    text = MINE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = directory / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def make_teacher(path: Path, *, classes: int = 10, seed: int = 0, data: str = "digits") -> Path:
    """Weights of an untrained network, which teaches nothing but is all that a recipe asks for."""
    torch.manual_seed(seed)
    model = create_model("resnet8", num_classes=classes)
    save_student(path, model, normalisation=load_data(data).normalisation, data=data)
    return path


def make_ripsnet(path: Path, teacher: Path, data: DataSpec) -> Path:
    """The artefact of a RipsNet that has seen a few clouds."""
    plan = RipsNetPlan(clouds=24, epochs=2)
    run_ripsnet_recipe(RipsNetRecipe(data, TeacherSpec(teacher), path, plan))
    return path


@dataclass
class Case:
    """One recipe of the library, ready to run with small things in place of what it needs."""

    name: str
    kind: type[Recipe] | type[RipsNetRecipe]
    overrides: list[str]

    @classmethod
    def make(cls, name: str, directory: Path) -> "Case":
        """Read from the file what is needed, and make it."""
        content: dict[str, Any] = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
        data = DataSpec(**content["data"])
        overrides: list[str] = []
        if data.name not in HERE:
            data = DataSpec("digits", batch_size=data.batch_size, augment=data.augment)
            overrides += ["--data.name", "digits", "--data.options", "{}"]
        teacher = directory / "teacher.safetensors"
        if content.get("teacher"):
            make_teacher(teacher, classes=data.load().num_classes, data=data.name)
            overrides += ["--teacher.weights", str(teacher)]
        if "artefact" in content:
            overrides += ["--artefact", str(directory / "made.safetensors")]
            overrides += ["--plan.clouds", "24", "--plan.epochs", "2"]
            return cls(name, RipsNetRecipe, overrides)
        for term, about in content["terms"].items():
            objective = about["objective"]
            if isinstance(objective, dict) and "artefact" in objective.get("init_args", {}):
                artefact = make_ripsnet(directory / f"{term}.safetensors", teacher, data)
                overrides += [f"--terms.{term}.objective.init_args.artefact", str(artefact)]
        return cls(name, Recipe, overrides)
