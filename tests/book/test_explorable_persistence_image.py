"""The explorable of *Persistence images* computes what the library computes, and needs no mouse."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from topokd_lib.topology import PersistenceDiagrams, PersistenceImage

STATIC = Path(__file__).parents[2] / "book" / "_static"
SCRIPT = STATIC / "explorables" / "persistence_image.js"
BARS = [(0.2, 0.7), (0.32, 0.58), (0.7, 0.2)]
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>explorable</title><style>{style}</style>
<div class="tk-explorable" data-explorable="persistence_image" data-bars="{bars}">
<p class="tk-question">A question?</p><p>shown without JavaScript</p></div><script>{script}</script></html>"""
WIDGET = "[data-explorable=persistence_image]"


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    bars = " ".join(f"{birth},{persistence}" for birth, persistence in BARS)
    style = (STATIC / "topokd.css").read_text()
    opened.set_content(PAGE.format(bars=bars, style=style, script=SCRIPT.read_text()))
    yield opened
    context.close()
    assert not errors


def library_image(
    bars: list[tuple[float, float]], *, bandwidth: float, resolution: int, weight: Any
) -> np.ndarray:
    pairs = torch.tensor([(birth, birth + persistence) for birth, persistence in bars], dtype=torch.float64)
    image = PersistenceImage(
        (0.0, 1.0), (0.0, 1.0), bandwidth, resolution=(resolution, resolution), weight=weight, value="density"
    )
    return image(PersistenceDiagrams.from_list([pairs], dimension=1))[0].numpy()


def shown(page: Any) -> np.ndarray:
    return np.array(page.evaluate(f"document.querySelector('{WIDGET}').image"))


def choose(page: Any, **settings: object) -> None:
    for name, value in settings.items():
        page.evaluate(
            "([name, value]) => { const input = document.querySelector(`[name=${name}]`);"
            " input.value = value; input.dispatchEvent(new Event('input', { bubbles: true })); }",
            [name, str(value)],
        )


@pytest.mark.parametrize("weight", ["persistence", "constant"])
@pytest.mark.parametrize(("bandwidth", "resolution"), [(0.06, 15), (0.02, 30), (0.3, 3)])
@pytest.mark.browser
def test_pixels_equal_the_library(page: Any, bandwidth: float, resolution: int, weight: str) -> None:
    choose(page, bandwidth=bandwidth, resolution=resolution, weight=weight)
    expected = library_image(BARS, bandwidth=bandwidth, resolution=resolution, weight=weight)
    np.testing.assert_allclose(shown(page), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.browser
def test_it_starts_the_same_every_time_and_resets(page: Any) -> None:
    first = shown(page)
    np.testing.assert_allclose(
        first, library_image(BARS, bandwidth=0.06, resolution=15, weight="persistence"), rtol=1e-9, atol=1e-12
    )
    choose(page, bandwidth=0.2, resolution=9, weight="constant")
    page.locator("[role=slider]").first.press("ArrowUp")
    assert shown(page).shape == (9, 9)
    page.get_by_role("button", name="Reset").click()
    page.wait_for_function(f"document.querySelector('{WIDGET}').image.length === 15")
    np.testing.assert_array_equal(shown(page), first)


@pytest.mark.browser
def test_a_bar_moves_by_keyboard_and_by_drag(page: Any) -> None:
    bar = page.locator("[role=slider]").nth(2)
    bar.press("ArrowRight")
    bar.press("ArrowDown")
    assert bar.get_attribute("aria-valuetext") == "birth 0.72, persistence 0.18"
    moved = [*BARS[:2], (0.72, 0.18)]
    np.testing.assert_allclose(
        shown(page), library_image(moved, bandwidth=0.06, resolution=15, weight="persistence"), rtol=1e-9
    )
    box = bar.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(0, 0, steps=3)
    page.mouse.up()
    assert bar.get_attribute("aria-valuetext") == "birth 0.00, persistence 1.00"


@pytest.mark.browser
def test_the_answer_to_the_question(page: Any) -> None:
    """Three bars show as three peaks when the bumps are narrow, and as two when they are wide."""
    reading = page.locator("output")
    choose(page, bandwidth=0.04, resolution=30)
    assert "3 bars → 900 numbers, 3 peaks" in reading.inner_text()
    choose(page, bandwidth=0.14, resolution=30)
    assert "2 peaks" in reading.inner_text()


@pytest.mark.browser
def test_it_fits_a_phone_and_names_its_parts(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("[role=slider]").evaluate_all("nodes => nodes.map(node => node.ariaLabel)") == [
        "Bar 1",
        "Bar 2",
        "Bar 3",
    ]
    assert page.locator("label").count() == 3
    assert page.get_by_text("A question?").is_visible()
    assert not page.get_by_text("shown without JavaScript").count()


def test_it_is_small_and_stands_alone() -> None:
    text = SCRIPT.read_text()
    assert len(text.encode()) <= 6 * 1024
    assert "import " not in text
    assert "http" not in text
