import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from topokd_lib.training import Schedule


def test_a_milestone_changes_the_epoch_that_it_counts_from_zero():
    schedule = Schedule(epochs=10, lr=1.0, milestones=(4, 7), gamma=0.1)
    rates = [schedule.learning_rate(epoch) for epoch in range(10)]
    assert rates == pytest.approx([1.0] * 4 + [0.1] * 3 + [0.01] * 3)


def test_cosine_starts_full_and_is_half_in_the_middle():
    schedule = Schedule(epochs=10, lr=2.0, kind="cosine")
    assert schedule.learning_rate(0) == 2.0
    assert schedule.learning_rate(5) == pytest.approx(1.0)
    assert schedule.learning_rate(9) == pytest.approx(1 + math.cos(0.9 * math.pi))


@pytest.mark.parametrize("kind", ["step", "cosine"])
def test_warm_up_grows_linearly_to_the_full_rate(kind):
    schedule = Schedule(epochs=10, lr=1.0, milestones=(8,), kind=kind, warmup_epochs=4)
    rates = [schedule.learning_rate(epoch) for epoch in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@given(st.integers(2, 50), st.data())
def test_after_the_warm_up_the_rate_never_grows(epochs, data):
    warmup = data.draw(st.integers(0, epochs - 1))
    kind = data.draw(st.sampled_from(["step", "cosine"]))
    milestones = tuple(data.draw(st.lists(st.integers(1, epochs - 1), unique=True)))
    schedule = Schedule(epochs=epochs, milestones=milestones, kind=kind, warmup_epochs=warmup)
    rates = [schedule.learning_rate(epoch) for epoch in range(epochs)]
    assert all(rate > 0 for rate in rates)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


def test_build_hands_every_setting_to_the_optimiser():
    schedule = Schedule(epochs=3, lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.01, milestones=(2,))
    optimizer = schedule.build(nn.Linear(2, 2).parameters())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.3, 0.8, 0.01)
    assert group["nesterov"] is True
    assert schedule.set_epoch(optimizer, 2) == pytest.approx(0.03)
    assert group["lr"] == pytest.approx(0.03)


def test_adam_follows_the_same_schedule():
    schedule = Schedule(epochs=3, lr=0.3, optimizer="adam", weight_decay=0.01, milestones=(2,))
    optimizer = schedule.build(nn.Linear(2, 2).parameters())
    assert isinstance(optimizer, torch.optim.Adam)
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.3, 0.01)
    assert schedule.set_epoch(optimizer, 2) == pytest.approx(0.03)


def test_an_optimizer_that_is_not_known(unchecked):
    with pytest.raises(ValueError, match="the optimizer is 'sgd' or 'adam', got 'lamb'"):
        Schedule(optimizer="lamb")


def test_a_learning_rate_held_in_a_tensor_is_changed_in_place():
    schedule = Schedule(epochs=3, milestones=(1,))
    optimizer = schedule.build(nn.Linear(2, 2).parameters())
    rate = optimizer.param_groups[0]["lr"] = torch.tensor(0.05)
    schedule.set_epoch(optimizer, 1)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "at least one epoch"),
        ({"lr": 0.0}, "positive learning rate"),
        ({"momentum": 1.0}, "momentum must lie in"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"nesterov": True, "momentum": 0.0}, "drop nesterov"),
        ({"warmup_epochs": 240}, "warmup_epochs=240 of 240"),
        ({"epochs": 20}, r"milestones \[150, 180, 210\] are never reached in 20 epochs"),
    ],
)
def test_impossible_schedules_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**settings)


def test_an_unknown_kind_is_refused():
    schedule = Schedule()
    object.__setattr__(schedule, "kind", "linear")  # past the type check of the tests
    with pytest.raises(ValueError, match="is 'step' or 'cosine', got 'linear'"):
        schedule.__post_init__()
