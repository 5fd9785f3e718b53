"""The colophon's table of costs is made from the record of a build in which every chapter ran."""

import json

import pytest

from tools import book_costs


def report(executed):
    cost = {"seconds": 12.4, "cpu_seconds": 9.6, "peak_bytes": 800e6}
    chapters = {"book/shape/simplices.ipynb": cost}
    return {"jobs": 2, "cores": 2, "seconds": 150.2, "executed": executed, "chapters": chapters}


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("REPORT", "RECORD", "COLOPHON"):
        monkeypatch.setattr(book_costs, name, tmp_path / name)
    monkeypatch.setattr("sys.argv", ["book_costs"])
    (tmp_path / "COLOPHON").write_text(f"before\n{book_costs.BEGIN}\nold\n{book_costs.END}\nafter\n")
    return tmp_path


def test_the_colophon_is_current():
    shown = book_costs.COLOPHON.read_text(encoding="utf-8")
    shown = shown.partition(book_costs.BEGIN)[2].partition(book_costs.END)[0]
    record = json.loads(book_costs.RECORD.read_text(encoding="utf-8"))
    assert shown.strip() == book_costs.table(record), "run `python -m tools.book_costs --table`"


def test_a_report_becomes_a_record_and_a_table(files):
    (files / "REPORT").write_text(json.dumps(report(executed=1)))
    book_costs.main()
    record = json.loads((files / "RECORD").read_text())
    assert record["commit"]
    assert record["hardware"]["cpu"]
    text = (files / "COLOPHON").read_text()
    assert "| [](shape/simplices.ipynb) | 10 | 800 |" in text
    assert "`make clean book JOBS=2`" in text
    assert "took 150 s" in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text


def test_without_a_build_there_is_nothing_to_record(files):
    with pytest.raises(SystemExit, match=r"no report of a build.*make clean book"):
        book_costs.main()


def test_a_build_that_kept_chapters_is_not_recorded(files):
    (files / "REPORT").write_text(json.dumps(report(executed=0)))
    with pytest.raises(SystemExit, match=r"executed 0 of 1 chapters.*make clean book"):
        book_costs.main()
