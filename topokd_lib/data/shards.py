"""A data set as a few large tar files in WebDataset's format, for file systems that are slow with small ones.

An index beside the shards says where each image begins, so that the loader reads it there: order, views and
the shares of ranks and workers are exactly those of the folder that the shards were made from, and nothing is
seen twice. Other programs read the shards one after the other; for them the images are in random order.
"""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from topokd_lib.data.encoded import EncodedImages, StreamedImages
from topokd_lib.data.folders import require_damaged_known
from topokd_lib.errors import DataError
from topokd_lib.files import write_atomically, write_text
from topokd_lib.outputs import Normalisation

__all__ = ["ShardImages", "load_shards", "write_shards"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class ShardImages(EncodedImages):
    """Images that lie in tar files; ``shard`` and ``offset`` say where each begins."""

    folder: Path
    files: tuple[str, ...]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]

    def read(self, index: int) -> bytes:
        path = self.folder / self.files[self.shard[index]]
        encoded = os.pread(_opened(str(path)).fileno(), int(self.sizes[index]), int(self.offset[index]))
        if len(encoded) != self.sizes[index]:
            raise OSError(None, f"{path} ends too early")
        return encoded

    def where(self, index: int) -> str:
        return f"{str(self.names[index], 'utf-8')} in {self.folder / self.files[self.shard[index]]}"

    def take(self, chosen: Int64[Tensor, " chosen"]) -> "EncodedImages":
        at = chosen.numpy()
        fewer = super().take(chosen)
        assert isinstance(fewer, ShardImages)
        return replace(fewer, shard=self.shard[at], offset=self.offset[at])


@lru_cache(maxsize=256)
def _opened(path: str) -> BinaryIO:
    """Shared with worker processes, which may not move its position: hence ``pread``."""
    return Path(path).open("rb", buffering=0)


def load_shards(
    root: Path | str,
    *,
    image_size: int = 224,
    resize: int = 256,
    damaged: Literal["error", "skip"] = "error",
    workers: int = 4,
) -> StreamedImages:
    """A data set that ``topokd data shard`` has written.

    It has the name and the fingerprint of the folder that it was made from, and gives the same batches.

    Args:
        root: The folder with the shards.
        image_size: Height and width of what the networks see.
        resize: Shorter side to which a test image is scaled before its middle is cut out.
        damaged: See :func:`~topokd_lib.data.load_imagenet`.
        workers: See :func:`~topokd_lib.data.load_imagenet`.

    Raises:
        DataError: If the folder holds no shards, or one of them is missing or not complete.
    """
    require_damaged_known(damaged)
    root = Path(root).expanduser()
    try:
        about = json.loads((root / "about.json").read_text(encoding="utf-8"))
        with np.load(root / "index.npz") as index:
            parts = {part: _part(root, part, about["files"], index) for part in ("train", "test")}
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{root} holds no complete shards ({error}); write them with `topokd data shard`, which goes on "
            f"where it was interrupted"
        ) from error
    for file, size in about["files"].items():
        found = (root / file).stat().st_size if (root / file).is_file() else 0
        if found != size:
            raise DataError(
                f"{root / file} has {found:,} bytes and should have {size:,}; copy it again, or delete it "
                f"and write it again with `topokd data shard`"
            )
    scale = Normalisation(*(tuple(values) for values in about["normalisation"]))
    data = StreamedImages(
        about["name"], parts["train"], parts["test"], tuple(about["classes"]), scale, image_size, resize
    )
    return data.without_damaged(workers=workers) if damaged == "skip" else data


def _part(root: Path, part: str, files: Mapping[str, int], index: Mapping[str, Any]) -> ShardImages:
    columns = (index[f"{part}_{column}"] for column in ("names", "sizes", "labels", "shard", "offset"))
    names, sizes, labels, shard, offset = columns
    return ShardImages(names, sizes, torch.from_numpy(labels), root, tuple(files), shard, offset)


