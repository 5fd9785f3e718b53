"""From a teacher to its RipsNet: clouds, diagrams, persistence images, training, artefact.

Reference:
    J. Kim et al., ICML 2024, Algorithm 1. [kim2024topkd]
    T. de Surrel et al. RipsNet. 2022. [desurrel2022ripsnet]
Differs from:
    The official code (jekim5418/TopKD, generate_PCD_PI.py) never calls ``eval()`` on the teacher, so its
    RipsNet learns features made with batch statistics and is used on features made with running ones;
    ``batch_statistics=True`` reproduces that. It takes 256 passes over CIFAR-100 (199,936 clouds) and up to
    25,000 epochs; both are arguments here.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from topokd_lib import __version__
from topokd_lib.data import EpochLoader, StreamLoader
from topokd_lib.errors import CheckpointError, FeatureNotFound
from topokd_lib.models import Teacher
from topokd_lib.prepare.clouds import teacher_clouds
from topokd_lib.topology import (
    PersistenceImage,
    RipsNet,
    RipsNetArtefact,
    examine_ripsnet,
    fit_ripsnet,
    rips_diagrams,
)

__all__ = ["RipsNetPlan", "prepare_ripsnet"]

Progress = Callable[[str, int, int], None]

_EXAMINED = 128
"""Clouds that were not trained on and are rotated, moved and disturbed for the report."""


@dataclass
class RipsNetPlan:
    """How a RipsNet is made for a teacher.

    How much of a teacher it knows decides what its term does. On the digits, at equal pull, one with R² =
    0.20 (2,000 clouds, learning rate 0.01) brings a student's exact images of shape nearer to the teacher's;
    one with 0.04 (1,000 clouds, 0.005) does not measurably: RipsNet's own two images become all but equal,
    the exact ones stay. Look at ``report["r2"]`` of the artefact before using it.

    Args:
        feature: The teacher's feature whose minibatch clouds are imitated.
        dimension: Homology dimension, 0 in the paper.
        clouds: Number of clouds, of which the last quarter validates.
        pooling: How RipsNet pools over points; the shipped ones use "mean" (ResNet-56) and "sum" (WRN-40-2).
        resolution: Rows (persistence) and columns (birth) of the persistence image.
        batch_statistics: Make clouds with the batch statistics of a teacher in training mode.
        standardise: Feed RipsNet standardised features; ``False`` as in the official code.
        epochs: At most.
        learning_rate: Of Adamax.
        patience: Epochs without improvement after which training stops.
        seed: Of the clouds and of the training.
    """

    feature: str = "pooled"
    dimension: int = 0
    clouds: int = 2000
    pooling: Literal["sum", "mean"] = "sum"
    resolution: tuple[int, int] = (20, 20)
    batch_statistics: bool = False
    standardise: bool = True
    epochs: int = 200
    learning_rate: float = 5e-4
    patience: int = 50
    seed: int = 0


def prepare_ripsnet(
    teacher: Teacher,
    loader: EpochLoader | StreamLoader,
    plan: RipsNetPlan,
    *,
    progress: Progress | None = None,
    work: Path | None = None,
) -> RipsNetArtefact:
    """Train a RipsNet on a teacher's clouds and pack it with all that is needed to use it.

    Args:
        teacher: Whose clouds are imitated.
        loader: Gives the minibatches.
        plan: All choices.
        progress: Called with (stage, done, total).
        work: A folder for clouds and the state of the training. If the work is interrupted, the same call
            goes on from there; the caller removes it when all is done.

    Raises:
        FeatureNotFound: If the teacher offers no such feature.
        ValueError: If the plan cannot be carried out, for instance with too few clouds.
        CheckpointError: If the folder is that of other work, or damaged.
    """

    def tell(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(stage, done, total)

    if work is not None:
        _claim(work, teacher, loader, plan)
    try:
        return _prepare(teacher, loader, plan, tell, work)
    except (FeatureNotFound, ValueError):
        if work is not None:  # nobody will go on with what cannot be carried out
            shutil.rmtree(work, ignore_errors=True)
        raise


def _prepare(
    teacher: Teacher,
    loader: EpochLoader | StreamLoader,
    plan: RipsNetPlan,
    tell: Progress,
    work: Path | None,
) -> RipsNetArtefact:
    source = teacher.with_batch_statistics() if plan.batch_statistics else teacher
    clouds = teacher_clouds(
        source,
        loader,
        feature=plan.feature,
        clouds=plan.clouds,
        progress=partial(tell, "clouds"),
        parts=work,
    )
    with torch.no_grad():
        (diagrams,) = rips_diagrams(clouds, dimensions=(plan.dimension,))
        bandwidth = PersistenceImage.topkd_official(diagrams).bandwidth
        image = PersistenceImage.fit(
            diagrams, resolution=plan.resolution, weight="topkd", bandwidth=bandwidth
        )
        targets = image(diagrams).flatten(1)
    torch.manual_seed(plan.seed)
    network = RipsNet(clouds.shape[2], image.pixels, pooling=plan.pooling)
    report = fit_ripsnet(
        network,
        clouds,
        targets,
        epochs=plan.epochs,
        learning_rate=plan.learning_rate,
        patience=plan.patience,
        standardise=plan.standardise,
        seed=plan.seed,
        progress=lambda epoch, *_: tell("training", epoch + 1, plan.epochs),
        state=None if work is None else work / "training.pt",
    )
    held_out = clouds[-min(_EXAMINED, max(1, len(clouds) // 4)) :]
    changes = examine_ripsnet(network.eval(), image, held_out, dimension=plan.dimension)
    return RipsNetArtefact(
        network=network,
        image=image,
        dimension=plan.dimension,
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint(),
        feature=plan.feature,
        cloud_size=clouds.shape[1],
        report={name: float(value) for name, value in asdict(report).items()}
        | {f"change_{change.name}": change.estimated for change in changes}
        | {f"exact_change_{change.name}": change.exact for change in changes},
        provenance={
            "data": loader.data.name,
            "data_fingerprint": loader.data.fingerprint(),
            "batch_statistics": str(plan.batch_statistics),
            "seed": str(plan.seed),
            "library": __version__,
        },
    )


def _claim(work: Path, teacher: Teacher, loader: EpochLoader | StreamLoader, plan: RipsNetPlan) -> None:
    """Write down what the folder is for, or compare."""
    settings = {name: value for name, value in asdict(plan).items() if name not in ("epochs", "patience")}
    identity = {
        "teacher": teacher.fingerprint(),
        "batch_statistics": teacher.batch_statistics,
        "data": loader.data.fingerprint(),
        "batch_size": loader.batch_size,
        "augment": loader.augment,
        "plan": settings | {"resolution": list(plan.resolution)},
    }
    path = work / "about.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(identity, indent=1), encoding="utf-8")
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = {}
    if different := [name for name, value in identity.items() if known.get(name) != value]:
        raise CheckpointError(
            f"{work} holds unfinished work on another RipsNet (another {', '.join(different)}); delete it "
            f"to begin anew, or choose another artefact"
        )
