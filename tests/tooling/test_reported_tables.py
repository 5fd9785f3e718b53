"""The page of reported numbers is the one that its file makes."""

import json

from tools.reported_tables import BEGIN, END, PAGE, main, page_tables
from topokd_lib.analysis import load_reported


def test_the_page_is_current():
    shown = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == page_tables(load_reported()), "run `python -m tools.reported_tables`"


def test_every_table_and_every_note_is_on_the_page(tmp_path):
    reported = load_reported()
    text = page_tables(reported, tmp_path)
    for note in (*reported.corrections, *reported.cautions):
        assert str(note) in text
    for table in reported.tables:
        assert f"## {table.printed_as}: {table.title}" in text
    assert text.count("Our runs: not run.") == len(reported.tables)


def test_own_runs_stand_below_in_a_table_of_their_own(tmp_path):
    record = tmp_path / "cifar100" / "kd" / "resnet56-resnet20" / "seed0.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"last": {"top1": 0.7123}}))
    reported = load_reported()
    section = page_tables(reported, tmp_path).partition("## Table 2")[0]
    above, _, below = section.partition("Our runs, ")
    assert "71.23 (1)" in below
    assert "71.23 (1)" not in above
    assert "not run" in below
    assert page_tables(reported, tmp_path).count("Our runs: not run.") == len(reported.tables) - 1


def test_writing_replaces_what_stands_between_the_markers(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr("tools.reported_tables.PAGE", page)
    main()
    text = page.read_text(encoding="utf-8")
    assert "old" not in text
    assert text.startswith(f"before\n{BEGIN}\n\n## Table 1")
    assert text.endswith(f"{END}\nafter\n")
