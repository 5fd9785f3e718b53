"""Persistence images of a data set: the same in any number of processes, after a kill, and told apart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from topokd_lib.data import ImageData, load_data
from topokd_lib.errors import ArtefactMismatch, DataError
from topokd_lib.outputs import Normalisation
from topokd_lib.prepare import image_persistence as module
from topokd_lib.prepare import prepare_image_persistence
from topokd_lib.topology import ScanPersistence

ROOT = Path(__file__).resolve().parents[2]
SMALL = ScanPersistence(resolution=6)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", size=8)


@pytest.fixture
def noise():
    """Enough images for a dozen pieces."""
    images = torch.randint(0, 256, (120, 3, 6, 6), dtype=torch.uint8)
    labels = torch.arange(120) % 2
    return ImageData(
        "noise", images[:100], labels[:100], images[100:], labels[100:], ("a", "b"),
        Normalisation((0.5,) * 3, (0.3,) * 3),
    )  # fmt: skip


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(module, "PIECE", 10)


def test_every_image_has_its_own(noise, small_pieces, tmp_path):
    told = []
    made = prepare_image_persistence(
        noise, SMALL, tmp_path / "deep" / "p", processes=1, progress=lambda *what: told.append(what)
    )
    assert np.array_equal(made.train, SMALL(noise.train_images))
    assert np.array_equal(made.test, SMALL(noise.test_images))
    assert told == [("persistence images", 10 * (k + 1), 120) for k in range(12)]
    assert sorted(file.name for file in made.path.iterdir()) == [
        "about.json", "test.npy", "test_labels.npy", "train.npy", "train_labels.npy",
    ]  # fmt: skip
    assert not made.path.with_name("p.partial").exists()
    assert made.about["specification"] == SMALL.to_dict()


def test_processes_make_the_same(digits, tmp_path):
    one, two = (prepare_image_persistence(digits, SMALL, tmp_path / str(n), processes=n) for n in (1, 2))
    for part in ("train", "test"):
        assert np.array_equal(getattr(one, part), getattr(two, part))
    assert one.about == two.about


def test_what_is_there_is_used_and_what_is_begun_goes_on(noise, small_pieces, tmp_path, monkeypatch):
    computed = []

    class Interrupted(Exception):
        pass

    def watch(name, done, total):
        computed.append(done)
        if len(computed) == 5:
            raise Interrupted

    path = tmp_path / "p"
    with pytest.raises(Interrupted):
        prepare_image_persistence(noise, SMALL, path, processes=1, progress=watch)
    assert not path.exists()
    made = prepare_image_persistence(noise, SMALL, path, processes=1, progress=watch)
    assert computed == [10 * k for k in range(1, 13)]
    assert np.array_equal(made.train, SMALL(noise.train_images))
    prepare_image_persistence(noise, SMALL, path, processes=1, progress=watch)
    assert len(computed) == 12


SCRIPT = """
import sys, time
from topokd_lib.data import load_data
from topokd_lib.prepare import image_persistence as module
from topokd_lib.topology import ScanPersistence

module.PIECE = 40
def show(name, done, total):
    print(done, flush=True)
    time.sleep(0.1)
