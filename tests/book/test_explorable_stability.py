"""The explorable of *Distances and stability* measures what the library measures, and needs no mouse."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topokd_lib.topology import PersistenceDiagrams, bottleneck_distance, rips_diagrams

STATIC = Path(__file__).parents[2] / "book" / "_static"
SCRIPT = STATIC / "explorables" / "stability.js"
POINTS = [
    [1, 3.2],
    [1.6, 4.9],
    [3.1, 5.3],
    [4.8, 4.6],
    [5.2, 2.9],
    [4.4, 1.3],
    [2.7, 0.9],
    [1.5, 1.6],
    [3.2, 2.2],
]
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>explorable</title><style>{style}</style>
<div class="tk-explorable" data-explorable="stability" data-points="{points}">
<p class="tk-question">A question?</p></div><script>{script}</script></html>"""
WIDGET = "[data-explorable=stability]"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    style = (STATIC / "topokd.css").read_text()
    opened.set_content(PAGE.format(points=json.dumps(POINTS), style=style, script=SCRIPT.read_text()))
    yield opened
    context.close()
    assert not errors


def state(page: Any) -> dict[str, Any]:
    return dict(page.evaluate(f"document.querySelector('{WIDGET}').state"))


def shake(page: Any, delta: float) -> None:
    page.evaluate(
        "delta => { const input = document.querySelector('input'); input.value = delta;"
        " input.dispatchEvent(new Event('input', { bubbles: true })); }",
        delta,
    )


def library(points: list[list[float]]) -> tuple[PersistenceDiagrams, ...]:
    return rips_diagrams(torch.tensor(points, dtype=torch.float64)[None], dimensions=(0, 1))


@pytest.mark.browser
@pytest.mark.parametrize("delta", [0.0, 0.1, 0.45, 1.5])
def test_bars_and_distances_equal_the_library(page: Any, delta: float) -> None:
    shake(page, delta)
    for _ in range(3):
        shown = state(page)
        before, after = library(shown["points"]), library(shown["moved"])
        for dimension in (0, 1):
            for bars, diagrams in (
                (shown["before"], before[dimension]),
                (shown["after"], after[dimension]),
            ):
                expected = sorted(map(tuple, diagrams[0].tolist()))
                np.testing.assert_allclose(sorted(map(tuple, bars[dimension])), expected, atol=1e-9)
            expected = bottleneck_distance(before[dimension], after[dimension]).item()
            assert shown["distances"][dimension] == pytest.approx(expected, abs=1e-9)
        page.get_by_role("button", name="Shake again").click()


@pytest.mark.browser
def test_every_point_moves_by_delta_and_the_bound_holds(page: Any) -> None:
    for delta in (0.05, 0.3, 0.9):
        shake(page, delta)
        for _ in range(10):
            shown = state(page)
            steps = np.linalg.norm(np.subtract(shown["moved"], shown["points"]), axis=1)
            np.testing.assert_allclose(steps, delta, atol=1e-9)
            assert max(shown["distances"]) <= 2 * delta + 1e-9
            assert "within the bound" in page.get_by_role("status").inner_text()
            page.get_by_role("button", name="Shake again").click()


@pytest.mark.browser
def test_it_starts_the_same_every_time_and_resets(page: Any) -> None:
    first = state(page)
    assert first["delta"] == pytest.approx(0.3)
    assert first["points"] == POINTS
    page.get_by_role("button", name="Shake again").click()
    assert state(page)["moved"] != first["moved"]
    page.get_by_role("button", name="Reset").click()
    assert state(page) == first


@pytest.mark.browser
def test_it_works_by_keyboard_and_fits_a_phone(page: Any) -> None:
    page.locator("input").press("ArrowRight")
    assert state(page)["delta"] == pytest.approx(0.35)
    page.get_by_role("button", name="Shake again").press("Enter")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("svg[aria-label]").count() == 2
    assert page.get_by_text("A question?").is_visible()


def test_it_is_small_and_stands_alone() -> None:
    text = SCRIPT.read_text()
    assert len(text.encode()) <= 6 * 1024
    assert "import " not in text
    assert "http" not in text
