"""The pull of each term at the student: by hand, in the log, and without a trace in the training."""

import json

import pytest
import torch

from tests.training.toy import Labels, Soft, TinyNet, ToyLoader, memory_objective, tiny_teacher
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives.base import Objective, WeightedSum
from topokd_lib.training import (
    Diagnostics,
    EngineSpec,
    GradientProbe,
    History,
    Schedule,
    fit,
    make_fabric,
    term_gradients,
)

FABRIC = make_fabric(EngineSpec(accelerator="cpu"))
SCHEDULE = Schedule(epochs=2, lr=0.05, milestones=())


def train(diagnostics=None, objective=None):
    torch.manual_seed(5)
    student, objective = TinyNet(), objective or memory_objective()
    history = fit(
        FABRIC,
        student,
        tiny_teacher(),
        objective,
        ToyLoader(),
        SCHEDULE,
        progress=False,
        diagnostics=diagnostics,
    )
    return history, student


def test_gradients_by_hand():
    """d|x|²/dx = 2x and d(3 Σx)/dx = 3; what does not depend on x has none."""
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    losses = {"square": x.square().sum(), "sum": 3 * x.sum(), "nothing": torch.tensor(1.0)}
    found = term_gradients(losses, x)
    assert [found[name].tolist() for name in losses] == [[[6.0, 8.0]], [[3.0, 3.0]], [[0.0, 0.0]]]
    losses["square"].backward()  # the graph is still there


def test_a_probe_averages_norms_shares_and_cosines():
    probe = GradientProbe(1, ("a", "b", "none"), reference="a")
    for factor in (1.0, 3.0):
        x = torch.zeros(1, 2, requires_grad=True)
        assert probe.is_due()
        a, b = factor * x[0, 0], 2 * (x[0, 0] + x[0, 1])
        probe.measure({"a": a, "b": b, "none": torch.tensor(0.0)}, x)
    found = probe.read(FABRIC)
    assert found["gradient/a"] == pytest.approx(2.0)
    assert found["gradient/b"] == pytest.approx(8**0.5)
    assert found["share/b"] == pytest.approx(2**0.5)
    assert found["cosine/b"] == pytest.approx(0.5**0.5)
    assert (found["share/a"], found["cosine/a"], found["share/none"]) == (1, pytest.approx(1), 0)
    probe.begin_epoch()
    assert probe.read(FABRIC) == {}


@pytest.mark.parametrize(("every", "due"), [(1, [1, 1, 1, 1]), (2, [1, 0, 1, 0]), (3, [1, 0, 0, 1])])
def test_steps_that_are_measured(every, due):
    probe = GradientProbe(every, ("a",))
    assert [probe.is_due() for _ in due] == [bool(d) for d in due]


def test_the_log_tells_and_the_training_does_not_notice():
    plain, student = train()
    probed, other = train(Diagnostics(gradients_every=2, reference="soft"))
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), other.parameters(), strict=True))
    assert [r.loss for r in plain.epochs] == [r.loss for r in probed.epochs]
    assert plain.last.diagnostics == {}
    expected = {
        f"{what}/{term}" for what in ("gradient", "share", "cosine") for term in ("labels", "memory", "soft")
    }
    for record in probed.epochs:
        assert set(record.diagnostics) == expected
        assert record.diagnostics["share/soft"] == pytest.approx(1)
        assert record.diagnostics["gradient/labels"] > 0
    assert History.from_list(json.loads(json.dumps(probed.to_list()))) == probed
    del (old := probed.to_list())[0]["diagnostics"]  # as written by an earlier version
    assert History.from_list(old).records[0].diagnostics == {}


def test_the_weight_is_part_of_the_gradient():
    def share(weight):
        objective = WeightedSum({"labels": Labels(), "soft": Soft()}, {"labels": 1.0, "soft": weight})
        history, _ = train(Diagnostics(gradients_every=100), objective)
        return history.epochs[0].diagnostics["share/soft"]

    assert share(2.0) == pytest.approx(2 * share(1.0), rel=1e-4)  # at the first step nothing was trained yet


def test_a_question_asked_after_every_epoch():
    asked = []

    def ask():
        asked.append(len(asked))
        return {"shape/rho": 0.1 * len(asked)}

    history, _ = train(Diagnostics(after_epoch=ask))
    assert [r.diagnostics for r in history.epochs] == [{"shape/rho": 0.1}, {"shape/rho": 0.2}]


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="there is none called 'kd'; terms are labels, memory, soft"):
        train(Diagnostics(gradients_every=1, reference="kd"))
    with pytest.raises(FeatureNotFound, match="student tiny has no feature 'poled'"):
        train(Diagnostics(gradients_every=1, feature="poled"))
    with pytest.raises(ValueError, match=r"or never \(0\), got -1"):
        Diagnostics(gradients_every=-1)


def test_an_objective_without_terms_is_not_probed():
    """Only a weighted sum has terms; anything else is trained as ever."""

    class Plain(Objective):
        def forward(self, student, teacher, batch):
            return student.logits.square().mean()

    from topokd_lib.outputs import ModelOutput
    from topokd_lib.training import Distiller

    batch = next(ToyLoader().train_batches(0))
    probe = GradientProbe(1, ("a",))
    loss, _ = Distiller(TinyNet(), Plain(), probe=probe)(batch, ModelOutput.untaught(batch, 3))
    assert loss.ndim == 0
    assert probe.read(FABRIC) == {}
