"""Every objective of the library keeps the contract; a new one is covered as soon as it is exported."""

import pytest

from topokd_lib import objectives
from topokd_lib.testing import NEEDS_NECK, OBJECTIVE_CHECKS, objective_cases, toy_pair

CASES = objective_cases()


@pytest.fixture(scope="module", params=["resnet14", "resnet8x4"])
def pair(request):
    """A teacher as wide as the student, and one four times as wide, which needs connectors."""
    return toy_pair(teacher=request.param)


@pytest.mark.parametrize("check", OBJECTIVE_CHECKS.values(), ids=OBJECTIVE_CHECKS.keys())
@pytest.mark.parametrize("build", CASES.values(), ids=CASES.keys())
def test_contract(build, check, pair):
    check(build, pair)


@pytest.mark.parametrize("check", OBJECTIVE_CHECKS.values(), ids=OBJECTIVE_CHECKS.keys())
@pytest.mark.parametrize("teacher", ["resnet14", "resnet8x4"])
@pytest.mark.parametrize("method", NEEDS_NECK)
def test_contract_with_a_neck(method, teacher, check):
    check(getattr(objectives, method), toy_pair(teacher=teacher, neck=NEEDS_NECK[method]))
