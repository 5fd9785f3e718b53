"""Locks keep a second process away, and a look at them keeps nobody away."""

import threading
import time

import pytest

from topokd_lib.files import is_locked, lock

fcntl = pytest.importorskip("fcntl", reason="there are no such locks on this system")


@pytest.fixture
def place(tmp_path):
    path = tmp_path / "file"
    path.touch()
    return path


def test_a_lock_lasts_until_the_file_is_closed(place):
    with place.open("r+") as mine, place.open("r+") as other:
        assert not is_locked(place)
        assert lock(mine)
        assert is_locked(place)
        assert not lock(other)
    assert not is_locked(place)


def test_nothing_there_is_not_locked(tmp_path):
    assert not is_locked(tmp_path / "nothing")


def test_somebody_who_looks_is_waited_for(place):
    """Without that, a run that starts while a sweep looks at it would believe that another process trains."""
    with place.open("r+") as looking, place.open("r+") as mine:
        fcntl.flock(looking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert not is_locked(place), "two may look at the same time"
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        assert lock(mine)


def test_many_who_look_never_keep_anybody_away(place):
    end = time.monotonic() + 0.5
    found = []

    def look():
        while time.monotonic() < end:
            found.append(is_locked(place))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        with place.open("r+") as mine:
            assert lock(mine)
    for thread in threads:
        thread.join()
    assert len(found) > 10
