"""What `fit` is compared with trains the same student, and the two clocks belong to the right one."""

import time

import pytest

from benchmarks.measure import run_case
from benchmarks.workloads.fit_overhead import InTurn, cases, interval, trainings


def test_the_bare_loop_trains_what_fit_trains():
    (case,) = cases(quick=True)
    bare, ours = run_case(case, seconds=0, rounds=0)
    assert (bare.name, ours.name) == ("a bare loop", "fit")
    assert ours.agrees


def test_each_step_is_timed_on_its_own_side(monkeypatch):
    """A bare step that takes 50 ms longer shows with the bare loop, whether it comes first or second."""
    ((training, _),) = trainings(quick=True)
    few = InTurn(training, 4)
    step = few.step

    def slower(batch):
        step(batch)
        start = time.process_time()
        while time.process_time() < start + 0.05:
            pass

    few.step = slower
    training.fit(few)
    assert len(few.seconds) == 3  # nobody asks what came after the last batch
    assert all(bare > 0.05 for bare, _ in few.seconds)
    assert min(ours for _, ours in few.seconds) < 0.05


@pytest.mark.parametrize(("count", "ranks"), [(5, (0, 4)), (6, (0, 5)), (9, (1, 7)), (100, (39, 60))])
def test_an_interval_lies_between_the_order_statistics_of_the_sign_test(count, ranks):
    """Ranks, counted from 0, as tables of the binomial distribution give them for 95 %."""
    assert interval([float(value) for value in reversed(range(count))]) == ranks
