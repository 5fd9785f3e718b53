"""The explorable of *Persistent homology* grows the library's tree and grades the reader rightly."""

import json
import random
from collections.abc import Iterator
from itertools import combinations
from math import dist, inf
from pathlib import Path
from typing import Any

import gudhi
import numpy as np
import pytest
import torch

from topokd_lib.topology import h0_deaths

BOOK = Path(__file__).parents[2] / "book"
SCRIPT = BOOK / "_static" / "explorables" / "spanning_tree.js"
START = [[0.6, 1.2], [1.6, 0.5], [1.1, 2.3], [2.2, 1.7], [4.5, 3.9], [5.5, 4.3], [4.6, 5.2], [2.8, 3.5]]
SQUARE = [[1, 1], [4, 1], [4, 4], [1, 4]]
WIDGET = "[data-explorable=spanning_tree]"

pytestmark = pytest.mark.browser


@pytest.fixture
def show(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    errors: list[str] = []

    def show(points: list[list[float]]) -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.set_content(
            "<!doctype html><html lang='en'><meta charset='utf-8'><title>explorable</title>"
            "<style>svg { width: 100% }</style><div class='tk-explorable' data-explorable='spanning_tree' "
            f"data-points='{json.dumps(points)}'><p class='tk-question'>A question?</p></div>"
            f"<script>{SCRIPT.read_text(encoding='utf-8')}</script></html>"
        )
        return page

    yield show
    context.close()
    assert not errors


def joins(page: Any) -> Any:
    return page.get_by_role("button", name="It joins two pieces")


def closes(page: Any) -> Any:
    return page.get_by_role("button", name="It closes a loop")


def finish(page: Any) -> None:
    while joins(page).is_enabled():
        joins(page).click()


def deaths(page: Any) -> list[float]:
    found = page.locator("[data-death]").evaluate_all("bars => bars.map(bar => bar.dataset.death)")
    return [inf if death == "Infinity" else float(death) for death in found if death != "open"]


def kept(page: Any) -> list[tuple[int, int]]:
    names = page.locator("[data-kept]").evaluate_all("edges => edges.map(edge => edge.dataset.kept)")
    return [(int(a) - 1, int(b) - 1) for a, b in (name.split("–") for name in names)]


def reading(page: Any) -> str:
    text: str = page.get_by_role("status").inner_text()
    return text


def points_of(page: Any) -> list[list[float]]:
    points: list[list[float]] = json.loads(page.locator(WIDGET).get_attribute("data-points"))
    return points


def random_points(seed: int) -> list[list[float]]:
    draw = random.Random(seed)
    steps = draw.choice([60, 6])  # on a coarse grid there are ties and duplicates
    return [[draw.randint(0, steps) * 6 / steps for _ in range(2)] for _ in range(draw.choice([1, 2, 5, 9]))]


@pytest.mark.parametrize("points", [START, SQUARE, *map(random_points, range(8))])
def test_deaths_are_those_of_the_library_and_of_gudhi(show: Any, points: list[list[float]]) -> None:
    page = show(points)
    finish(page)
    *finite, endless = deaths(page)
    cloud = torch.tensor(points, dtype=torch.float64)[None]
    np.testing.assert_allclose(finite, h0_deaths(cloud)[0], rtol=1e-12)
    assert endless == inf
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=1)
    tree.compute_persistence(persistence_dim_max=True)
    theirs = np.sort(tree.persistence_intervals_in_dimension(0)[:, 1])
    np.testing.assert_allclose([d for d in (*finite, endless) if d > 0], theirs, rtol=1e-12)
    assert reading(page).endswith(f"Pieces: 1. {reading(page).split('. ')[-1]}")


def test_the_kept_edges_are_a_spanning_tree_of_least_length(show: Any) -> None:
    page = show(START)
    finish(page)
    edges = kept(page)
    assert len(edges) == len(START) - 1
    assert len({frozenset(edge) for edge in edges}) == len(edges)
    length = sum(dist(START[a], START[b]) for a, b in edges)
    assert length == pytest.approx(h0_deaths(torch.tensor([START], dtype=torch.float64)).sum().item())


def test_the_reader_is_told_whether_the_guess_was_right(show: Any) -> None:
    """Told by an independent rule: an edge closes a loop if its ends are linked by shorter ones."""
    page = show(START)
    edges = sorted(combinations(range(len(START)), 2), key=lambda e: dist(START[e[0]], START[e[1]]))
    piece = list(range(len(START)))
    right = 0
    for step, (a, b) in enumerate(edges, start=1):
        assert f"Next: edge {a + 1}–{b + 1}, length {dist(START[a], START[b]):.2f}." in reading(page)
        truth, guess = piece[a] != piece[b], step % 3 != 0
        (joins(page) if guess else closes(page)).click()
        right += truth == guess
        piece = [piece[a] if p == piece[b] else p for p in piece]
        assert (
            f"length {dist(START[a], START[b]):.2f}: {'right' if truth == guess else 'no'}, it "
            in reading(page)
        )
        assert ("it joins pieces" if truth else "it closes a loop") in reading(page)
        assert reading(page).endswith(f"Pieces: {len(set(piece))}. Right: {right} of {step}.")
        if len(set(piece)) == 1:
            break
    assert 0 < right < step
    assert "The tree is complete." in reading(page)
    assert joins(page).is_disabled()
    assert closes(page).is_disabled()


