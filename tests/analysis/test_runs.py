"""Numbers of a table, each computed a second time by hand, and paths that say what a run is."""

import json
import math
from pathlib import Path

import pytest

from topokd_lib.analysis import ResultsTable, Spread, paired_difference, read_run, read_runs
from topokd_lib.cli import main
from topokd_lib.errors import RunDirectoryError, UnknownName

ROOT = Path(__file__).resolve().parents[2]


def write_record(
    path: Path, top1: float, *, seed: int, student="resnet8", teacher: str | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "recipe": {}, "seed": seed, "student": {"name": student}, "commit": "c0ffee",
        "teacher": teacher and {"name": teacher, "fingerprint": "0"}, "wall_time_seconds": 2.0,
        "last": {"top1": top1}, "best": {"top1": top1 + 0.01},
    }  # fmt: skip
    path.write_text(json.dumps(record))


def test_mean_and_standard_deviation_of_a_sample():
    spread = Spread((70.0, 72.0, 77.0))
    assert spread.mean == 73.0
    assert spread.sd == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert (Spread((70.0,)).sd, str(Spread((70.0,)))) == (None, "70.00")


def test_paired_difference_by_hand():
    """t(0.975, 2 degrees of freedom) = 4.302653 is in every table."""
    found = paired_difference({0: 71.0, 1: 73.0, 2: 72.0, 9: 99.0}, {0: 70.0, 1: 71.0, 2: 69.0, 8: 1.0})
    half = 4.302653 * 1.0 / math.sqrt(3)  # the differences are 1, 2 and 3
    assert (found.mean, found.seeds) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-6)


def test_pairing_by_seed_is_what_narrows_the_interval():
    """Seeds that differ by far more than methods do."""
    values, baseline = {0: 61.0, 1: 71.5, 2: 81.0}, {0: 60.0, 1: 70.0, 2: 80.0}
    found = paired_difference(values, baseline)
    assert found.low > 0
    shuffled = paired_difference(values, {0: 80.0, 1: 60.0, 2: 70.0})
    assert shuffled.low < 0 < shuffled.high


def test_difference_of_one_seed_has_no_interval_and_of_none_is_none():
    assert str(paired_difference({0: 71.0}, {0: 70.0})) == "+1.00"
    assert paired_difference({0: 71.0}, {1: 70.0}) is None
    with pytest.raises(ValueError, match=r"a confidence lies between 0 and 1, got 95\.0"):
        paired_difference({0: 1.0}, {0: 1.0}, confidence=95.0)


@pytest.mark.parametrize(
    ("place", "student", "expected"),
    [
        ("cifar100/kd/vgg13-vgg8/seed1/record.json", "vgg8", ("cifar100/kd", "vgg13-vgg8")),
        ("cifar100/none/vgg8/seed1.json", "vgg8", ("cifar100/none", "vgg8")),
        ("digits/kd-seed1.json", "resnet8", ("digits/kd", "resnet8")),
        ("digits/teacher.json", "resnet20", ("digits/teacher", "resnet20")),
        (
            "none/torchvision/resnet18/seed1/record.json",
            "torchvision/resnet18",
            ("none", "torchvision/resnet18"),
        ),
    ],
)
def test_path_says_method_and_column(tmp_path, place, student, expected):
    write_record(tmp_path / place, 0.5, seed=1, student=student)
    run = read_run(tmp_path / place, root=tmp_path)
    assert (run.method, run.column) == expected
    assert (run.seed, run.last, run.best) == (1, 50.0, 51.0)


def test_folder_of_runs_becomes_a_table(tmp_path, capsys):
    for seed in (0, 1):
        write_record(tmp_path / f"c/none/vgg8/seed{seed}.json", 0.70, seed=seed, student="vgg8")
        write_record(
            tmp_path / f"c/kd/vgg13-vgg8/seed{seed}.json", 0.72 + seed / 100, seed=seed, student="vgg8",
            teacher="vgg13",
        )  # fmt: skip
    write_record(tmp_path / "c/teacher/vgg13/seed0.json", 0.75, seed=0, student="vgg13")
    (tmp_path / "c/notes.json").write_text("[1]")
    assert main(["table", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "### vgg13-vgg8",
        "",
        "| method | last epoch % | best epoch % | seeds | last, minus c/none [95 %] |",
        "| --- | --- | --- | --- | --- |",
        "| c/none | 70.00 ± 0.00 | 71.00 ± 0.00 | 2 |  |",
        "| c/kd | 72.50 ± 0.71 | 73.50 ± 0.71 | 2 | +2.50 [-3.85, +8.85] |",
        "| c/teacher | 75.00 | 76.00 | 1 | +5.00 |",
    ]
    assert main(["table", str(tmp_path), "--baseline", "c/kd", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    (none,) = [cell for cell in cells if cell["method"] == "c/none"]
    assert none["last"]["difference"]["mean"] == pytest.approx(-2.5)
    assert (none["seeds"], none["commits"]) == ([0, 1], ["c0ffee"])


def test_recorded_digits_are_a_table_with_all_their_seeds():
    table = ResultsTable.of_runs(read_runs(ROOT / "results" / "digits"))
    assert table.baseline == "none"
    assert len(table.spread("kd", "resnet8").values) == 5
    assert table.difference("none", "resnet8") is None


def test_mistakes_are_told(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"there is no folder .*nowhere; name one that holds runs"):
        read_runs(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match="there is no finished run below"):
        read_runs(tmp_path)
    (tmp_path / "half.json").write_text('{"recipe": ')
    with pytest.raises(RunDirectoryError, match=r"cannot read .*half\.json .*; restore it, or move it away"):
        read_runs(tmp_path)
    (tmp_path / "half.json").unlink()
    write_record(tmp_path / "kd/resnet8/seed0.json", 0.5, seed=0)
    with pytest.raises(UnknownName, match=r"no method 'kdd'\. Did you mean 'kd'"):
        ResultsTable.of_runs(read_runs(tmp_path), baseline="kdd")
