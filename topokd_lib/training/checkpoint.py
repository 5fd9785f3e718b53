"""Files that survive an interruption: checkpoints of a run, and the weights of a finished student.

Everything is written under another name, brought to the disk and then renamed, so that a file either is
complete or is not there. Only tensors and plain containers are stored; reading a file never executes code.
"""

import json
import pickle
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import topokd_lib
from topokd_lib.errors import CheckpointError, UnknownName
from topokd_lib.files import write_atomically, write_text
from topokd_lib.models import FeatureModel, ProjectorNeck, create_model
from topokd_lib.outputs import Normalisation

__all__ = [
    "PREVIOUS",
    "StudentInfo",
    "load_checkpoint",
    "load_student",
    "load_weights",
    "save_checkpoint",
    "save_student",
    "without_merged_neck",
    "write_atomically",
    "write_text",
]

PREVIOUS = "previous.ckpt"
"""Name of the checkpoint before the last one, in the same directory."""


# ------------------------------------------------------------------------------------ checkpoints of a run


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Store ``state``; the checkpoint that ``path`` held becomes ``previous.ckpt`` beside it.

    Raises:
        CheckpointError: If the file cannot be written. What was there before is untouched.
    """
    try:
        with write_atomically(path, keep=path.with_name(PREVIOUS)) as partial, partial.open("wb") as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write {path} ({_reason(error)}); earlier checkpoints are untouched. Make room, or make "
            f"the directory writable, and run the same command again: it continues where it stopped"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that :func:`save_checkpoint` stored, on the CPU.

    Raises:
        CheckpointError: If the file is damaged; says how to continue.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not verify checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")  # noqa: TRY301 (one message for all)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        pickle.UnpicklingError,
    ) as error:
        raise CheckpointError(f"cannot read {path} ({_reason(error)}). {way_out(path)}") from None
    if not isinstance(state, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint: it holds a {type(state).__name__}. {way_out(path)}"
        )
    return state


def way_out(path: Path) -> str:
    """What to do with a checkpoint that cannot be used."""
    previous = path.with_name(PREVIOUS)
    if path.name != PREVIOUS and previous.exists():
        return f"Delete it to continue from {previous}, which was written before it."
    return "There is no earlier one: delete it to start again from the first epoch."


# --------------------------------------------------------------------------------- weights of one network


@dataclass(frozen=True)
class StudentInfo:
    """What is needed to use a weight file, and where it comes from.

    Args:
        model: Name in :data:`topokd_lib.models.MODELS`.
        num_classes: Number of logits.
        in_channels: Channels of the images.
        normalisation: What the images were normalised with.
        data: Name of the data set it was trained on.
        data_fingerprint: Fingerprint of that data set.
        epoch: Epoch after which the weights were taken, counted from 1.
        top1: Test accuracy of these weights, as a fraction.
        neck: Channels of the projector before the classifier and of the classifier, if there is one
            (:class:`~topokd_lib.models.ProjectorNeck`).
        version: Of the library that wrote the file.
    """

    model: str
    num_classes: int
    in_channels: int
    normalisation: Normalisation | None = None
    data: str | None = None
    data_fingerprint: str | None = None
    epoch: int | None = None
    top1: float | None = None
    neck: tuple[int, int] | None = None
    version: str = topokd_lib.__version__


def without_merged_neck(student: FeatureModel) -> FeatureModel:
    """The network that is kept: itself, or a copy without a neck that can be merged into the classifier."""
    if student.neck is None or not student.neck.merges:
        return student
    kept = deepcopy(student)
    kept.merge_neck()
    return kept


def save_student(
    path: Path | str,
    student: FeatureModel,
    *,
    in_channels: int = 3,
    normalisation: Normalisation | None = None,
    data: str | None = None,
    data_fingerprint: str | None = None,
    epoch: int | None = None,
    top1: float | None = None,
) -> None:
    """Store a network's weights in one safetensors file that knows what it is.

    A later run names the file as its teacher and needs nothing else. A neck that only training needs is
    merged first, into a copy. The arguments are described at :class:`StudentInfo`.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    path = Path(path)
    student = without_merged_neck(student)
    neck = student.neck
    info = StudentInfo(
        student.name,
        student.num_classes,
        in_channels,
        normalisation,
        data,
        data_fingerprint,
        epoch,
        top1,
        neck=(neck.channels, neck.teacher_channels) if isinstance(neck, ProjectorNeck) else None,
    )
    tensors = {key: value.detach().cpu().contiguous() for key, value in student.state_dict().items()}
    try:
        with write_atomically(path) as partial:
            save_file(tensors, partial, metadata={"topokd": json.dumps(asdict(info))})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot write the weights of {student.name} to {path} ({_reason(error)}); "
            f"choose a directory that exists, is writable and has room"
        ) from error


def load_student(path: Path | str) -> tuple[FeatureModel, StudentInfo]:
    """Rebuild the network that :func:`save_student` stored, in evaluation mode on the CPU.

    Raises:
        CheckpointError: If there is no such file, it is something else, or it does not fit its model.
    """
    tensors, info = _read(Path(path))
    try:
        model = create_model(info.model, num_classes=info.num_classes, in_channels=info.in_channels)
    except UnknownName as error:
        raise CheckpointError(
            f"{path} holds the weights of a model that this version of the library lacks (it was written by "
            f"{info.version}, this is {topokd_lib.__version__}): {error}"
        ) from None
    if info.neck is not None:
        model.insert_neck(ProjectorNeck(*info.neck), nn.Linear(info.neck[1], info.num_classes))
    _fill(model, tensors, Path(path))
    return model.eval(), info


def load_weights(path: Path | str, student: FeatureModel) -> StudentInfo:
    """Load the weights that :func:`save_student` stored into a network that exists already.

    A neck that only training needs is merged, as it was before the weights were stored.

    Raises:
        CheckpointError: If there is no such file, it is something else, or it holds another network.
    """
    tensors, info = _read(Path(path))
    student.merge_neck()
    _fill(student, tensors, Path(path))
    return info


def _read(path: Path) -> tuple[dict[str, Tensor], StudentInfo]:
    if not path.is_file():
        raise CheckpointError(f"there is no weight file {path}; train one, or correct the path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a complete safetensors file ({_reason(error)}); it may be truncated, or of "
            f"another format. Copy it again from where it was trained"
        ) from None
    try:
        fields = json.loads(metadata["topokd"])
        normalisation = fields.pop("normalisation")
        if normalisation is not None:
            normalisation = Normalisation(tuple(normalisation["mean"]), tuple(normalisation["std"]))
        neck = fields.pop("neck", None)
        return tensors, StudentInfo(
            normalisation=normalisation, neck=None if neck is None else tuple(neck), **fields
        )
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{path} does not say which model its weights belong to; only files written by "
            f"topokd_lib.training.save_student do. Build the model yourself and load the tensors into it"
        ) from None


def _fill(model: FeatureModel, tensors: Mapping[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    problems = [f"{key} is missing" for key in own if key not in tensors]
    problems += [f"{key} is not expected" for key in tensors if key not in own]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"the weights in {path} do not fit {model.name} with {model.num_classes} classes: "
            f"{'; '.join(problems[:3])}{more}. Load them into the model they were trained as"
        )
    model.load_state_dict(dict(tensors))


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
