"""The demonstration: one teacher, one RipsNet, four kinds of students; made once and never again."""

import json
import re
from pathlib import Path

import pytest
import yaml

from topokd_lib.demo import METHODS, Outcome, run_demo, table
from topokd_lib.errors import RecipeError
from topokd_lib.topology import RipsNetArtefact

SMALL = {"seeds": 2, "epochs": 1, "clouds": 40}


def outcome(method, seed, accuracy, **others):
    values = {"agreement": 0.5, "image_distance": 0.002, "death_distance": 0.1, **others}
    return Outcome(method, seed, accuracy, **values)


def test_row_of_the_table_by_hand():
    outcomes = [outcome(method, seed, 0.5) for method in METHODS for seed in range(2)]
    outcomes[2:4] = [
        outcome("kd", 0, 0.90, agreement=0.91, image_distance=0.001, death_distance=0.1),
        outcome("kd", 1, 0.94, agreement=0.93, image_distance=0.003, death_distance=0.1),
    ]
    lines = table(outcomes)
    # Means 92, 92, 2, 0.1; deviations of two values are their difference over the square root of 2.
    assert re.split(r" {2,}", lines[3].strip()) == [
        "KD",
        "92.00 ± 2.83",
        "92.00 ± 1.41",
        "2.0 ± 1.4",
        "0.100 ± 0.000",
    ]
    assert [line.split("  ")[0] for line in lines[2:6]] == list(METHODS.values())
    heads = ["test accuracy %", "agreement %", "image distance ×10³", "H0 distance, scaled"]
    assert re.split(r" {2,}", lines[0].strip()) == heads
    assert set(lines[1]) == {"─"}
    assert "over 2 seeds" in lines[6]
    assert len({line.index("±") for line in lines[2:6]}) == 1  # columns are aligned
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("seeds", [0, 1])
def test_fewer_than_two_seeds_are_refused_before_anything_is_written(seeds, tmp_path):
    with pytest.raises(RecipeError, match=f"at least 2, got seeds={seeds}"):
        run_demo(tmp_path / "demo", seeds=seeds)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    return directory, run_demo(directory, say=said.append, **SMALL), said


def contents(directory: Path, pattern: str = "**/*") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob(pattern) if path.is_file()}


@pytest.mark.slow
def test_demo_gives_a_row_for_every_run(finished):
    directory, outcomes, said = finished
    assert [(o.method, o.seed) for o in outcomes] == [(m, seed) for m in METHODS for seed in range(2)]
    for o in outcomes:
        record = json.loads((directory / o.method / f"seed{o.seed}" / "record.json").read_text())
        assert o.accuracy == record["last"]["top1"]
        assert 0 <= o.agreement <= 1
        assert o.image_distance > 0
        assert o.death_distance > 0
    assert "\n".join(table(outcomes)) in "\n".join(said)
    summary = json.loads((directory / "summary.json").read_text())
    assert [Outcome(**row) for row in summary] == outcomes
    assert "<svg" in (directory / "demo.svg").read_text()
    assert said[0].startswith("teacher resnet20: test accuracy ")
    assert re.match(r"RipsNet: R² -?\d+\.\d\d against a constant image", said[1])


@pytest.mark.slow
def test_methods_differ_in_their_terms_only(finished):
    directory, _, _ = finished
    recipes = [yaml.safe_load((directory / m / "seed1" / "recipe.yaml").read_text()) for m in METHODS]
    terms = [recipe.pop("terms") for recipe in recipes]
    teachers = [recipe.pop("teacher", {}).get("weights") for recipe in recipes]
    assert [list(names) for names in terms] == [["ce"], ["ce", "kd"], *[["ce", "kd", "topology"]] * 2]
    assert teachers == [None, *[str(directory / "teacher")] * 3]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert recipes[0]["seed"] == 1


@pytest.mark.slow
def test_resumed_demo_runs_nothing_again(finished, monkeypatch):
    directory, outcomes, said = finished
    before = contents(directory)

    def worked(*args, **kwargs):
        raise AssertionError("something was done again")

    monkeypatch.setattr("topokd_lib.recipes.run.fit", worked)
    monkeypatch.setattr("topokd_lib.recipes.run.prepare_ripsnet", worked)
    again: list[str] = []
    assert run_demo(directory, say=again.append, **SMALL) == outcomes
    assert again == said
    after = contents(directory)
    assert {p: b for p, b in after.items() if p.suffix != ".svg"} == {
        p: b for p, b in before.items() if p.suffix != ".svg"
    }


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "of another teacher"])
def test_artefact_that_cannot_be_used_is_made_again(damage, finished, monkeypatch):
    directory, _, _ = finished
    path = directory / "ripsnet.safetensors"
    original = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(original[:1000])
    else:
        artefact = RipsNetArtefact.load(path)
        artefact.teacher_fingerprint = "0" * 16
        artefact.save(path)
    run_demo(directory, say=lambda line: None, **SMALL)
    assert RipsNetArtefact.load(path).report == _report(original, directory)


def _report(content: bytes, directory: Path) -> dict[str, float]:
    copy = directory / "copy.safetensors"
    copy.write_bytes(content)
    try:
        return RipsNetArtefact.load(copy).report
    finally:
        copy.unlink()
