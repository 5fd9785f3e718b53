"""Recipes are tried without a download."""

import pytest

from tests.recipes.made import STAND_INS
from topokd_lib.data import DATA


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    for name, load in STAND_INS.items():
        monkeypatch.setitem(DATA, name, load)
