"""Reported numbers are those that were published, and tables say no more than the file."""

import json
import re

import pytest
from pybtex.database import parse_file

from topokd_lib.analysis import load_reported, markdown_table, read_own_runs
from topokd_lib.analysis.reported import REPORTED
from topokd_lib.errors import UnknownName
from topokd_lib.models import MODELS
from topokd_lib.recipes import benchmark_pairs, recipe_names

# Typed from the README of HobbitLong/RepDistiller, whose columns are in another order than the tables'.
ALIKE = """
wrn_40_2-wrn_16_2 wrn_40_2-wrn_40_1 resnet56-resnet20 resnet110-resnet20 resnet110-resnet32 resnet32x4-resnet8x4 vgg13-vgg8
teacher 75.61 75.61 72.34 74.31 74.31 79.42 74.64
student 73.26 71.98 69.06 69.06 71.14 72.50 70.36
KD      74.92 73.54 70.66 70.67 73.08 73.33 72.98
FitNet  73.58 72.24 69.21 68.99 71.06 73.50 71.02
AT      74.08 72.77 70.55 70.22 72.31 73.44 71.43
SP      73.83 72.43 69.67 70.04 72.69 72.94 72.68
CC      73.56 72.21 69.63 69.48 71.48 72.97 70.71
VID     74.11 73.30 70.38 70.16 72.61 73.09 71.23
RKD     73.35 72.22 69.61 69.25 71.82 71.90 71.48
PKT     74.54 73.45 70.34 70.25 72.61 73.64 72.88
FSP     72.91 N/A   69.95 70.11 71.89 72.62 70.23
CRD     75.48 74.14 71.16 71.46 73.48 75.51 73.94
"""  # noqa: E501
UNLIKE = """
vgg13-mobilenetv2_half resnet50-mobilenetv2_half resnet50-vgg8 resnet32x4-shufflenetv1 resnet32x4-shufflenetv2 wrn_40_2-shufflenetv1
teacher 74.64 79.34 79.34 79.42 79.42 75.61
student 64.60 64.60 70.36 70.50 71.82 70.50
KD      67.37 67.35 73.81 74.07 74.45 74.83
FitNet  64.14 63.16 70.69 73.59 73.54 73.73
AT      59.40 58.58 71.84 71.73 72.73 73.32
SP      66.30 68.08 73.34 73.48 74.56 74.52
CC      64.86 65.43 70.25 71.14 71.29 71.38
VID     65.56 67.57 70.30 73.38 73.40 73.61
RKD     64.52 64.43 71.50 72.28 73.21 72.21
PKT     67.13 66.52 73.01 74.10 74.69 73.89
CRD     69.73 69.11 74.30 75.11 75.65 76.05
"""  # noqa: E501


@pytest.fixture(scope="module")
def reported():
    return load_reported()


def by_pair(table, name):
    return {column.pair: value for column, value in zip(table.columns, table.row(name).values, strict=True)}


@pytest.mark.parametrize(("key", "typed"), [("cifar100-alike", ALIKE), ("cifar100-unlike", UNLIKE)])
def test_every_number_of_the_benchmark_is_the_one_it_published(reported, key, typed):
    table = reported.table(key)
    head, *rows = typed.split("\n")[1:-1]
    for line in rows:
        name, *values = line.split()
        numbers = [None if value == "N/A" else float(value) for value in values]
        assert by_pair(table, name) == dict(zip(head.split(), numbers, strict=True)), name
    typed_names = {line.split()[0] for line in rows}
    assert {row.name for row in table.rows if row.source == "repdistiller"} == typed_names