def write_shards(
    data: StreamedImages, root: Path | str, *, images_per_shard: int = 2000, progress: Progress | None = None
) -> list[Path]:
    """Pack a data set into tar files; an interrupted call goes on where it stopped.

    Every image becomes two members, ``<number>.jpg`` (``.png``) with the bytes as they are, and
    ``<number>.cls`` with the class. Images are packed in a random order that is the same every time.

    Args:
        data: The images.
        root: Where the shards are written.
        images_per_shard: Images in one file; 2000 of ImageNet are about 220 MB.
        progress: Called with a name, how many images are packed, and how many there are.

    Returns:
        The shards.

    Raises:
        ImportError: If the extra ``shards`` is not installed.
        DataError: If the disk has not the room, or an image cannot be read.
        ValueError: If ``images_per_shard`` is not positive.
    """
    if images_per_shard < 1:
        raise ValueError(f"a shard holds at least one image, got images_per_shard={images_per_shard}")
    try:
        import webdataset
    except ImportError:
        raise ImportError(
            "writing shards needs the package webdataset; install the extra: pip install 'topokd-lib[shards]'"
        ) from None
    root = Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    done, total = 0, len(data.train) + len(data.test)
    _require_room(root, data)
    files: dict[str, int] = {}
    index: dict[str, NDArray[Any]] = {}
    for part, images in (("train", data.train), ("test", data.test)):
        order = np.random.default_rng(0).permutation(len(images))
        shard, offset = np.zeros(len(images), dtype=np.int64), np.zeros(len(images), dtype=np.int64)
        for number, start in enumerate(range(0, len(images), images_per_shard)):
            chosen = order[start : start + images_per_shard]
            path = root / f"{part}-{number:06d}.tar"
            if not path.exists():
                with write_atomically(path) as partial, webdataset.TarWriter(str(partial)) as writer:
                    for position in chosen.tolist():
                        writer.write(_sample(images, position))
            shard[chosen] = len(files)
            offset[chosen] = _offsets(path, images, chosen)
            files[path.name] = path.stat().st_size
            done += len(chosen)
            if progress is not None:
                progress("images packed", done, total)
        columns = (images.names, images.sizes, images.labels.numpy(), shard, offset)
        for column, values in zip(("names", "sizes", "labels", "shard", "offset"), columns, strict=True):
            index[f"{part}_{column}"] = values
    with write_atomically(root / "index.npz") as partial, partial.open("wb") as file:
        np.savez(file, **index)
    scale = data.normalisation
    about = {
        "name": data.name,
        "classes": data.classes,
        "normalisation": (scale.mean, scale.std),
        "files": files,
    }
    write_text(root / "about.json", json.dumps(about))
    return [root / file for file in files]


def _sample(images: EncodedImages, position: int) -> dict[str, Any]:
    try:
        encoded = images.read(position)
    except OSError as error:
        raise DataError(f"{images.where(position)} cannot be read ({error.strerror or error})") from error
    kind = "png" if encoded.startswith(b"\x89PNG") else "jpg"
    return {"__key__": f"{position:08d}", kind: encoded, "cls": int(images.labels[position])}


def _offsets(path: Path, images: EncodedImages, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the images of a shard begin, after a look at whether it holds these images."""
    try:
        with tarfile.open(path) as packed:
            members = [member for member in packed if not member.name.endswith(".cls")]
    except tarfile.TarError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run the same command again") from error
    expected = [(f"{position:08d}", int(images.sizes[position])) for position in chosen.tolist()]
    if [(member.name.partition(".")[0], member.size) for member in members] != expected:
        raise DataError(
            f"{path} holds other images than these; delete it and run the same command again, or choose "
            f"another folder"
        )
    return np.array([member.offset_data for member in members], dtype=np.int64)


def _require_room(root: Path, data: StreamedImages) -> None:
    """Headers and padding take two kilobytes per image."""
    needed = sum(int(part.sizes.sum()) + 2048 * len(part) for part in (data.train, data.test))
    there = sum(file.stat().st_size for file in root.glob("*.tar"))
    free = shutil.disk_usage(root).free
    if needed - there > free:
        raise DataError(
            f"the shards of {data.name} take {needed / 1e9:.1f} GB, and {root.absolute()} has "
            f"{free / 1e9:.1f} GB free; make room, or choose another folder"
        )
