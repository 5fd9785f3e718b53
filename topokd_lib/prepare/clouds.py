"""The point clouds that networks make of minibatches."""

from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from topokd_lib.data import EpochLoader, StreamLoader
from topokd_lib.errors import CheckpointError
from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.objectives import feature_cloud

__all__ = ["clouds_of_test_images", "teacher_clouds"]

_PART = 1024
"""Clouds that are kept together, so that an interruption costs no more."""


def teacher_clouds(
    teacher: Teacher,
    loader: EpochLoader | StreamLoader,
    *,
    feature: str,
    clouds: int,
    progress: Callable[[int, int], None] | None = None,
    parts: Path | None = None,
) -> Float[Tensor, "clouds points dim"]:
    """Feature clouds of shuffled, augmented minibatches; as many epochs as it takes.

    Args:
        teacher: Makes the features, without gradient.
        loader: Gives the minibatches; its batch size is the number of points of a cloud.
        feature: Name of a vector or of a map, which is averaged over its pixels.
        clouds: How many.
        progress: Called with (clouds made, clouds wanted).
        parts: A folder where every 1024 clouds are kept, and found again if the work was interrupted. It
            belongs to this teacher, loader and feature.

    Raises:
        FeatureNotFound: If the teacher offers no such feature.
        ValueError: If ``clouds`` is not positive.
        CheckpointError: If a part cannot be read.
    """
    if clouds < 1:
        raise ValueError(f"at least one cloud is needed, got clouds={clouds}")
    made = [] if parts is None else list(_read_parts(parts))[: -(-clouds // _PART)]
    done = _PART * len(made)
    while done < clouds:
        epoch, skipped = divmod(done, loader.steps_per_epoch)
        for batch in islice(loader.train_batches(epoch), skipped, None):
            cloud = feature_cloud(teacher(batch, [feature])[feature])
            if done % _PART == 0:
                made.append(cloud.new_empty(min(_PART, clouds - done), *cloud.shape[1:]))
            made[-1][done % _PART] = cloud[0]
            done += 1
            if progress is not None:
                progress(done, clouds)
            if parts is not None and done % _PART == 0:
                _write_part(parts / f"clouds-{len(made) - 1:05d}.safetensors", made[-1])
            if done == clouds:
                break
    return (torch.cat(made) if len(made) > 1 else made[0])[:clouds]


def _read_parts(folder: Path) -> Iterator[Tensor]:
    for number in count():
        path = folder / f"clouds-{number:05d}.safetensors"
        if not path.exists():
            return
        try:
            yield load_file(path)["clouds"]
        except (OSError, SafetensorError, KeyError) as error:
            raise CheckpointError(f"cannot read the clouds in {path} ({error}); delete {folder}") from error


def _write_part(path: Path, clouds: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    save_file({"clouds": clouds.contiguous().cpu()}, temporary)
    temporary.replace(path)


@torch.no_grad()
def clouds_of_test_images(
    student: FeatureModel,
    teacher: Teacher,
    loader: EpochLoader | StreamLoader,
    *,
    feature: str = "pooled",
    teacher_feature: str | None = None,
    clouds: int | None = None,
) -> tuple[Float[Tensor, "clouds points student_dim"], Float[Tensor, "clouds points teacher_dim"], float]:
    """Clouds of both networks of the same test images, and the share of images they classify alike.

    Args:
        student: Left in evaluation mode, on the device where it is.
        teacher: On the same device; any width.
        loader: Gives the test images; its batch size is the number of points of a cloud. Those that do not
            fill a last cloud count for the agreement only.
        feature: Name of the feature in the student.
        teacher_feature: In the teacher, if it has another name there.
        clouds: No more than these; ``None``: all test images.

    Raises:
        FeatureNotFound: If a network does not offer the feature.
        ValueError: If there are fewer test images than points in a cloud.
    """
    student.eval()
    device = next(student.parameters()).device
    size = loader.batch_size
    wanted = None if clouds is None else clouds * size
    same = total = 0
    seen, taught = [], []
    for batch in loader.test_batches():
        batch.images = batch.images.to(device)
        said = student.extract(batch.images, [feature])
        meant = teacher(batch, [teacher_feature or feature])
        same += int((said.logits.argmax(dim=1) == meant.logits.argmax(dim=1)).sum())
        total += len(batch)
        seen.append(feature_cloud(said[feature])[0].float())
        taught.append(feature_cloud(meant[teacher_feature or feature])[0].float())
        if wanted is not None and total >= wanted:
            break
    number = total // size if clouds is None else min(clouds, total // size)
    if number == 0:
        raise ValueError(f"a cloud has {size} points, and there are {total} test images; lower batch_size")
    students, teachers = (
        torch.cat(parts)[: number * size].unflatten(0, (number, size)) for parts in (seen, taught)
    )
    return students, teachers, same / total
