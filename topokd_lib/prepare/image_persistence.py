"""The persistence images of a whole data set, computed once and kept on disk.

Work is cut into pieces, which processes write straight into the arrays of the artefact. A piece that is
complete is ticked off, so that a preparation that was interrupted goes on where it stopped. The artefact gets
its name when everything is there.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import topokd_lib
from topokd_lib.data import ImageData
from topokd_lib.data.extras import FORMAT, SampleArrays
from topokd_lib.data.image_data import measure_normalisation
from topokd_lib.errors import ArtefactMismatch, DataError
from topokd_lib.outputs import Normalisation
from topokd_lib.topology import ImagePersistence

__all__ = ["prepare_image_persistence"]

PIECE = 250
"""Images of a piece: a tenth of a second, and four megabytes of persistence images of CIFAR."""

BLACK = Normalisation((0.0,), (1.0,))

Progress = Callable[[str, int, int], None]
Images = npt.NDArray[np.uint8]


class Piece(NamedTuple):
    """Images ``start`` … ``stop - 1`` of one part of a data set, and its place in the list of all."""

    number: int
    part: str
    start: int
    stop: int


def prepare_image_persistence(
    data: ImageData,
    persistence: ImagePersistence,
    path: Path | str,
    *,
    shuffle: int | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> SampleArrays:
    """Compute the persistence images of all training and test images, or what is left to do of them.

    An artefact that is there already and was made of the same images in the same way is used as it is. While
    work goes on it is called ``PATH.partial``.

    Args:
        data: The images.
        persistence: What is computed from each.
        path: The artefact, a directory; see :mod:`topokd_lib.data.extras` for what it holds.
        shuffle: Seed of a permutation that gives every image the persistence image of another one of its
            part, for the control that asks whether the topology of *this* image matters. ``None``: its own.
        processes: How many compute; ``None``: as many as there are processors to use. More than one need a
            main module that can be imported.
        progress: Called with ("persistence images", done, total).

    Raises:
        ArtefactMismatch: If ``path``, or the beginning of it, was made of other images or in another way.
        DataError: If the artefact cannot be written, one that is there is damaged, or a process is ended
            from outside.
        ValueError: If ``processes`` or ``shuffle`` is out of range, or the first images show no bar.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from topokd_lib.data import load_data
        >>> from topokd_lib.topology import ScanPersistence
        >>> with TemporaryDirectory() as folder:
        ...     made = prepare_image_persistence(
        ...         load_data("digits", size=8), ScanPersistence(resolution=10), folder + "/p", processes=1
        ...     )
        ...     made.train.shape
        (1437, 6, 10, 10)
    """
    if processes is not None and processes < 1:
        raise ValueError(f"at least one process is needed, got processes={processes}")
    if shuffle is not None and shuffle < 0:
        raise ValueError(f"the seed of a shuffle is not negative, got shuffle={shuffle}")
    path = Path(path)
    identity = {
        "format": FORMAT,
        "data": data.name,
        "data_fingerprint": data.fingerprint(),
        "classes": list(data.classes),
        "specification": persistence.to_dict(),
        "shuffle": shuffle,
    }
    if path.exists():
        made = SampleArrays.open(path)
        _require_same(path, made.about, identity)
        return made
    beginning = path.with_name(f"{path.name}.partial")
    sources = {
        "train": _shuffled(data.train_images, shuffle, 0),
        "test": _shuffled(data.test_images, shuffle, 1),
    }
    pieces = _cut({part: len(images) for part, images in sources.items()})
    with _told_where(path):
        _begin(beginning, identity, persistence, sources, len(pieces))
        done = np.load(beginning / "done.npy", mmap_mode="r+")
        todo = (piece for piece in pieces if not done[piece.number])
        missing = int((~done).sum())
        tasks = ((piece, sources[piece.part][piece.start : piece.stop]) for piece in todo)
        counted = len(data.train_labels) + len(data.test_labels)
        finished = sum(piece.stop - piece.start for piece in pieces if done[piece.number])
        workers = min(processes or len(_processors()), missing)
        for piece in _compute(tasks, beginning, persistence, workers):
            done[piece.number] = True
            done.flush()
            finished += piece.stop - piece.start
            if progress is not None:
                progress("persistence images", finished, counted)
        _finish(beginning, path, identity, data)
    return SampleArrays.open(path)


def _begin(
    beginning: Path,
    identity: dict[str, Any],
    persistence: ImagePersistence,
    sources: dict[str, Images],
    pieces: int,
) -> None:
    """Arrays for everything, unless they are there; ``identity.json`` comes last and says that they are."""
    marker = beginning / "identity.json"
    if marker.exists():
        _require_same(beginning, json.loads(marker.read_text(encoding="utf-8")), identity)
        return
    probe = persistence(torch.from_numpy(sources["train"][:PIECE]))
    if not probe.any():
        raise ValueError(
            f"the persistence images of the first {len(probe)} images are black: no bar is longer than "
            f"shortest={persistence.shortest} and within span={persistence.span}; change one of them"
        )
    beginning.mkdir(parents=True, exist_ok=True)
    for part, images in sources.items():
        shape = probe.shape[1:]
        np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
            beginning / f"{part}.npy", mode="w+", dtype=np.uint8, shape=(len(images), *shape)
        )
    np.save(beginning / "done.npy", np.zeros(pieces, dtype=bool))
    marker.write_text(json.dumps(identity, indent=1), encoding="utf-8")


def _finish(beginning: Path, path: Path, identity: dict[str, Any], data: ImageData) -> None:
    """Labels and ``about.json``; then the artefact gets its name."""
    train = torch.from_numpy(np.load(beginning / "train.npy", mmap_mode="c"))
    # A channel that is black in every image has no deviation; any number does.
    seen = [measure_normalisation(channel) if channel.any() else BLACK for channel in train.split(1, dim=1)]
    np.save(beginning / "train_labels.npy", data.train_labels.cpu().numpy())
    np.save(beginning / "test_labels.npy", data.test_labels.cpu().numpy())
    about = {
        **identity,
        "normalisation": {
            "mean": [channel.mean[0] for channel in seen],
            "std": [channel.std[0] for channel in seen],
        },
        "version": topokd_lib.__version__,
    }
    (beginning / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")
    for name in ("identity.json", "done.npy"):
        (beginning / name).unlink()
    beginning.replace(path)


def _compute(
    tasks: Iterator[tuple[Piece, Images]], folder: Path, persistence: ImagePersistence, processes: int
) -> Iterator[Piece]:
    """Carry out the tasks and name each when it is done."""
    if processes <= 1:
        for piece, images in tasks:
            yield _write(folder, persistence, piece, images)
        return
    context = get_context("spawn")  # a forked process inherits threads' locks, but not the threads
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin_worker) as pool:
        running: set[Future[Piece]] = set()
        while True:
            ahead = islice(tasks, 2 * processes - len(running))
            running |= {pool.submit(_write, folder, persistence, *task) for task in ahead}
            if not running:
                return
            complete, running = wait(running, return_when=FIRST_COMPLETED)
            for future in complete:
                yield future.result()


def _begin_worker() -> None:
    torch.set_num_threads(1)
    for name in {"SIGINT", "SIGUSR1"} & set(dir(signal)):  # the parent hears it too, and tells when to end
        signal.signal(getattr(signal, name), signal.SIG_IGN)

    def stop_with_the_parent() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=stop_with_the_parent, daemon=True).start()


def _write(folder: Path, persistence: ImagePersistence, piece: Piece, images: Images) -> Piece:
    arrays = np.load(folder / f"{piece.part}.npy", mmap_mode="r+")
    arrays[piece.start : piece.stop] = persistence(torch.from_numpy(images)).numpy()
    arrays.flush()
    return piece


def _cut(sizes: dict[str, int]) -> list[Piece]:
    spans = (
        (part, start, min(start + PIECE, size))
        for part, size in sizes.items()
        for start in range(0, size, PIECE)
    )
    return [Piece(number, *span) for number, span in enumerate(spans)]


def _shuffled(images: Tensor, seed: int | None, part: int) -> Images:
    pixels: Images = images.cpu().numpy()
    return pixels if seed is None else pixels[np.random.default_rng((seed, part)).permutation(len(pixels))]


def _require_same(path: Path, known: Any, identity: dict[str, Any]) -> None:
    known = {name: known.get(name) for name in identity}
    if differing := [name for name in identity if known[name] != identity[name]]:
        raise ArtefactMismatch(
            f"{path} was made otherwise: "
            + "; ".join(f"{name} is {known[name]} there and {identity[name]} here" for name in differing)
            + ". Choose another path, or delete it"
        )


@contextmanager
def _told_where(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise DataError(
            f"a process that worked on {path} was ended from outside, perhaps for want of memory; what is "
            f"done is kept, and the same call goes on. Take fewer processes"
        ) from error
    except OSError as error:
        raise DataError(
            f"cannot write the artefact {path} ({error.strerror or error}); what is done is kept. Make room, "
            f"or choose another path"
        ) from error


def _processors() -> set[int]:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return affinity(0) if affinity else set(range(os.cpu_count() or 1))
