"""The explorable of *Filtrations* computes what gudhi computes, by touch, mouse and keyboard."""

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gudhi
import numpy as np
import pytest

BOOK = Path(__file__).parents[2] / "book"
SCRIPT = BOOK / "_static" / "explorables" / "rips.js"
RING = [
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
RECTANGLE = [[1, 1], [5, 1], [5, 4], [1, 4]]
WIDGET = "[data-explorable=rips]"

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
            "<style>svg { width: 100% }</style><div class='tk-explorable' data-explorable='rips' "
            f"data-points='{json.dumps(points)}'><p class='tk-question'>A question?</p></div>"
            f"<script>{SCRIPT.read_text(encoding='utf-8')}</script></html>"
        )
        return page

    yield show
    context.close()
    assert not errors


def shown(page: Any) -> dict[int, np.ndarray]:
    values = page.locator("[data-value]").evaluate_all("bars => bars.map(bar => bar.dataset.value)")
    rows = np.array([[float(number) for number in value.split(",")] for value in values])
    return {k: rows[rows[:, 0] == k, 1:] for k in (0, 1)}


def points_of(page: Any) -> list[list[float]]:
    points: list[list[float]] = json.loads(page.locator(WIDGET).get_attribute("data-points"))
    return points


def by_gudhi(points: list[list[float]]) -> dict[int, np.ndarray]:
    tree = gudhi.RipsComplex(points=points).create_simplex_tree(max_dimension=2)
    tree.compute_persistence(persistence_dim_max=True)  # else a single point has no component
    return {k: tree.persistence_intervals_in_dimension(k).reshape(-1, 2) for k in (0, 1)}


def assert_equal_bars(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> None:
    for k in (0, 1):
        sort = [rows[np.lexsort(rows.T.round(9))] for rows in (found[k], expected[k])]
        np.testing.assert_allclose(*sort, rtol=1e-12)


def set_epsilon(page: Any, epsilon: float) -> None:
    page.locator("input").evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", epsilon
    )


def reading(page: Any) -> str:
    text: str = page.get_by_role("status").inner_text()
    return text


def random_points(seed: int) -> list[list[float]]:
    draw = random.Random(seed)
    count = draw.choice([1, 2, 3, 8, 12, 12])
    steps = draw.choice([60, 6])  # on a coarse grid there are ties and duplicates
    return [[draw.randint(0, steps) * 6 / steps for _ in range(2)] for _ in range(count)]


@pytest.mark.parametrize("points", [RING, RECTANGLE, *map(random_points, range(12))])
def test_bars_equal_gudhi(show: Any, points: list[list[float]]) -> None:
    assert_equal_bars(shown(show(points)), by_gudhi(points))


def test_the_random_clouds_are_worth_testing() -> None:
    diagrams = [by_gudhi(random_points(seed)) for seed in range(12)]
    assert max(len(each[1]) for each in diagrams) >= 3
    assert any(len(each[0]) < len(random_points(seed)) for seed, each in enumerate(diagrams))  # duplicates


def test_the_answer_to_the_question(show: Any) -> None:
    """The edge that makes the loop and the triangle that fills it are named when its bar is chosen."""
    page = show(RING)
    ((birth, death),) = by_gudhi(RING)[1]
    page.locator("[data-value^='1,']").focus()
    assert reading(page).endswith(f"H1: born {birth:.2f} by edge 3–4, dies {death:.2f} by triangle 1–3–9")
    assert math.isclose(math.dist(RING[2], RING[3]), birth)
    assert math.isclose(max(math.dist(RING[a], RING[b]) for a, b in [(0, 2), (0, 8), (2, 8)]), death)


def test_the_slider_counts_what_is_alive(show: Any) -> None:
    page = show(RECTANGLE)
    expected = {0: (4, 0), 2.99: (4, 0), 3: (2, 0), 4: (1, 1), 4.99: (1, 1), 5: (1, 0), 8: (1, 0)}
    for epsilon, (components, loops) in expected.items():
        set_epsilon(page, epsilon)
        assert reading(page).startswith(f"ε = {epsilon:.2f}. Components: {components}. Loops: {loops}.")


