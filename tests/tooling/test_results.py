"""The README's numbers are those of the records."""

import json

import pytest

from tools.results_table import BEGIN, END, README, RECORDS, seeds, table


def test_the_table_of_the_readme_is_made_from_the_records():
    shown = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() == table(), "run `python -m tools.results_table`"
    assert f"{seeds()} seeds" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*sorted(RECORDS.glob("*-seed*.json")), RECORDS / "teacher.json"], ids=str)
def test_a_record_says_where_it_comes_from(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["commit"]
    assert record["uncommitted_changes"] is False
    assert record["versions"]["torch"]
    assert record["data"]["fingerprint"]
    assert "/" not in record["hardware"]["cpu"]
    assert len([epoch for epoch in record["curve"] if epoch["stage"] == "main"]) == record["last"]["epoch"]
