"""What recipes need and tests make: a small teacher, a small RipsNet, and the overrides that name them."""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from topokd_lib.data import ImageData, load_data
from topokd_lib.data.cifar import NORMALISATION
from topokd_lib.models import create_model
from topokd_lib.objectives import PathwayProcess
from topokd_lib.outputs import Normalisation
from topokd_lib.prepare import AttributionPlan, RipsNetPlan, prepare_image_persistence
from topokd_lib.recipes import (
    AttributionRecipe,
    DataSpec,
    DistProRecipe,
    ImagePersistenceRecipe,
    Recipe,
    RipsNetRecipe,
    TeacherSpec,
    find_recipe,
    run_attribution_recipe,
    run_ripsnet_recipe,
)
from topokd_lib.topology import ScanPersistence
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


def noise(name: str, *, classes: int, size: int = 32) -> ImageData:
    """A data set of the right shape in which there is nothing to learn."""
    random = np.random.default_rng(0).integers(0, 256, (264, 3, size, size), dtype=np.uint8)
    images, labels = torch.from_numpy(random), torch.arange(264) % classes
    names = tuple(map(str, range(classes)))
    normalisation = NORMALISATION.get(name, IMAGENET)
    return ImageData(name, images[:200], labels[:200], images[200:], labels[200:], names, normalisation)


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

STAND_INS = {
    "cifar10": partial(noise, "cifar10", classes=10),
    "cifar100": partial(noise, "cifar100", classes=100),
    "cinic10": partial(noise, "cinic10", classes=10),
    "imagenet": partial(noise, "imagenet", classes=10, size=64),
}
"""What recipes get in tests in place of data sets that have to be downloaded; see ``conftest.py``."""


def write_recipe(directory: Path, *changes: tuple[str, str]) -> str:
    """A file with :data:`MINE`, with parts of the text replaced."""
    text = MINE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = directory / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def make_teacher(
    path: Path, name: str = "resnet8", *, classes: int = 10, seed: int = 0, data: str = "digits"
) -> Path:
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


def make_persistence(path: Path, data: ImageData) -> Path:
    """Small persistence images."""
    scans = ScanPersistence(resolution=8, span=1.0)
    return prepare_image_persistence(data, scans, path, processes=1).path


def make_group(content: dict[str, Any], directory: Path) -> list[str]:
    """Overrides that name small things in place of teachers, persistence images and a start."""
    data = load_data(content["data"]["name"], **content["data"].get("options", {}))
    overrides = []
    for name in content["data"].get("extras", {}):
        made = make_persistence(directory / name, data)
        overrides += [f"--data.extras.{name}.artefact", str(made)]
    for name, about in content["teachers"].items():
        reads = about.get("reads")
        images = load_data("prepared-images", artefact=directory / reads) if reads else data
        model = create_model("resnet8", num_classes=10, in_channels=images.image_shape[0])
        save_student(
            directory / f"{name}.safetensors",
            model,
            in_channels=images.image_shape[0],
            normalisation=images.normalisation,
            data=images.name,
            data_fingerprint=images.fingerprint(),
        )
        overrides += [f"--teachers.{name}.weights", str(directory / f"{name}.safetensors")]
    return overrides


def make_attributions(path: Path, teacher: Path, data: DataSpec) -> Path:
    """Maps that are made in two steps."""
    plan = AttributionPlan(steps=2, batch_size=128)
    run_attribution_recipe(AttributionRecipe(data, TeacherSpec(teacher), path, plan))
    return path


def data_spec(content: dict[str, Any]) -> DataSpec:
    """The images of a recipe, without what batches carry beside them."""
    fields = {name: value for name, value in content["data"].items() if name not in ("extras", "overlay")}
    if "normalisation" in fields:
        numbers = fields["normalisation"]
        fields["normalisation"] = Normalisation(tuple(numbers["mean"]), tuple(numbers["std"]))
    return DataSpec(**fields)


