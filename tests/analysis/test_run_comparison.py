"""Two runs of the command, compared on the images that they answer differently."""

import json
from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from tests.recipes.made import write_recipe
from topokd_lib.analysis import compare_runs
from topokd_lib.cli import main
from topokd_lib.data import load_digits, normalise
from topokd_lib.errors import RunDirectoryError
from topokd_lib.training import load_student


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("compared")
    recipe = write_recipe(folder)
    for name, words in (("a", []), ("b", ["--seed", "1", "--schedule.epochs", "1"])):
        assert main(["train", "--config", recipe, "--out", str(folder / name), *words]) == 0
    return [folder / "a", folder / "b"]


def test_counts_are_those_of_the_networks_answers(runs):
    found = compare_runs(*runs)
    data = load_digits(size=8)
    images = normalise(data.test_images, data.normalisation)
    with torch.no_grad():
        said = [load_student(run / "student.safetensors")[0](images).argmax(dim=1) for run in runs]
    right = [answers == data.test_labels for answers in said]
    assert found.first == int((right[0] & ~right[1]).sum()) > 0
    assert found.second == int((~right[0] & right[1]).sum())
    assert (found.images, found.same) == (360, int((said[0] == said[1]).sum()))
    for run, of_images in zip(runs, (found.both + found.first, found.both + found.second), strict=True):
        assert json.loads((run / "record.json").read_text())["last"]["top1"] == pytest.approx(of_images / 360)
    fewer, uneven = min(found.first, found.second), found.first + found.second
    assert found.p_value == pytest.approx(min(2 * binom.cdf(fewer, uneven, 0.5), 1.0))


def test_differences_of_recipes_and_curves_of_unequal_length(runs, capsys):
    found = compare_runs(*runs)
    changed = [line for line in found.recipes if line[0] in "+-" and line[:3] not in ("+++", "---")]
    assert changed == ["-  epochs: 2", "+  epochs: 1", "-seed: 0", "+seed: 1"]
    assert [epoch for epoch, _, _ in found.curves] == [1, 2]
    assert found.curves[1][2] is None
    assert main(["compare", *map(str, runs)]) == 0
    said = capsys.readouterr().out
    assert "\n-seed: 0\n+seed: 1\n" in said
    assert f"only the first {found.first}, only the second {found.second}" in said


def test_a_run_agrees_with_itself(runs):
    found = compare_runs(runs[0], runs[0])
    assert (found.recipes, found.first, found.second, found.p_value) == ((), 0, 0, 1.0)
    assert found.same == found.images


def test_plots_are_drawn_from_runs(runs, tmp_path, capsys):
    assert main(["plot", "curves", *map(str, runs), "--out", str(tmp_path / "curves.png")]) == 0
    assert main(["plot", "cost", str(runs[0].parent), "--out", str(tmp_path / "cost.svg")]) == 0
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("curves.png", "cost.svg"))
    capsys.readouterr()
    assert main(["plot", "cost", str(runs[0].parent), "--out", str(tmp_path / "cost.docx")]) == 2
    assert "choose another place or format" in capsys.readouterr().err
    assert main(["plot", "curves", str(tmp_path)]) == 2
    assert "cannot read the log of" in capsys.readouterr().err


def test_mistakes_are_told(runs, tmp_path):
    with pytest.raises(RunDirectoryError, match=r"is no finished run: there is no record\.json in it"):
        compare_runs(runs[0], tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    record = json.loads((runs[0] / "record.json").read_text())
    (other / "record.json").write_text(json.dumps({**record, "data": {"name": "cifar10"}}))
    with pytest.raises(RunDirectoryError, match="test images can only be compared if they are the same"):
        compare_runs(runs[0], other)