if __name__ == "__main__":
    module.prepare_image_persistence(
        load_data("digits", size=8), ScanPersistence(resolution=6), sys.argv[1], processes=2, progress=show
    )
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs POSIX signals")
def test_a_preparation_that_is_killed_goes_on_where_it_was(digits, tmp_path, monkeypatch):
    script, path = tmp_path / "prepare.py", tmp_path / "p"
    script.write_text(SCRIPT)
    running = subprocess.Popen(
        [sys.executable, script, path],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    seen = [int(running.stdout.readline()) for _ in range(4)]
    children = [int(child) for child in _children(running.pid)]
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert not path.exists()
    for _ in range(100):  # workers notice that nobody waits for them
        if not any(Path(f"/proc/{child}").exists() for child in children):
            break
        time.sleep(0.1)
    else:
        pytest.fail(f"workers {children} outlived the preparation")
    ticked = int(np.load(tmp_path / "p.partial" / "done.npy").sum())
    assert ticked >= len(seen)
    monkeypatch.setattr(module, "PIECE", 40)
    told = []
    made = prepare_image_persistence(
        digits, SMALL, path, processes=1, progress=lambda name, done, total: told.append(done)
    )
    assert len(told) == 45 - ticked
    assert np.array_equal(made.train, SMALL(digits.train_images))
    assert np.array_equal(made.test, SMALL(digits.test_images))


def _children(process):
    listed = Path(f"/proc/{process}/task/{process}/children")
    return listed.read_text().split() if listed.exists() else []


def test_shuffled_images_are_those_of_others(noise, tmp_path):
    own = prepare_image_persistence(noise, SMALL, tmp_path / "own", processes=1)
    first, again, other = (
        prepare_image_persistence(noise, SMALL, tmp_path / name, shuffle=seed, processes=1)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert np.array_equal(first.train, again.train)
    assert not np.array_equal(first.train, other.train)
    assert not np.array_equal(first.train, own.train)
    for part in ("train", "test"):
        rows = [
            sorted(map(bytes, getattr(made, part).reshape(len(getattr(made, part)), -1)))
            for made in (own, first)
        ]
        assert rows[0] == rows[1]
    labels = [np.load(made.path / "train_labels.npy") for made in (own, first)]
    assert np.array_equal(*labels)


class TestErrors:
    def test_made_otherwise(self, noise, tmp_path):
        path = tmp_path / "p"
        prepare_image_persistence(noise, SMALL, path, processes=1)
        with pytest.raises(
            ArtefactMismatch, match=r"p was made otherwise: specification is .*'resolution': 6"
        ):
            prepare_image_persistence(noise, ScanPersistence(resolution=7), path, processes=1)
        with pytest.raises(ArtefactMismatch, match="shuffle is None there and 3 here"):
            prepare_image_persistence(noise, SMALL, path, shuffle=3, processes=1)

    def test_begun_otherwise(self, noise, tmp_path):
        begun = tmp_path / "p.partial"
        begun.mkdir()
        (begun / "identity.json").write_text(json.dumps({"format": "topokd-extra-1", "data": "birds"}))
        with pytest.raises(ArtefactMismatch, match=r"p\.partial was made otherwise: data is birds there"):
            prepare_image_persistence(noise, SMALL, tmp_path / "p", processes=1)

    def test_numbers_out_of_range(self, noise, tmp_path):
        with pytest.raises(ValueError, match="at least one process is needed, got processes=0"):
            prepare_image_persistence(noise, SMALL, tmp_path / "p", processes=0)
        with pytest.raises(ValueError, match="not negative, got shuffle=-1"):
            prepare_image_persistence(noise, SMALL, tmp_path / "p", shuffle=-1)

    def test_nothing_to_see(self, noise, tmp_path):
        blind = ScanPersistence(shortest=0.999)
        with pytest.raises(
            ValueError, match=r"first 100 images are black: .* shortest=0\.999 and within span"
        ):
            prepare_image_persistence(noise, blind, tmp_path / "p", processes=1)
        assert list(tmp_path.iterdir()) == []

    def test_no_room(self, noise, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match=r"cannot write the artefact .*; what is done is kept"):
            prepare_image_persistence(noise, SMALL, tmp_path / "file" / "p", processes=1)

    def test_a_worker_is_ended_from_outside(self, noise, small_pieces, tmp_path):
        with pytest.raises(DataError, match=r"ended from outside, perhaps for want of memory; .*fewer"):
            prepare_image_persistence(noise, _Suicidal(resolution=6), tmp_path / "p", processes=2)


class _Suicidal(ScanPersistence):
    """Ends the process in which it works, unless that is the main one."""

    def __call__(self, pictures):
        from multiprocessing import parent_process

        if parent_process() is not None:
            os._exit(1)
        return super().__call__(pictures)
