"""The pages as built: complete, self-contained, described in words, and light."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"
HEAVIEST = 500_000
HEAVIEST_REFERENCE = 800_000  # all objectives stand on one page, with their formulas
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}


class Page(HTMLParser):
    """What one page loads, shows and links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in LOADS and found.get(LOADS[tag]):
            self.loads.append(found[LOADS[tag]] or "")
        if tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon", "modulepreload"):
            self.loads.append(found.get("href") or "")
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        if tag == "img":
            self.images.append(found)


def complaints(text: str, heaviest: int = HEAVIEST) -> list[str]:
    """What is wrong with the text of one page."""
    page = Page(text)
    found = [f"loads {url}" for url in page.loads if urlparse(url).netloc]
    for image in page.images:
        alt = image.get("alt") or ""
        if len(alt) < 4 or re.search(r"_images|_static|\.(png|svg|jpe?g)$", alt):
            found.append(f"image {image.get('src')} has no written alternative text, only {alt!r}")
    if len(text.encode()) > heaviest:
        found.append(f"weighs {len(text.encode())} bytes, more than {heaviest}")
    return found


def dead_colab_links(text: str) -> list[str]:
    """Links to Colab whose notebook is not in the repository."""
    links = [link for link in Page(text).links if "colab.research.google.com" in link]
    return [link for link in links if not (ROOT / link.split("/blob/")[-1].split("/", 1)[-1]).is_file()]


def sources() -> list[Path]:
    files = [
        ROOT / "_config.yml",
        ROOT / "_toc.yml",
        *(ROOT / "book").rglob("*"),
        *(ROOT / "topokd_lib").rglob("*"),
    ]
    return [p for p in files if p.is_file() and "__pycache__" not in p.parts]


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    """Text of every page of the table of contents."""
    index = HTML / "index.html"
    if not index.exists():
        pytest.skip("the book is not built here; `make book` builds it")
    stamp = max(path.stat().st_mtime for path in HTML.rglob("*.html"))
    newer = [path for path in sources() if path.stat().st_mtime > stamp]
    if newer:
        pytest.skip(f"the built book is older than {newer[0].relative_to(ROOT)}; `make book` builds it anew")
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    names = re.findall(r"(?:root|file): (\S+)", toc)
    missing = [name for name in names if not (HTML / f"{name}.html").is_file()]
    assert not missing, f"pages of _toc.yml that were not built: {missing}"
    return {name: (HTML / f"{name}.html").read_text(encoding="utf-8") for name in names}


def test_every_page_is_self_contained_described_and_light(built: dict[str, str]):
    found = [
        f"{name} {line}"
        for name, text in built.items()
        for line in complaints(text, HEAVIEST_REFERENCE if "/reference/" in f"/{name}" else HEAVIEST)
    ]
    assert not found, "\n".join(found)


def test_every_chapter_opens_in_colab(built: dict[str, str]):
    for name, text in built.items():
        assert not dead_colab_links(text), f"{name} links to {dead_colab_links(text)}"
        if (ROOT / f"{name}.ipynb").exists():
            assert "colab.research.google.com" in text, f"{name} has no link to Colab"


def unfinished(text: str) -> list[str]:
    """What a reader should never see outside of code: a role that nothing replaced."""
    shown = re.sub(r"<(pre|code)\b.*?</\1>", "", text, flags=re.S)
    return re.findall(r"\{(?:glue|numref|term|cite|eq|prf|ref)[:\w]*\}`[^`<]*", shown)


def test_no_page_shows_a_role_that_nothing_replaced(built: dict[str, str]):
    found = [f"{name} shows {role}" for name, text in built.items() for role in unfinished(text)]
    assert not found, "\n".join(found)


def test_a_bad_page_is_noticed():
    script = '<script src="https://example.org/x.js"></script>'
    bad = script + '<img src="a.svg" alt="_images/a.svg"><img src="b.png">'
    assert len(complaints(bad)) == 3
    assert len(complaints("x" * (HEAVIEST + 1))) == 1
    shown, hidden = "<p>It is {glue:text}`x:.2f`.</p>", "<code>{cite:p}`a`</code>"
    assert unfinished(shown + hidden) == ["{glue:text}`x:.2f"]
    assert complaints('<img src="a.svg" alt="A ring of points."><script src="_static/x.js"></script>') == []


def test_a_dead_link_to_colab_is_noticed():
    link = '<a href="https://colab.research.google.com/github/a/b/blob/main/{}">'
    assert dead_colab_links(link.format("book/nowhere.ipynb"))
    assert not dead_colab_links(link.format("_toc.yml"))


def test_the_launch_button_points_to_where_notebooks_lie():
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert config["repository"]["path_to_book"] == ""
    assert config["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