def test_rows_of_the_paper_itself(reported):
    """Typed a second time from the same notes: a guard against slips, not an independent source."""
    alike, unlike = (reported.table(key) for key in ("cifar100-alike", "cifar100-unlike"))
    assert alike.row("TopKD").values == (71.58, 71.47, 73.77, 75.40, 75.75, 74.43, 74.01)
    assert unlike.row("TopKD").values == (68.83, 69.12, 74.25, 75.04, 76.33, 76.18)
    assert alike.row("OFD").values == (70.98, None, 73.23, 74.95, 75.24, 74.33, 73.95)
    assert alike.row("CRCD").values == (73.21, 72.33, 74.98, 76.42, 76.67, 75.95, 74.97)
    assert reported.table("imagenet-resnet18").row("TopKD").values == (73.60, 90.50)
    assert reported.table("imagenet-mobilenetv1").row("DKD").values == (72.05, 91.05)
    errors = reported.table("ripsnet-error")
    assert errors.row("teacher").values == (0.00229, 0.00218, 0.00218, 0.00248, 0.00248, 0.00164)
    assert errors.row("KD").values == (0.03408, 0.00734, 0.01961, 0.05114, 0.07016, 0.05419)
    assert errors.row("TopKD").values == (0.02103, 0.00740, 0.01679, 0.04084, 0.00434, 0.05001)


def test_columns_are_the_pairs_that_can_be_trained_in_their_order(reported):
    tables = [reported.table(key) for key in ("cifar100-alike", "cifar100-unlike")]
    assert [column.pair for table in tables for column in table.columns] == list(benchmark_pairs())
    names = {name for table in reported.tables for c in table.columns for name in (c.teacher, c.student)}
    assert names <= set(MODELS)
    recipes = {row.recipe for table in reported.tables for row in table.rows} - {None}
    assert recipes <= set(recipe_names())


def test_marks_follow_from_the_numbers(reported):
    """Recomputed here; also the four that are printed wrongly, and an error, where lower is better."""
    seen = set()
    for table in reported.tables:
        for row in table.rows:
            for k, value in enumerate(row.values):
                base = None if table.baseline is None else table.row(table.baseline).values[k]
                if row.cite is None or row.name == table.baseline or None in (value, base):
                    expected = ""
                else:
                    gain = (value - base) * (1 if table.better == "higher" else -1)
                    expected = "▲" if gain > 0 else "▼"
                assert table.mark(row.name, k) == expected, (table.key, row.name, k)
                seen.add(expected)
    assert seen == {"", "▲", "▼"}
    for note in reported.corrections:
        if match := re.fullmatch(r"([\d.]+) ([▲▼])", note.ours):
            (key,), (name,) = note.tables, note.rows
            teacher, student = re.search(r"\((\w+) → (\w+)\)", note.printed).groups()
            table = reported.table(key)
            column = [c.pair for c in table.columns].index(f"{teacher}-{student}")
            assert (table.row(name).values[column], table.mark(name, column)) == (float(match[1]), match[2])
            assert note.printed.startswith(match[1] + (" ▼" if match[2] == "▲" else " ▲"))
            assert f"{table.row('KD').values[column]:.2f}" in note.reason


def test_four_marks_and_the_student_of_table_4_are_corrected(reported):
    marks = [n for n in reported.corrections if re.fullmatch(r"[\d.]+ [▲▼]", n.ours)]
    assert [note.rows for note in marks] == [("FitNet",), ("CC",), ("SP",), ("PKT",)]
    first, second = (reported.table(f"imagenet-mobilenetv{k}") for k in (1, 2))
    assert {column.student for column in first.columns} == {"mobilenetv1"}
    assert {column.student for column in second.columns} == {"torchvision/mobilenet_v2"}
    assert [row.name for row in second.rows if row.cite] == ["TopKD"]
    assert "TopKD" not in [row.name for row in first.rows]


def test_a_claim_of_the_notes_about_errors_holds(reported):
    """“Smaller in five columns of six”, and “1.8 to 30 times”."""
    table = reported.table("ripsnet-error")
    marks = [table.mark("TopKD", k) for k in range(6)]
    assert marks.count("▲") == 5
    pairs = zip(table.row("TopKD").values, table.row("teacher").values, strict=True)
    ratios = [student / teacher for student, teacher in pairs]
    assert (round(min(ratios), 1), round(max(ratios))) == (1.8, 30)


def test_every_key_is_in_the_bibliography(reported):
    known = set(parse_file(str(REPORTED.parents[1] / "book" / "references.bib")).entries)
    rows = {row.cite for table in reported.tables for row in table.rows}
    sources = {source.cite for source in reported.sources.values()}
    assert (rows | sources) - {None} <= known