def test_the_first_cloud_asks_about_both_kinds_of_edge(show: Any) -> None:
    page = show(START)
    finish(page)
    right, of = (int(word) for word in reading(page).split("Right: ")[1].rstrip(".").split(" of "))
    assert right == len(START) - 1
    assert of - right >= 3  # loops were closed on the way


def test_back_takes_one_answer_back(show: Any) -> None:
    page = show(START)
    first = page.locator(WIDGET).inner_html()
    joins(page).click()
    once = page.locator(WIDGET).inner_html()
    closes(page).click()
    page.get_by_role("button", name="Back").click()
    assert page.locator(WIDGET).inner_html() == once
    page.get_by_role("button", name="Back").click()
    assert page.locator(WIDGET).inner_html() == first
    assert page.get_by_role("button", name="Back").is_disabled()


def test_it_starts_the_same_every_time_and_resets(show: Any) -> None:
    page = show(START)
    first = page.locator(WIDGET).inner_html()
    page.get_by_role("button", name="Point 3").press("ArrowLeft")
    joins(page).click()
    assert page.locator(WIDGET).inner_html() != first
    page.get_by_role("button", name="Reset").click()
    assert page.locator(WIDGET).inner_html() == first == show(START).locator(WIDGET).inner_html()


def test_a_point_moves_by_keyboard_and_the_questions_begin_again(show: Any) -> None:
    page = show(START)
    joins(page).click()
    point = page.get_by_role("button", name="Point 8")
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowDown"):
        point.press(key)
    assert points_of(page) == [*START[:7], [2.9, 3.6]]
    assert point.get_attribute("aria-label") == "Point 8 at 2.9,3.6, in piece 8"
    assert point.evaluate("point => point === document.activeElement")
    assert reading(page).endswith("Pieces: 8. Right: 0 of 0.")


def test_a_point_moves_by_drag_and_stays_in_the_box(show: Any) -> None:
    page = show(START)
    box = page.get_by_role("button", name="Point 8").locator("circle").nth(1).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y - 30, steps=4)
    assert points_of(page)[7][0] > START[7][0]
    cloud = page.locator("svg").first.bounding_box()
    page.mouse.move(cloud["x"] + 1, cloud["y"] + 1, steps=4)
    page.mouse.up()
    assert points_of(page)[7] == [0, 6]
    page.mouse.move(x, y)
    assert points_of(page)[7] == [0, 6]  # let go
    finish(page)
    np.testing.assert_allclose(
        deaths(page)[:-1], h0_deaths(torch.tensor([points_of(page)], dtype=torch.float64))[0], rtol=1e-12
    )


def test_dragging_by_touch_does_not_scroll_the_page(show: Any) -> None:
    page = show(START)
    styles = page.locator("[data-i]").evaluate_all("points => points.map(point => point.style.touchAction)")
    assert styles == ["none"] * len(START)
    hit = page.locator("[data-i] circle:first-child").first.bounding_box()
    assert min(hit["width"], hit["height"]) >= 44


def test_it_fits_a_phone_names_its_parts_and_does_not_move_by_itself(show: Any) -> None:
    page = show(START)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_text("A question?").is_visible()
    names = page.locator("svg [tabindex]").evaluate_all("all => all.map(part => part.ariaLabel)")
    assert names[0] == "Point 1 at 0.6,1.2, in piece 1"
    assert len(names) == len(START)
    text = SCRIPT.read_text(encoding="utf-8")
    assert not any(
        word in text for word in ("requestAnimationFrame", "setTimeout", "setInterval", "<animate")
    )


def test_the_chapter_starts_it_with_the_points_of_its_static_twin() -> None:
    cells = json.loads((BOOK / "shape" / "persistent_homology.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (widget,) = [source for source in sources if 'data-explorable="spanning_tree"' in source]
    (twin,) = [source for source in sources if "places = torch.tensor(" in source]
    points = json.loads(widget.split('data-points="')[1].split('"')[0])
    listed = json.loads(twin.split("torch.tensor(")[1].split(")\n")[0])
    assert points == listed == START


def test_it_is_small_and_stands_alone() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.encode()) <= 6 * 1024
    assert "import " not in text
    assert "http" not in text
