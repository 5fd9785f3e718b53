"""Two builds are compared file by file; the builds themselves are `python -m tools.compare_builds`."""

from tools.compare_builds import differences


def tree(root, **pages):
    root.mkdir()
    for name, text in pages.items():
        (root / f"{name}.html").write_text(text)
    return root


def test_equal_trees_differ_in_nothing(tmp_path):
    first, second = (tree(tmp_path / name, a="<p>1</p>", b="") for name in ("first", "second"))
    assert differences(first, second) == []


def test_the_first_differing_line_of_a_page_and_a_page_of_one_build_are_named(tmp_path):
    first = tree(tmp_path / "first", a="<h1>A</h1>\n18:06\n18:07", b="")
    second = tree(tmp_path / "second", a="<h1>A</h1>\n18:09\n18:10")
    assert differences(first, second) == [
        "b.html: only in one of the builds",
        "a.html, line 2:\n  - 18:06\n  + 18:09",
    ]


def test_what_differs_in_bytes_and_not_in_lines_is_told_too(tmp_path):
    first, second = tree(tmp_path / "first", a="x\n"), tree(tmp_path / "second", a="x")
    assert differences(first, second) == ["a.html: the same lines, other bytes"]