def test_a_table_begins_with_networks_and_the_baseline(reported):
    lines = markdown_table(reported.table("imagenet-resnet18")).splitlines()
    assert lines[:2] == ["| | top-1 | top-5 |", "| --- | --- | --- |"]
    assert [line.split()[1] for line in lines[2:6]] == ["teacher", "student", "KD", "AT"]
    assert "| 70.87\N{NO-BREAK SPACE}▲ | – |" in next(line for line in lines if "SemCKD" in line)


def test_rows_bear_the_numbers_of_their_notes(reported):
    notes = reported.notes("cifar100-unlike")
    table = markdown_table(reported.table("cifar100-unlike"), notes=notes)
    line = next(line for line in table.splitlines() if line.startswith("| PKT"))
    (number,) = re.search(r"\{sup\}`(.*?)`", line).groups()
    assert str(notes[int(number) - 1]).startswith("Printed: 74.10 ▼")


def test_own_numbers_have_a_table_of_their_own(reported):
    """What was not run says so, and no reported number is in sight."""
    table = reported.table("cifar100-alike")
    shown = markdown_table(table, own={("KD", 0): [70.0, 71.0], ("teacher", 6): [74.5]})
    lines = {line.split()[1]: line.split(" | ") for line in shown.splitlines()}
    assert lines["KD"][2:4] == ["70.50 ± 0.71 (2)", "not run"]
    assert lines["teacher"][-1] == "74.50 (1) |"
    assert shown.count("not run") == 15 * 7 - 2
    assert "teacher of TopKD" not in shown
    printed = {f"{value:.2f}" for row in table.rows for value in row.values if value is not None}
    assert not printed & set(re.findall(r"\d\d\.\d\d", shown)) - {"70.50"}
    with pytest.raises(ValueError, match="no recipe for any row of ripsnet-error"):
        markdown_table(reported.table("ripsnet-error"), own={})


def test_own_runs_are_read_from_their_records(reported, tmp_path):
    table = reported.table("cifar100-alike")
    assert read_own_runs(table, tmp_path) == {}
    for name in ("kd/resnet56-resnet20/seed0", "kd/resnet56-resnet20/seed1", "none/resnet20/seed0"):
        path = tmp_path / "cifar100" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"last": {"top1": 0.5 + 0.25 * name.endswith("1")}}))
    runs = read_own_runs(table, tmp_path)
    assert runs == {("KD", 0): [50.0, 75.0], ("student", 0): [50.0], ("student", 1): [50.0]}
    assert read_own_runs(reported.table("ripsnet-error"), tmp_path) == {}


def test_unknown_names_are_answered_with_the_nearest(reported):
    with pytest.raises(UnknownName, match=r"no reported table 'cifar100-alice'\. Did you mean 'cifar100-ali"):
        reported.table("cifar100-alice")
    with pytest.raises(UnknownName, match=r"no row of cifar100-alike 'CRCDD'\. Did you mean 'CRCD'"):
        reported.table("cifar100-alike").row("CRCDD")


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"come with the repository.*its results/reported\.json"):
        load_reported(tmp_path / "nowhere.json")


def spoil_row(content, **fields):
    content["tables"][0]["rows"][0].update(fields)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: spoil_row(c, values=[1.0]), "cifar100-alike, teacher: 1 values for 7 columns"),
        (lambda c: spoil_row(c, source="hearsay"), "teacher: there is no source 'hearsay'"),
        (lambda c: spoil_row(c, name="KD"), "cifar100-alike has 'KD' twice"),
        (lambda c: spoil_row(c, colour="red"), "not the fields of .*colour"),
        (lambda c: c["tables"][0].update(baseline="KDD"), "cifar100-alike has no row 'KDD', its baseline"),
        (lambda c: c["cautions"][0].update(tables=["t"]), "a note is about 't', which is no table"),
        (lambda c: c["cautions"][0].update(rows=["who"]), "a note is about who, no row of cifar100-alike"),
        (lambda c: c.pop("sources"), "not the fields of .*sources"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, spoil, message):
    content = json.loads(REPORTED.read_text(encoding="utf-8"))
    spoil(content)
    path = tmp_path / "reported.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_reported(path)
