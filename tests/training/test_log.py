import io
import json
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topokd_lib.outputs import Batch
from topokd_lib.training import EngineSpec, EpochRecord, Evaluation, History, make_fabric
from topokd_lib.training.log import MAIN, Meter, Progress


def record(epoch: int, top1: float | None = 0.5, stage: str = MAIN) -> EpochRecord:
    test = None if top1 is None else Evaluation(top1, 1.0, 0.7, 10)
    return EpochRecord(epoch, stage, 0.1, 1.5, {"labels": 1.25}, 0.4, test, 2.0, 100.0)


@given(st.floats(0, 1), st.floats(allow_nan=False, allow_infinity=False))
def test_a_history_survives_json_to_the_last_bit(top1, loss):
    history = History([record(1, None, "hint"), record(1, top1)])
    object.__setattr__(history.records[1], "loss", loss)
    assert History.from_list(json.loads(json.dumps(history.to_list()))) == history


def test_best_is_the_first_of_equals_and_last_is_last():
    history = History(
        [record(1, None, "hint"), record(1, 0.3), record(2, 0.9), record(3, 0.9), record(4, 0.6)]
    )
    assert (history.best.epoch, history.last.epoch) == (2, 4)
    assert [r.epoch for r in history.epochs] == [1, 2, 3, 4]
    assert history.seconds == 10.0


def test_initial_stages_have_no_test_accuracy_and_are_not_the_training():
    history = History([record(1, None, "hint")])
    assert math.isnan(history.records[0].test_top1)
    for name in ("best", "last"):
        with pytest.raises(ValueError, match="nothing was trained yet"):
            getattr(history, name)


def test_a_meter_averages_over_images_not_over_steps():
    meter = Meter()
    for size, loss, term in ((4, 1.0, 2.0), (1, 6.0, 12.0)):
        labels = torch.zeros(size, dtype=torch.long)
        logits = torch.zeros(size, 2)
        logits[0, 1] = 1.0  # one miss per step
        batch = Batch(torch.zeros(size, 3, 2, 2), labels, labels)
        meter.update(batch, torch.tensor(loss), logits, {"labels": torch.tensor(term)})
    means = meter.means(make_fabric(EngineSpec(accelerator="cpu")))
    assert (means.loss, means.terms, means.top1, means.images) == (2.0, {"labels": 4.0}, 0.6, 5)
    assert means.not_finite() == []


@pytest.mark.parametrize(
    ("loss", "terms", "names"),
    [
        (math.nan, {"a": 1.0, "b": math.nan}, ["b"]),
        (math.inf, {"a": math.inf, "b": math.nan}, ["a", "b"]),
        (math.nan, {"a": 1.0}, ["the total"]),
        (math.nan, {}, ["the total"]),
    ],
)
def test_a_meter_names_what_is_not_a_number(loss, terms, names):
    meter = Meter()
    one = torch.zeros(1, dtype=torch.long)
    tensors = {name: torch.tensor(value) for name, value in terms.items()}
    batch = Batch(torch.zeros(1, 3, 2, 2), one, one)
    meter.update(batch, torch.tensor(1.0), torch.zeros(1, 2), dict.fromkeys(terms, torch.tensor(1.0)))
    meter.update(batch, torch.tensor(loss), torch.zeros(1, 2), tensors)
    assert meter.means(make_fabric(EngineSpec(accelerator="cpu"))).not_finite() == names


@pytest.mark.parametrize("stops", [(), (1,), (2, 5), tuple(range(1, 8))])
def test_sums_do_not_depend_on_when_they_are_read(stops):
    """To the last bit, although 0.1 is no binary fraction; a run that stopped in between logs the same."""
    torch.manual_seed(0)
    meter, fabric = Meter(), make_fabric(EngineSpec(accelerator="cpu"))
    labels = torch.tensor([0, 1, 1])
    batch = Batch(torch.zeros(3, 3, 2, 2), labels, labels)
    sums = [0.0, 0.0]
    for step in range(8):
        if step in stops:
            state = meter.state()
            meter = Meter()
            meter.restore(state)
        loss, logits = torch.rand(()) * 0.1, torch.rand(3, 2)
        meter.update(batch, loss, logits, {"labels": loss / 3})
        for place, value in enumerate((loss, loss / 3)):
            sums[place] += 3 * value.item()
    means = meter.means(fabric)
    assert (means.loss, means.terms["labels"], means.images) == (sums[0] / 24, sums[1] / 24, 24)


def test_a_step_reads_nothing_from_the_device():
    """Numbers without memory behind them cannot be read; the meter takes them until somebody asks."""
    meter, one = Meter(), torch.zeros(4, dtype=torch.long, device="meta")
    batch = Batch(torch.zeros(4, 3, 2, 2, device="meta"), one, one)
    meter.update(batch, torch.zeros((), device="meta"), torch.zeros(4, 2, device="meta"), {})
    with pytest.raises((NotImplementedError, RuntimeError)):
        meter.state()


def test_an_empty_meter_has_no_mean():
    with pytest.raises(ValueError, match="the loader gave no batch"):
        Meter().means(make_fabric(EngineSpec(accelerator="cpu")))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(monkeypatch, stream: io.StringIO, *, enabled: bool) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(total=200, done=100, enabled=enabled) as line:
        line.begin("hint", 1, 2)
        line.show(3.0)
        line.begin(MAIN, 2, 3)
        line.advance(50)
        line.show(0.12345, 0.9)
        line.show(0.11111)
    return stream.getvalue()


def test_one_line_tells_epoch_loss_accuracy_speed_and_time_left(monkeypatch):
    text = drawn(monkeypatch, Terminal(), enabled=True)
    assert text.count("\n") == 1
    last = text.split("\r")[-1]
    for part in ("epoch 2/3", "75%", "loss 0.1111", "test 90.00%", "images/s", "left"):
        assert part in last
    assert "hint epoch 1/2" in text


@pytest.mark.parametrize(("stream", "enabled"), [(Terminal(), False), (io.StringIO(), True)])
def test_no_line_when_it_is_not_wanted_or_there_is_no_terminal(monkeypatch, stream, enabled):
    assert drawn(monkeypatch, stream, enabled=enabled) == ""
