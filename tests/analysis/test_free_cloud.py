"""The experiment with free points, on a small version: the ordering that the book's argument rests on."""

import json

import pytest

from topokd_lib.analysis import free_cloud_table, run_free_clouds
from topokd_lib.analysis.free_cloud import LOSSES, STARTS, make_clouds
from topokd_lib.cli import main
from topokd_lib.errors import UnknownName

NAMES = ("RKD distance", "signature", "sorted deaths, raw", "H0 image, raw", "RTD-Lite")


@pytest.fixture(scope="module")
def rows():
    found = run_free_clouds(NAMES, seeds=2, steps=120, points=32)
    return {(row.loss, row.start): row for row in found}


def test_matching_bars_alone_teaches_no_neighbour(rows):
    for name in ("sorted deaths, raw", "H0 image, raw"):
        assert rows[name, "random"].neighbours < rows["start", "random"].neighbours + 0.12
        assert abs(rows[name, "random"].distances) < 0.25
    assert rows["sorted deaths, raw", "random"].raw_deaths < 0.1 * rows["start", "random"].raw_deaths


def test_matching_bars_alone_destroys_neighbours_that_were_right(rows):
    for name in ("sorted deaths, raw", "H0 image, raw"):
        assert rows[name, "projected"].neighbours < rows["start", "projected"].neighbours - 0.1


def test_the_signature_finds_the_labelled_tree_and_nothing_else_does(rows):
    for start in STARTS:
        trees = {name: rows[name, start].tree for name in NAMES}
        assert trees["signature"] > 0.95
        assert max(trees, key=trees.get) in ("signature", "RKD distance")
        assert rows["signature", start].deaths < 0.01
    assert rows["signature", "random"].neighbours > rows["RTD-Lite", "random"].neighbours + 0.3


def test_all_distances_determine_everything(rows):
    for start in STARTS:
        assert rows["RKD distance", start].distances > 0.95
        assert rows["RKD distance", start].neighbours > rows["signature", start].neighbours - 0.05


def test_rtd_lite_stalls_from_a_bad_start(rows):
    assert rows["RTD-Lite", "random"].tree < 0.3
    assert rows["RTD-Lite", "random"].neighbours < 0.4


def test_the_table_names_everything(rows):
    text = "\n".join(free_cloud_table(list(rows.values())))
    assert all(text.count(name) == 2 for name in NAMES)
    assert "Means over 2 clouds" in text


def test_every_loss_descends():
    """Also the slow one, and those that the other tests leave out."""
    from topokd_lib.analysis import free_cloud

    teacher, student = make_clouds("projected", 0, points=16)
    for name, loss in LOSSES.items():
        before = loss(student, teacher).item()
        after = loss(free_cloud(loss, teacher, student, steps=25), teacher).item()
        assert after < 0.95 * before, name


def test_progress_and_errors():
    told = []
    run_free_clouds(["signature"], seeds=1, steps=1, points=12, progress=lambda *t: told.append(t))
    assert told == [("free clouds", 1, 2), ("free clouds", 2, 2)]
    with pytest.raises(UnknownName, match=r"there is no loss 'signatur'. Did you mean 'signature'"):
        run_free_clouds(["signatur"])
    with pytest.raises(ValueError, match="got seeds=0, steps=300 and points=64"):
        run_free_clouds(["signature"], seeds=0)


def test_the_command_writes_what_it_prints(tmp_path, capsys):
    path = tmp_path / "free_clouds.json"
    assert main(["free-clouds", "--seeds", "1", "--steps", "2", "--out", str(path)]) == 0
    assert "signature" in capsys.readouterr().out
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["versions"]["torch"]
    assert {row["start"] for row in content["rows"]} == set(STARTS)
