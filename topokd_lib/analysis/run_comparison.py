"""Two runs side by side: what was asked of each, how they went, and on which test images they differ."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from topokd_lib.errors import RunDirectoryError
from topokd_lib.recipes import Recipe, load_recipe
from topokd_lib.training import load_student

__all__ = ["RunComparison", "compare_runs"]


@dataclass(frozen=True)
class RunComparison:
    """What :func:`compare_runs` finds.

    Args:
        recipes: Lines of a unified difference; empty if the recipes are equal.
        curves: Epoch and test accuracies in percent of both, ``None`` where one has no such epoch.
        both: Test images that both classify correctly.
        first: That only the first does.
        second: That only the second does.
        neither: That none does.
        same: To which both give the same class, right or wrong.
        p_value: Of the exact test of McNemar: how likely so uneven a split of the images on which exactly one
            is right would be, were both equally good on images of this kind.
    """

    recipes: tuple[str, ...]
    curves: tuple[tuple[int, float | None, float | None], ...]
    both: int
    first: int
    second: int
    neither: int
    same: int
    p_value: float

    @property
    def images(self) -> int:
        """Number of test images."""
        return self.both + self.first + self.second + self.neither


def compare_runs(first: Path, second: Path, *, points: int = 10) -> RunComparison:
    """Compare two finished runs on the test images of the first.

    Args:
        first: A run directory.
        second: Another.
        points: Rows of the curves, evenly spread over the epochs, the last included.

    Raises:
        RunDirectoryError: If one is not a finished run, or they were trained on different data.
        CheckpointError: If weights are damaged.
    """
    from scipy.stats import binomtest

    records = [_record(path) for path in (first, second)]
    if records[0]["data"] != records[1]["data"]:
        raise RunDirectoryError(
            f"{first} was trained on {records[0]['data']}, {second} on {records[1]['data']}; test images can "
            f"only be compared if they are the same"
        )
    one, other = ((path / "recipe.yaml").read_text(encoding="utf-8").splitlines() for path in (first, second))
    difference = difflib.unified_diff(one, other, fromfile=str(first), tofile=str(second), lineterm="", n=0)
    said, right = zip(*(_answers(first, path) for path in (first, second)), strict=True)
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    return RunComparison(
        recipes=tuple(difference),
        curves=_curves([_accuracies(record) for record in records], points),
        both=int((right[0] & right[1]).sum()),
        first=only[0],
        second=only[1],
        neither=int((~right[0] & ~right[1]).sum()),
        same=int((said[0] == said[1]).sum()),
        p_value=float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0,
    )


def _record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((path / "record.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunDirectoryError(
            f"{path} is no finished run: there is no record.json in it; give a directory that "
            f"`topokd train` printed"
        ) from None
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"cannot read {path / 'record.json'} ({error})") from error
    return record


@torch.no_grad()
def _answers(data_of: Path, run: Path) -> tuple[Tensor, Bool[Tensor, " images"]]:
    """The class that a run's network gives to every test image, and whether it is the true one."""
    recipe, _ = load_recipe(str(data_of / "recipe.yaml"), kind=Recipe)
    data = recipe.data.load()
    network, _ = load_student(run / "student.safetensors")
    said, right = [], []
    for batch in recipe.data.loader(data, seed=0).test_batches():
        classes = network(batch.images).argmax(dim=1)
        said.append(classes)
        right.append(classes == batch.labels)
    return torch.cat(said), torch.cat(right)


def _accuracies(record: dict[str, Any]) -> dict[int, float]:
    return {line["epoch"]: 100 * line["test"]["top1"] for line in record["curve"] if line["test"]}


def _curves(
    accuracies: list[dict[int, float]], points: int
) -> tuple[tuple[int, float | None, float | None], ...]:
    epochs = sorted(set(accuracies[0]) | set(accuracies[1]))
    step = max(-(-len(epochs) // points), 1)
    chosen = sorted({*epochs[step - 1 :: step], *(max(found) for found in accuracies)})
    return tuple((epoch, accuracies[0].get(epoch), accuracies[1].get(epoch)) for epoch in chosen)
