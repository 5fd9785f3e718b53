"""Small things of the right shape in place of what a recipe needs and is not there.

They teach nothing. With them a recipe can be rehearsed before its data, teacher or artefact exist, and what
its steps will cost can be measured.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from topokd_lib.data import ImageData, StreamedImages, load_data
from topokd_lib.models import MODELS, Teacher, create_model
from topokd_lib.outputs import Batch
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact
from topokd_lib.training import load_student, save_student

__all__ = ["ARTEFACTS", "SIZES", "stand_in_options"]

SIZES = {
    "cifar10": (32, 10, 50_000, 10_000),
    "cifar100": (32, 100, 50_000, 10_000),
    "imagenet": (224, 1000, 1_281_167, 50_000),
}
"""Pixels along a side, classes, training and test images of the data sets that have to be downloaded."""


def stand_in_options(
    text: str, folder: Path, *, synthetic: bool = False, network: str | None = None
) -> list[str]:
    """What the command line has to say besides, so that a recipe needs nothing that is not there.

    Args:
        text: The resolved recipe.
        folder: Where the stand-ins are written.
        synthetic: Replace data that have to be downloaded too, by noise in their shape, and with them the
            teacher and all artefacts.
        network: Of the teacher; by default the network that the path of its weights names, as the recipes of
            the library do, else the student.
    """
    recipe: dict[str, Any] = yaml.safe_load(text)
    batch_size = int(recipe["data"]["batch_size"])
    name, about = recipe["data"]["name"], recipe["data"].get("options") or {}
    options: list[str] = []
    if synthetic and name in SIZES:
        size, classes, _, _ = SIZES[name]
        name, about = "noise", {"size": size, "classes": classes, "train": 3 * batch_size, "test": 8}
        options += ["--data.name", name, "--data.options", json.dumps(about)]
        if str(recipe["data"]["augment"]).startswith("resized"):  # of images on disk; noise lies in memory
            options += ["--data.augment", "none"]
    wanted = (recipe.get("teacher") or {}).get("weights")
    if wanted is None:
        return options
    data, weights = load_data(name, **about), Path(wanted)
    invented = synthetic or not weights.exists()
    if published := recipe["teacher"].get("model"):  # nothing is downloaded for a rehearsal
        network = network or published
        options += ["--teacher.model", "null"]
    if invented:
        named = [part for part in weights.parts if part in MODELS]
        weights = folder / "teacher.safetensors"
        torch.manual_seed(0)
        model = create_model(network or (named or [recipe["student"]])[-1], num_classes=data.num_classes)
        save_student(weights, model)
        options += ["--teacher.weights", str(weights)]
    for option, argument, path in _artefacts(recipe):
        if argument == "process":  # without a search all pathways count the same
            options += [option, "null"] if invented or not Path(path).exists() else []
        elif invented or not Path(path).exists():
            model, _ = load_student(weights / "student.safetensors" if weights.is_dir() else weights)
            place = folder / f"{len(options)}.safetensors"
            ARTEFACTS[argument](Teacher(model), data, batch_size, place)
            options += [option, str(place)]
    return options


def _artefacts(recipe: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The option, the argument and the path of every artefact that a term reads."""
    for term, about in (recipe.get("terms") or {}).items():
        for argument, value in (about["objective"].get("init_args") or {}).items():
            if value is not None and argument in (*ARTEFACTS, "process"):
                yield f"--terms.{term}.objective.init_args.{argument}", argument, value


def _ripsnet(teacher: Teacher, data: ImageData | StreamedImages, cloud_size: int, path: Path) -> None:
    """An untrained RipsNet for the teacher's pooled feature."""
    image = PersistenceImage(
        birth_range=(0.0, 0.0),
        persistence_range=(0.0, 3.0),
        bandwidth=0.3,
        resolution=(20, 20),
        weight="tanh",
    )
    nothing = torch.zeros(1, dtype=torch.long)
    blank = Batch(torch.zeros(1, *data.image_shape), nothing, nothing)
    dim = teacher(blank, ["pooled"])["pooled"].shape[1]
    RipsNetArtefact(
        network=RipsNet(dim, image.pixels, pooling="mean"),
        image=image,
        dimension=0,
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint(),
        feature="pooled",
        cloud_size=cloud_size,
    ).save(path)


ARTEFACTS: dict[str, Callable[[Teacher, ImageData | StreamedImages, int, Path], None]] = {
    "artefact": _ripsnet
}
"""How a stand-in is made, by the name of the objectives' argument that reads it."""
