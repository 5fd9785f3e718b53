"""What a loss sees when several processes, or several batches, make a step."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.ddp.coupled_worker import trained
from tests.training.toy import ToyLoader
from topokd_lib.outputs import Batch, ModelOutput
from topokd_lib.testing import objective_cases, toy_batch, toy_outputs, toy_pair
from topokd_lib.training import EngineSpec, make_fabric

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "book" / "experiments" / "clusters.md"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coupled")
    done = subprocess.run(
        [sys.executable, "-m", "tests.ddp.coupled_worker", str(folder)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def fabric():
    return make_fabric(EngineSpec(accelerator="cpu"))


def largest_difference(one, other) -> float:
    """Over the weights of student and objective."""
    return max(
        float((one[part][key] - value).abs().max())
        for part in ("student", "objective")
        for key, value in other[part].items()
    )


@pytest.mark.ddp
def test_gathered_halves_train_like_the_whole_batch(ranks, fabric):
    whole = trained(fabric, ToyLoader(batch_size=8), coupled=True)
    for rank in ranks:
        assert largest_difference(rank["gathered"], whole) <= 1e-5
        assert rank["gathered"]["losses"] == pytest.approx(whole["losses"], abs=1e-5)
        assert rank["gathered"]["top1"] == pytest.approx(whole["top1"], abs=1e-6)


@pytest.mark.ddp
def test_without_gathering_each_process_compares_its_own_images(ranks, fabric):
    whole = trained(fabric, ToyLoader(batch_size=8), coupled=True)
    assert largest_difference(ranks[0]["apart"], whole) > 1e-3
    assert largest_difference(ranks[0]["apart"], ranks[1]["apart"]) == 0


@pytest.mark.ddp
def test_accumulated_quarters_train_like_the_whole_batch(ranks, fabric):
    whole = trained(fabric, ToyLoader(batch_size=8), coupled=False)
    for rank in ranks:
        assert largest_difference(rank["accumulated"], whole) <= 1e-5


@pytest.mark.ddp
def test_gathering_and_accumulating_go_together(ranks, fabric):
    alone = trained(fabric, ToyLoader(batch_size=8), coupled=True, accumulate=2)
    for rank in ranks:
        assert largest_difference(rank["gathered and accumulated"], alone) <= 1e-5


def test_two_batches_accumulated_train_like_one_of_twice_the_size(fabric):
    one = trained(fabric, ToyLoader(batch_size=4), coupled=False, accumulate=2)
    other = trained(fabric, ToyLoader(batch_size=8), coupled=False)
    assert largest_difference(one, other) <= 1e-5
    assert one["losses"] == pytest.approx(other["losses"], abs=1e-5)


def test_batches_that_do_not_fill_a_step_are_left_out(fabric):
    found = trained(fabric, ToyLoader(batch_size=4), coupled=False, accumulate=3)
    assert len(found["losses"]) == 3
    with pytest.raises(ValueError, match=r"a step averages accumulate=9 batches, and an epoch has 8; choose"):
        trained(fabric, ToyLoader(batch_size=4), coupled=False, accumulate=9)


# ------------------------------------------------------------- which objectives couple the images of a batch


def couples(name: str) -> bool:
    """Whether the loss of a batch differs from the mean of the losses of its halves."""
    pair = toy_pair()
    torch.manual_seed(0)
    loss = objective_cases()[name](pair).eval()  # batch statistics of connectors are another matter
    batch = toy_batch()
    student, teacher = toy_outputs(
        pair, batch, student_features=loss.student_features, teacher_features=loss.teacher_features
    )

    def of(part: slice) -> float:
        torch.manual_seed(3)
        state = {key: value.clone() for key, value in loss.state_dict().items()}
        cut = [
            ModelOutput(out.logits[part], {key: value[part] for key, value in out.features.items()})
            for out in (student, teacher)
        ]
        rows = Batch(batch.images[part], batch.labels[part], batch.indices[part])
        value = float(loss(*cut, rows).detach())
        loss.load_state_dict(state)
        return value

    half = len(batch) // 2
    whole, parts = of(slice(None)), (of(slice(0, half)) + of(slice(half, None))) / 2
    return abs(whole - parts) > 1e-4 * max(abs(whole), 1e-6)


def table() -> dict[str, bool]:
    """What the page says, by objective."""
    rows = re.findall(r"(?m)^\| `(\w+)` \| (alone|together)", PAGE.read_text(encoding="utf-8"))
    return {name: kind == "together" for name, kind in rows}


@pytest.mark.parametrize("name", sorted(table()))
def test_the_page_says_truly_which_objectives_couple_the_images_of_a_batch(name):
    assert couples(name) == table()[name]