def test_next_event_stops_at_every_birth_and_death_at_once(show: Any) -> None:
    """There is no animation, so nothing has to be switched off for readers who prefer reduced motion."""
    page = show(RECTANGLE)
    stops = []
    for _ in range(4):
        page.get_by_role("button", name="Next event").click()
        stops.append(reading(page).split(".  ")[0])
    assert [stop.split(" Components")[0] for stop in stops] == [
        "ε = 3.00.",
        "ε = 4.00.",
        "ε = 5.00.",
        "ε = 8.49.",
    ]


def test_a_point_moves_by_keyboard_and_bars_follow(show: Any) -> None:
    page = show(RING)
    point = page.get_by_role("button", name="Point 9")
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        point.press(key)
    assert points_of(page) == [*RING[:8], [3.1, 2.3]]
    assert point.get_attribute("aria-label") == "Point 9 at 3.1,2.3"
    assert point.evaluate("point => point === document.activeElement")
    assert_equal_bars(shown(page), by_gudhi(points_of(page)))


def test_a_point_moves_by_drag_and_stays_in_the_box(show: Any) -> None:
    page = show(RING)
    box = page.get_by_role("button", name="Point 9").locator("circle").nth(1).bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y - 30, steps=4)
    moved = points_of(page)[8]
    assert moved[0] > RING[8][0]
    assert moved[1] > RING[8][1]
    assert_equal_bars(shown(page), by_gudhi(points_of(page)))
    cloud = page.locator("svg").first.bounding_box()
    page.mouse.move(cloud["x"] + 1, cloud["y"] + 1, steps=4)
    page.mouse.up()
    assert points_of(page)[8] == [0, 6]
    page.mouse.move(x, y)
    assert points_of(page)[8] == [0, 6]  # let go


def test_dragging_by_touch_does_not_scroll_the_page(show: Any) -> None:
    page = show(RING)
    styles = page.locator("[data-i]").evaluate_all("points => points.map(point => point.style.touchAction)")
    assert styles == ["none"] * len(RING)
    hit = page.locator("[data-i] circle:first-child").first.bounding_box()
    assert min(hit["width"], hit["height"]) >= 44


def test_it_starts_the_same_every_time_and_resets(show: Any) -> None:
    page = show(RING)
    first = page.locator(WIDGET).inner_html()
    page.get_by_role("button", name="Point 3").press("ArrowLeft")
    set_epsilon(page, 3)
    assert page.locator(WIDGET).inner_html() != first
    page.get_by_role("button", name="Reset").click()
    assert page.locator(WIDGET).inner_html() == first == show(RING).locator(WIDGET).inner_html()


def test_choosing_a_bar_marks_it_in_all_three_views(show: Any) -> None:
    page = show(RING)
    page.locator("[data-value^='1,']").dispatch_event("pointerover")
    chosen = page.locator("[data-bar][stroke='var(--tk-accent)']")
    assert chosen.evaluate_all("marks => marks.map(mark => mark.tagName)") == ["g", "circle"]
    marked = page.locator("svg").first.locator("path[stroke='var(--tk-accent)']")
    assert marked.count() == 2  # the edge that made the loop, the triangle that fills it
    page.get_by_role("button", name="Reset").dispatch_event("pointerover")
    assert chosen.count() == marked.count() == 0


def test_it_fits_a_phone_and_names_its_parts(show: Any) -> None:
    page = show(RING)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_text("A question?").is_visible()
    assert page.get_by_role("slider", name="ε").count() == 1
    names = page.locator("svg [tabindex]").evaluate_all(
        "parts => parts.map(part => part.getAttribute('aria-label'))"
    )
    assert names[0] == "Point 1 at 1,3.2"
    assert "H0: born 0.00, never dies" in names
    assert all(names)
    assert len(names) == 9 + 10


def test_the_chapter_starts_it_with_the_points_of_its_static_twin() -> None:
    cells = json.loads((BOOK / "shape" / "filtrations.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    (widget,) = [source for source in sources if 'data-explorable="rips"' in source]
    (twin,) = [source for source in sources if "ring = torch.tensor(" in source]
    points = json.loads(widget.split('data-points="')[1].split('"')[0])
    listed = json.loads(twin.split("torch.tensor(")[1].split(")\n")[0])
    assert points == listed == RING


def test_it_is_small_and_stands_alone() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.encode()) <= 6 * 1024
    assert "import " not in text
    assert "http" not in text