def make_process(path: Path, student: str = "resnet8", teacher: str = "resnet8") -> Path:
    """Pathway weights that a search might have found."""
    stages = tuple(f"stage{number}.preact" for number in (1, 2, 3))
    torch.manual_seed(0)
    PathwayProcess(torch.randn(4, 6), student, teacher, stages, stages).save(path)
    return path


@dataclass
class Case:
    """One recipe of the library, ready to run with small things in place of what it needs."""

    name: str
    kind: (
        type[Recipe]
        | type[RipsNetRecipe]
        | type[DistProRecipe]
        | type[ImagePersistenceRecipe]
        | type[AttributionRecipe]
    )
    overrides: list[str]

    @classmethod
    def make(cls, name: str, directory: Path) -> "Case":
        """Read from the file what is needed, and make it."""
        content: dict[str, Any] = yaml.safe_load(find_recipe(name).read_text(encoding="utf-8"))
        data = data_spec(content)
        overrides: list[str] = []
        if "persistence" in content:
            overrides = ["--artefact", str(directory / "made"), "--processes", "1"]
            return cls(name, ImagePersistenceRecipe, overrides)
        if data.name == "prepared-images":
            made = make_persistence(directory / "made", load_data("digits", size=8))
            overrides += ["--data.options.artefact", str(made), "--student", "resnet8"]
        if "teachers" in content:
            overrides += make_group(content, directory)
        if "initial_weights" in content:
            start = make_teacher(directory / "start.safetensors", data=data.name)
            overrides += ["--initial_weights", str(start)]
        if data.name in STAND_INS:  # small batches, and below a small student, save minutes
            data = replace(data, batch_size=16)
            overrides += ["--data.batch_size", "16"]
            if data.name == "imagenet":  # the views of its loader are for images on disk
                data = replace(data, augment="none")
                overrides += ["--data.augment", "none"]
        teacher = directory / "teacher.safetensors"
        if content.get("teacher"):
            make_teacher(teacher, classes=data.load().num_classes, data=data.name)
            overrides += ["--teacher.weights", str(teacher)]
            if "model" in content["teacher"]:
                overrides += ["--teacher.model", "null"]
        if "attributions" in content:
            overrides += ["--artefact", str(directory / "made"), "--attributions.steps", "2"]
            overrides += ["--attributions.batch_size", "128"]
            return cls(name, AttributionRecipe, overrides)
        if content["data"].get("overlay"):
            maps = make_attributions(directory / "maps", teacher, data)
            overrides += ["--data.overlay.artefact", str(maps)]
        if "artefact" in content and "student" in content:
            overrides += ["--artefact", str(directory / "made.safetensors"), "--student", "resnet8"]
            overrides += ["--plan.epochs", "1", "--plan.every", "9"]
            return cls(name, DistProRecipe, overrides)
        if "artefact" in content:
            overrides += ["--artefact", str(directory / "made.safetensors")]
            overrides += ["--plan.clouds", "24", "--plan.epochs", "2"]
            return cls(name, RipsNetRecipe, overrides)
        if data.name in STAND_INS:
            overrides += ["--student", "resnet8"]
        for term, about in content["terms"].items():
            objective = about["objective"]
            arguments = objective.get("init_args", {}) if isinstance(objective, dict) else {}
            path = directory / f"{term}.safetensors"
            if "artefact" in arguments:
                make_ripsnet(path, teacher, data)
                overrides += [f"--terms.{term}.objective.init_args.artefact", str(path)]
            if "block9" in str(objective):  # which the small student lacks
                overrides += [f"--terms.{term}.objective.init_args.student_features", '["stage2"]']
            elif "student_features" in arguments:  # the small student has three stages
                kept = [name for name in arguments["student_features"] if not name.startswith("stage4")]
                overrides += [f"--terms.{term}.objective.init_args.student_features", json.dumps(kept)]
            if "process" in arguments:
                make_process(path)
                overrides += [f"--terms.{term}.objective.init_args.process", str(path)]
        return cls(name, Recipe, overrides)
