"""Ways to the bars and persistence images of pictures agree before they are timed."""

import pytest

from benchmarks.measure import run_case
from benchmarks.workloads import cubical, tgd
from topokd_lib.topology import ScanPersistence, signal_diagrams


@pytest.mark.parametrize("workload", [tgd, cubical], ids=lambda workload: workload.__name__)
def test_every_contender_agrees(workload):
    for case in workload.cases(quick=True):
        timings = run_case(case, seconds=0, rounds=0)
        assert all(timing.agrees or timing.missing for timing in timings), case.name
        assert timings[-1].name.startswith("ours")
        assert not timings[-1].missing


def test_official_artefacts_are_drawn_alike():
    """The float64 case, in which nothing is too faint to be drawn."""
    *_, case = tgd.cases(quick=False)
    assert all(timing.agrees or timing.missing for timing in run_case(case, seconds=0, rounds=0))


def test_a_wrong_image_is_found(monkeypatch):
    monkeypatch.setattr(tgd, "official", lambda pictures: 0.9 * tgd._pixels(ROWS(pictures), len(pictures)))
    case = next(iter(tgd.cases(quick=True)))
    timings = run_case(case, seconds=0, rounds=0)
    if not timings[0].missing:
        assert [timing.agrees for timing in timings] == [True, False, False, False]


ROWS = ScanPersistence(scans=("rows",))


def test_photographs_are_as_rich_as_those_of_cifar():
    """133 bars of six grey levels or more in a channel of CIFAR-10's test images, on average."""
    pictures = tgd.photographs(16)
    assert pictures.shape == (16, 3, 32, 32)
    diagrams = signal_diagrams(pictures.flatten(0, 1).flatten(1).float())
    kept = (diagrams.mask & (diagrams.persistence >= 6)).sum(dim=1).double().mean()
    assert 110 < kept < 150
