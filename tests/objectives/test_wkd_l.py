"""WKD-L against official values, exact transport, and its own description."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.objectives import WKDL, class_costs, target_cross_entropy, transport_loss
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def test_official_code_agrees(golden):
    values = golden("kd_modern/wkd_l__a")
    student, teacher, labels = leaf(values["in__zs"]), leaf(values["in__zt"]), torch.tensor(values["in__y"])
    costs = class_costs(torch.tensor(values["in__W"]).double())
    transport = transport_loss(student, teacher, labels, costs, temperature=2.0)
    target = target_cross_entropy(student, teacher, labels)
    loss = target + 30 * transport
    loss.backward()
    np.testing.assert_allclose(transport.item(), values["out__wd"], rtol=1e-6)
    np.testing.assert_allclose(target.item(), values["out__target_term"], rtol=1e-6)
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student, values, "zs")
    assert teacher.grad is None


def test_official_code_agrees_in_single_precision(golden):
    values = golden("kd_modern/wkd_l__a")
    student, teacher, labels = (torch.tensor(values[f"in__{name}"]) for name in ("zs", "zt", "y"))
    costs = class_costs(torch.tensor(values["in__W"]))
    loss = target_cross_entropy(student, teacher, labels) + 30 * transport_loss(
        student, teacher, labels, costs
    )
    np.testing.assert_allclose(loss.item(), values["out__loss_f32"], rtol=1e-4)


def exact_transport(source, target, costs):
    """The linear programme, by SciPy."""
    n = len(source)
    rows = np.kron(np.eye(n), np.ones(n))
    columns = np.kron(np.ones(n), np.eye(n))
    done = linprog(costs.flatten(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([source, target]))
    return done.fun


@pytest.mark.parametrize("seed", range(3))
def test_it_lies_above_exact_transport_by_no_more_than_regularisation_allows(seed):
    """Entropic transport costs at most λ ln n more than the cheapest one, once it has converged."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 1, 6, generator=generator, dtype=torch.float64)
    costs = class_costs(torch.randn(6, 4, generator=generator, dtype=torch.float64), sharpening=0.2)
    label = torch.tensor([2])
    found = transport_loss(student, teacher, label, costs, 1.0, regularisation=0.02, iterations=2000).item()
    others = [0, 1, 3, 4, 5]
    masses = [logits[0, others].softmax(dim=0).numpy() for logits in (student, teacher)]
    exact = exact_transport(*masses, costs[others][:, others].numpy())
    assert exact - 1e-4 <= found <= exact + 0.02 * np.log(5)


def test_moving_to_a_close_class_is_cheaper():
    """Class 1 is like class 2 and unlike class 3; the label is class 0."""
    costs = class_costs(torch.tensor([[0.0, 0, 1], [1, 0, 0], [0.9, 0.1, 0], [0, 1, 0]]))
    teacher, label = torch.tensor([[0.0, 9, 0, 0]]), torch.tensor([0])
    close, far = (
        transport_loss(torch.tensor([logits]), teacher, label, costs, 1.0).item()
        for logits in ([0.0, 0, 9, 0], [0.0, 0, 0, 9])
    )
    assert 0 < close < 0.1 * far


@given(st.integers(0, 10_000))
def test_the_label_plays_no_part_in_the_transport(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, generator=generator)
    costs = class_costs(torch.randn(5, 4, generator=generator))
    labels = torch.randint(5, (3,), generator=generator)
    raised = student.scatter_add(1, labels[:, None], torch.full((3, 1), 7.0))
    first, second = (transport_loss(s, teacher, labels, costs) for s in (student, raised))
    torch.testing.assert_close(first, second)


def test_extreme_logits_have_a_finite_loss_and_gradient():
    student = torch.tensor([[150.0, 0, -150, 40], [-300, 300, 0, 0]], requires_grad=True)
    teacher, labels = torch.tensor([[-200.0, 200, 0, 0], [0, 0, 150, -150]]), torch.tensor([0, 3])
    loss = transport_loss(student, teacher, labels, class_costs(torch.eye(4)))
    loss = loss + target_cross_entropy(student, teacher, labels)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_costs_are_between_zero_and_one_and_symmetric():
    costs = class_costs(torch.randn(7, 3), sharpening=4.0)
    assert costs.min() >= 0
    assert costs.max() <= 1
    torch.testing.assert_close(costs, costs.T)
    torch.testing.assert_close(costs.diagonal(), torch.zeros(7), atol=1e-6, rtol=0)


def test_the_objective_adds_both_parts_and_lets_the_transport_fade():
    pair, batch = toy_pair(), toy_batch()
    student, teacher = toy_outputs(pair, batch, student_features=(), teacher_features=())
    objective = WKDL(pair, transport_weight=5.0, decay_from=2)
    costs = class_costs(pair.teacher.model.last_layer.weight)
    target = target_cross_entropy(student.logits, teacher.logits, batch.labels)
    transport = transport_loss(student.logits, teacher.logits, batch.labels, costs)
    for epoch, factor in ((0, 1.0), (1, 1.0), (2, 0.5), (3, 0.0)):
        objective.begin_epoch(epoch, 4)
        expected = target + 5 * factor * transport
        torch.testing.assert_close(objective(student, teacher, batch), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
        ({"sharpening": -1.0}, "sharpening must be positive, got -1.0"),
        ({"regularisation": 0.0}, "regularisation must be positive, got 0.0"),
        ({"transport_weight": -1.0}, "transport_weight must not be negative .* got -1.0 and 10"),
        ({"iterations": 0}, "iterations must be at least 1, got 30.0 and 0"),
    ],
)
def test_hyper_parameters_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        WKDL(toy_pair(), **arguments)


def test_shapes_that_do_not_fit_are_refused(unchecked):
    logits, label = torch.zeros(1, 4), torch.tensor([0])
    with pytest.raises(
        ValueError, match=r"the student's are \(1, 4\), the teacher's \(1, 4\), the costs \(3, 3\)"
    ):
        transport_loss(logits, logits, label, torch.zeros(3, 3))
