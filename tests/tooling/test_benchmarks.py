"""The benchmark measures only what agrees, and says where its numbers come from."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.measure import Case, Contender, Timing, disagreement, run_case
from tools.environment import ROOT


def contender(name, value):
    return Contender(name, lambda items: np.full((items, 2), value), items=3)


def test_a_contender_that_disagrees_is_not_timed():
    case = Case("size", (contender("reference", 1.0), contender("wrong", 1.1), contender("ours", 1.0)), 1e-3)
    reference, wrong, ours = run_case(case, seconds=5, rounds=4)
    assert (reference.agrees, wrong.agrees, ours.agrees) == (True, False, True)
    assert wrong.difference == pytest.approx(0.1)
    assert (len(reference.cpu), len(wrong.cpu), len(ours.cpu)) == (4, 0, 4)


def test_three_rounds_are_made_however_small_the_budget():
    case = Case("size", (contender("reference", 1.0),), 1e-3)
    (timing,) = run_case(case, seconds=0, rounds=50)
    assert len(timing.cpu) == 3


def test_disagreement_is_relative_to_the_largest_value():
    reference = np.array([1.0, 200.0])
    assert disagreement(np.array([1.0, 199.0]), reference) == pytest.approx(0.005)
    assert disagreement(np.array([1.0]), reference) == float("inf")
    assert disagreement(np.array([1.0, np.nan]), reference) == float("inf")


def test_the_median_ignores_one_slow_sample():
    timing = Timing("x", 0.0, agrees=True, wall=[1.0, 1.0, 90.0], cpu=[1.0, 1.0, 40.0])
    assert timing.median == 1.0
    assert timing.slowdown == 1.0


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_an_unknown_workload_is_refused_with_the_known_ones():
    done = run("--only", "h7")
    assert done.returncode == 2
    assert "no workload h7" in done.stderr
    assert "h0_image" in done.stderr


@pytest.mark.slow
def test_a_quick_run_agrees_with_the_official_route_and_records_where_it_ran(tmp_path):
    done = run("--quick", "--rounds", "3", "--json", str(tmp_path / "bench.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["surroundings"]["threads"] == 1
    assert record["surroundings"]["cpu"]
    assert set(record["surroundings"]["versions"]) >= {"torch", "gudhi", "topokd-lib"}
    (case,) = [case for case in record["cases"] if case["workload"].endswith("h0_image")]
    assert len(case["contenders"]) == 3
    assert all(entry["agrees"] and len(entry["cpu"]) == 3 for entry in case["contenders"])
