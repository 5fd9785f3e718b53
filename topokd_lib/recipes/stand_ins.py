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

from topokd_lib.data import ImageData, SampleArrays, StreamedImages, load_data
from topokd_lib.data.extras import TGD_NORMALISATION
from topokd_lib.errors import RecipeError
from topokd_lib.models import MODELS, Teacher, create_model
from topokd_lib.outputs import Batch, Normalisation
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact
from topokd_lib.training import load_student, save_student

__all__ = ["ARTEFACTS", "SIZES", "stand_in_options"]

SIZES = {
    "cifar10": (32, 10, 50_000, 10_000),
    "cifar100": (32, 100, 50_000, 10_000),
    "cinic10": (32, 10, 90_000, 90_000),
    "imagenet": (224, 1000, 1_281_167, 50_000),
    "prepared-images": (50, 10, 50_000, 10_000),  # TGD's, six channels
}
"""Pixels along a side, classes, training and test images of the data sets that have to be downloaded
or prepared."""


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
    if (
        synthetic and "schedule" in recipe
    ):  # a teacher that knows nothing may ask for steps that are too large
        options += ["--schedule.lr", "1e-9"]
    if synthetic and name in SIZES:
        size, classes, _, _ = SIZES[name]
        channels = len(TGD_NORMALISATION.mean) if name == "prepared-images" else 3
        about = {"size": size, "classes": classes, "train": 3 * batch_size, "test": 8, "channels": channels}
        name = "noise"
        options += ["--data.name", name, "--data.options", json.dumps(about)]
        if str(recipe["data"]["augment"]).startswith("resized"):  # of images on disk; noise lies in memory
            options += ["--data.augment", "none"]
    if recipe.get("teachers"):
        classes = load_data(name, **about).num_classes
        options += _of_several(recipe, folder, classes=classes, synthetic=synthetic)
    start = recipe.get("initial_weights")
    if start is not None and (synthetic or not Path(start).exists()):
        options += ["--initial_weights", "null"]
    overlay = (recipe["data"].get("overlay") or {}).get("artefact")
    wanted = (recipe.get("teacher") or {}).get("weights")
    if overlay is not None and (synthetic or not Path(overlay).exists() or not Path(wanted or "").exists()):
        options += ["--data.overlay.artefact", "null"]
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
        known = [recipe.get("student"), *named, network]
        if not any(known):
            raise RecipeError(
                f"nothing says which network {wanted} holds, so that none can stand in for it; train the "
                f"teacher first"
            )
        likely = next(name for name in reversed(known) if name)
        model = create_model(likely, num_classes=data.num_classes)
        save_student(weights, model, normalisation=data.normalisation)
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


def _of_several(recipe: Mapping[str, Any], folder: Path, *, classes: int, synthetic: bool) -> Iterator[str]:
    """Options for teachers that are not there, and persistence images computed in place of prepared ones."""
    channels = {}
    for name, about in recipe["data"]["extras"].items():
        artefact = about.get("artefact")
        if artefact and (synthetic or not Path(artefact).exists()):
            yield f"--data.extras.{name}"
            yield json.dumps({"artefact": None, "compute": {"class_path": "ScanPersistence"}})
        channels[name] = SampleArrays.open(artefact).shape[0] if artefact and not synthetic else 6
    for name, about in recipe["teachers"].items():
        weights = Path(about["weights"])
        if synthetic or not weights.exists():
            named = [part for part in weights.parts if part in MODELS]
            seen = channels.get(about.get("reads"), 3)
            scale = Normalisation((0.5,) * seen, (0.25,) * seen) if about.get("reads") else None
            torch.manual_seed(0)
            network = (named or [recipe["student"]])[-1]
            model = create_model(network, num_classes=classes, in_channels=seen)
            save_student(folder / f"{name}.safetensors", model, in_channels=seen, normalisation=scale)
            yield f"--teachers.{name}.weights"
            yield str(folder / f"{name}.safetensors")


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
