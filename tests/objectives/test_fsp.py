"""Flow of solution procedure: official values, two steps, and the pairs for which it is not defined."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.objectives.reference import CROSS_STYLE, SAME_STYLE, assert_gradient, benchmark_pair, leaf
from tests.training.toy import CLASSES, SIZE, ToyLoader
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import FSP, CrossEntropy, WeightedSum, flow_loss, flow_matrix
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair
from topokd_lib.training import EngineSpec, Schedule, fit, make_fabric


def maps(values: dict[str, np.ndarray], side: str) -> list[torch.Tensor]:
    count = sum(key.startswith("t.f") for key in values)
    return [leaf(values[f"{side}.f{i}"]) for i in range(count)]


def flows(features: list[torch.Tensor], pooling: str = "average") -> list[torch.Tensor]:
    return [flow_matrix(a, b, pooling) for a, b in pairwise(features)]


@pytest.mark.parametrize("case", ["fsp_0", "fsp_1"])
def test_the_benchmark_agrees(golden, case):
    values = golden(f"kd/{case}")
    students, teachers = maps(values, "s"), maps(values, "t")
    found = flows(students)
    losses = [flow_loss(s, t) for s, t in zip(found, flows(teachers), strict=True)]
    torch.stack(losses).sum().backward()
    np.testing.assert_allclose([loss.item() for loss in losses], values["loss_terms.repdistiller"], rtol=1e-6)
    np.testing.assert_allclose(sum(losses).item(), values["loss.repdistiller"], rtol=1e-6)
    np.testing.assert_allclose(found[0].detach().norm(), values["out.s_fsp0.norm"], rtol=1e-6)
    transposed = found[0].detach().mT.flatten()[:16]  # the benchmark puts the later layer first
    np.testing.assert_allclose(transposed, values["out.s_fsp0.head"], rtol=1e-5)
    for i, student in enumerate(students):
        assert_gradient(student, values, f"s.f{i}")


@pytest.mark.parametrize("case", ["fsp_0", "fsp_1"])
def test_torchdistill_agrees(golden, case):
    values = golden(f"kd/{case}")
    sides = zip(flows(maps(values, "s"), "max"), flows(maps(values, "t"), "max"), strict=True)
    total = sum(flow_loss(s, t, "torchdistill").item() for s, t in sides)
    assert total == pytest.approx(values["loss.torchdistill"].item(), rel=1e-6)


def test_a_matrix_by_hand():
    """One channel (1, 2) against two, (3, 4) and (0, 1), over two positions: 11/2 and 2/2."""
    earlier = torch.tensor([[[[1.0, 2.0]]]])
    later = torch.tensor([[[[3.0, 4.0]], [[0.0, 1.0]]]])
    assert flow_matrix(earlier, later).tolist() == [[[5.5, 1.0]]]


def test_losses_by_hand():
    """Differences 3, 4 in one column and 0, 1 in the other: 26/4, and 5 + 1."""
    student = torch.tensor([[[3.0, 0.0], [4.0, 1.0]]])
    assert flow_loss(student, torch.zeros(1, 2, 2)).item() == 6.5
    assert flow_loss(student, torch.zeros(1, 2, 2), "torchdistill").item() == 6.0


def test_it_is_the_benchmarks_product_of_all_channels_at_all_positions():
    earlier, later = torch.randn(2, 3, 5, 4).double(), torch.randn(2, 6, 5, 4).double()
    product = (earlier[:, :, None] * later[:, None]).mean(dim=(3, 4))
    torch.testing.assert_close(flow_matrix(earlier, later), product)


def test_where_things_are_does_not_matter():
    """Positions moved alike in both layers leave the flow as it is."""
    earlier, later = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 6, 4, 4).double()
    moved = flow_matrix(earlier.flip(2).mT, later.flip(2).mT)
    torch.testing.assert_close(moved, flow_matrix(earlier, later))


def test_equal_columns_have_a_finite_gradient():
    same = torch.ones(2, 3, 4, requires_grad=True)
    flow_loss(same, torch.ones(2, 3, 4), "torchdistill").backward()
    assert torch.equal(same.grad, torch.zeros_like(same))


@pytest.mark.parametrize("variant", ["benchmark", "torchdistill"])
def test_joint_training_adds_the_flows_between_all_layers(variant):
    pair, batch = toy_pair(), toy_batch()
    objective = FSP(pair, init_epochs=0, variant=variant)
    names = ("stem", "stage1", "stage2", "stage3")
    assert objective.student_features == objective.teacher_features == names
    student, teacher = toy_outputs(pair, batch, student_features=names, teacher_features=names)
    pooling = "max" if variant == "torchdistill" else "average"
    sides = [flows([output[name] for name in names], pooling) for output in (student, teacher)]
    expected = sum(flow_loss(s, t, variant) for s, t in zip(*sides, strict=True))
    torch.testing.assert_close(objective(student, teacher, batch), expected)


def test_two_steps_train_the_feature_layers_first():
    torch.manual_seed(4)
    student = create_model("resnet8", num_classes=CLASSES)
    teacher = Teacher(create_model("resnet14", num_classes=CLASSES))
    loader = ToyLoader()
    pair = Pair.measure(
        student, teacher, image_shape=(3, SIZE, SIZE), train_labels=loader.labels, batch_size=8
    )
    classifier = student.fc.weight.detach().clone()
    objective = WeightedSum(
        {"ce": CrossEntropy(pair), "fsp": FSP(pair, init_epochs=3)}, {"ce": 1.0, "fsp": 50.0}
    )
    (stage,) = objective.init_stages(student)
    assert {id(p) for m in stage.modules for p in m.parameters()} == {
        id(p) for name, p in student.named_parameters() if not name.startswith("fc")
    }
    fabric = make_fabric(EngineSpec(accelerator="cpu"))
    schedule = Schedule(epochs=1, lr=0.01, milestones=())
    history = fit(fabric, student, teacher, objective, loader, schedule, progress=False)
    assert [r.stage for r in history.records] == ["flow", "flow", "flow", "main"]
    losses = [r.loss for r in history.records]
    assert losses[2] < losses[0]
    assert history.records[3].terms["fsp"] == 0.0
    assert not torch.equal(student.fc.weight, classifier)


def test_the_first_step_of_the_default_is_as_long_as_the_benchmarks():
    pair = toy_pair()
    (stage,) = FSP(pair).init_stages(pair.student)
    assert stage.epochs == 30
    assert FSP(pair, init_epochs=0).init_stages(pair.student) == ()


@pytest.mark.parametrize("names", [*SAME_STYLE, *CROSS_STYLE], ids="-".join)
def test_it_is_defined_for_the_pairs_that_the_tables_have(names):
    """Six of the same style; the rest of the table is empty because widths differ."""
    pair = benchmark_pair(*names)
    if names in SAME_STYLE and names != ("wrn_40_2", "wrn_40_1"):
        assert FSP(pair).student_features[:2] == ("stem", "stage1")
    else:
        with pytest.raises(ValueError, match=f"student {names[1]} has .*, teacher {names[0]} has .* width"):
            FSP(pair)


def test_both_widths_and_layers_are_named():
    with pytest.raises(ValueError, match=r"resnet8 has 16 in 'stage1', teacher resnet8x4 has 64 in 'stage1'"):
        FSP(toy_pair(teacher="resnet8x4"), student_features=("stage1", "stage2"))


def test_one_layer_has_no_flow():
    with pytest.raises(ValueError, match=r"at least 2 maps, got 1 \('stage2'\)"):
        FSP(toy_pair(), student_features=("stage2",))


def test_negative_epochs_are_refused():
    with pytest.raises(ValueError, match="0 for joint training, got -30"):
        FSP(toy_pair(), init_epochs=-30)
