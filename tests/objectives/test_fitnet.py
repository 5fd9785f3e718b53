"""FitNet, and the pairing and regressors that feature objectives share."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.objectives.reference import (
    CROSS_STYLE,
    SAME_STYLE,
    assert_gradient,
    benchmark_pair,
    leaf,
    parameters,
    state,
)
from tests.training.toy import CLASSES, SIZE, ToyLoader
from topokd_lib.errors import FeatureNotFound
from topokd_lib.models import Teacher, create_model
from topokd_lib.objectives import CrossEntropy, FitNet, WeightedSum, hint_loss
from topokd_lib.objectives.connectors import common_stages, hint_regressor, pair_maps, pool_to_smaller
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair
from topokd_lib.training import EngineSpec, Schedule, fit, make_fabric


@pytest.mark.parametrize("case", ["fitnet_0_same", "fitnet_1_down", "fitnet_2_up"])
def test_the_benchmark_agrees(golden, case):
    values = golden(f"kd/{case}")
    student, teacher = leaf(values["s.f"]), torch.tensor(values["t.f"]).double()
    regressor = hint_regressor(student.shape[1:], teacher.shape[1:])
    regressor.load_state_dict(state(values, "w."))
    regressor.double().train()
    meta = json.loads(str(values["meta"]))
    assert type(regressor.conv).__name__ == meta["kind"]
    for name in ("kernel", "stride", "padding"):
        assert list(getattr(regressor.conv, f"{name}_size" if name == "kernel" else name)) == meta[name]
    loss = hint_loss(regressor(student), teacher)
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["loss.repdistiller"], rtol=1e-6)
    assert_gradient(student, values, "s.f")
    assert_gradient(regressor.conv.weight, values, "w.conv.weight")
    assert_gradient(regressor.bn.weight, values, "w.bn.weight")
    np.testing.assert_allclose(regressor.bn.running_var, values["after.bn.running_var"], rtol=1e-5)


def test_a_map_by_hand():
    """Two positions, off by 1 and by 3: (1 + 9) / 2."""
    assert hint_loss(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, -3.0]]]])).item() == 5.0


REGRESSORS = {
    ("resnet50", "mobilenetv2_half"): 132608,
    ("resnet50", "vgg8"): 2098688,
    ("resnet32x4", "shufflenetv1"): 983424,
    ("resnet32x4", "shufflenetv2"): 475520,
    ("wrn_40_2", "shufflenetv1"): 491712,
    ("resnet56", "resnet20"): 1120,
    ("vgg13", "vgg8"): 66304,
}


@pytest.mark.parametrize("names", [*SAME_STYLE, *CROSS_STYLE], ids="-".join)
def test_every_pair_of_the_benchmark_has_its_regressor(names):
    """Numbers of parameters as counted in the benchmark's code."""
    objective = FitNet(benchmark_pair(*names))
    transposed = isinstance(objective.regressor.conv, nn.ConvTranspose2d)
    assert transposed == (names in CROSS_STYLE and names != ("vgg13", "mobilenetv2_half"))
    if names in REGRESSORS:
        assert parameters(objective) == REGRESSORS[names]


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((3, 8, 8), (5, 8, 8)), ((3, 8, 8), (5, 4, 4)), ((3, 4, 4), (5, 8, 8)), ((3, 9, 8), (5, 6, 7))],
)
def test_a_regressor_gives_the_teachers_shape(student, teacher):
    regressor = hint_regressor(torch.Size(student), torch.Size(teacher))
    assert regressor(torch.randn(2, *student)).shape == (2, *teacher)


def test_a_map_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="student map of 4×4 into a teacher map of 16×16"):
        FitNet(toy_pair(), student_feature="stage3", teacher_feature="stage1")


class TestTwoSteps:
    epochs = 3

    def build(self):
        torch.manual_seed(4)
        student = create_model("resnet8", num_classes=CLASSES)
        teacher = Teacher(create_model("resnet14", num_classes=CLASSES))
        loader = ToyLoader()
        pair = Pair.measure(
            student,
            teacher,
            image_shape=(3, SIZE, SIZE),
            train_labels=loader.labels[: loader.train],
            batch_size=8,
        )
        terms = {"ce": CrossEntropy(pair), "hint": FitNet(pair, hint_epochs=self.epochs)}
        objective = WeightedSum(terms, {"ce": 1.0, "hint": 100.0})
        return student, teacher, objective, loader

    def test_hints_come_first_and_then_the_other_terms_alone(self):
        student, teacher, objective, loader = self.build()
        fabric = make_fabric(EngineSpec(accelerator="cpu"))
        start = {key: value.clone() for key, value in objective.state_dict().items()}
        history = fit(
            fabric,
            student,
            teacher,
            objective,
            loader,
            Schedule(epochs=2, milestones=()),
            progress=False,
        )
        stages = [(record.stage, record.epoch) for record in history.records]
        assert stages == [("hint", 1), ("hint", 2), ("hint", 3), ("main", 1), ("main", 2)]
        losses = [record.loss for record in history.records]
        assert losses[2] < 0.8 * losses[0], "the hint is not learnt"
        assert [record.terms["hint"] for record in history.records[3:]] == [0.0, 0.0]
        assert all(not torch.equal(start[key], value) for key, value in objective.state_dict().items())
        assert not any(p.requires_grad for p in objective.terms["hint"].parameters())

    def test_the_hint_stage_trains_the_layers_up_to_the_hint(self):
        student, _, objective, _ = self.build()
        (stage,) = objective.init_stages(student)
        assert stage.epochs == self.epochs
        hint = objective.terms["hint"]
        assert stage.freeze_after == (hint.regressor,)
        trained = {id(p) for module in stage.modules for p in module.parameters()}
        names = {name.split(".")[0] for name, p in student.named_parameters() if id(p) in trained}
        assert names == {"conv1", "bn1", "layer1", "layer2"}
        assert {id(p) for p in hint.parameters()} <= trained

    def test_joint_training_has_no_stage_before(self):
        pair = toy_pair()
        assert FitNet(pair).init_stages(pair.student) == ()

    def test_negative_epochs_are_refused(self):
        with pytest.raises(ValueError, match="0 for joint training, got -1"):
            FitNet(toy_pair(), hint_epochs=-1)


def test_negative_targets_stay_out_of_reach():
    """What the closing ReLU costs: a hint below zero is never met, whatever the regressor learns."""
    regressed = hint_regressor(torch.Size((3, 4, 4)), torch.Size((5, 4, 4)))(torch.randn(2, 3, 4, 4))
    assert hint_loss(regressed, -torch.ones_like(regressed)).item() >= 1


@pytest.mark.usefixtures("unchecked")
def test_maps_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"regressed map has shape \(1, 2, 4, 4\), .* \(1, 2, 1, 1\)"):
        hint_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 1, 1))


class TestPairing:
    def test_stages_are_paired_from_the_first_as_far_as_both_reach(self):
        pair = benchmark_pair("resnet50", "resnet20")
        assert common_stages(pair) == ("stage1", "stage2", "stage3")
        assert common_stages(pair, ".preact") == ("stage1.preact", "stage2.preact", "stage3.preact")

    def test_one_list_names_both_sides_and_two_are_paired_in_order(self):
        pair = toy_pair()
        for given in ((("stage2",), None), (None, ("stage2",))):
            (maps,) = pair_maps(pair, "AT", *given, default=())
            assert maps == ("stage2", "stage2", (32, 8, 8), (32, 8, 8))
        crossed = pair_maps(pair, "AT", ("stem", "stage1"), ("stage3", "stage2"), default=())
        assert [(m.student, m.teacher) for m in crossed] == [("stem", "stage3"), ("stage1", "stage2")]

    def test_a_stage_that_was_asked_for_and_is_missing_is_an_error(self):
        with pytest.raises(FeatureNotFound, match="student resnet20 has no feature 'stage4'"):
            FitNet(benchmark_pair("resnet50", "resnet20"), student_feature="stage4")

    def test_lists_of_different_length_are_refused(self):
        with pytest.raises(ValueError, match=r"1 of the student \(stage1\) and 2 of the teacher"):
            pair_maps(toy_pair(), "AT", ("stage1",), ("stage1", "stage2"), default=())

    def test_nothing_to_compare_is_refused(self):
        with pytest.raises(ValueError, match=r"0 of the student \(none\) .* at least one"):
            pair_maps(toy_pair(), "AT", (), None, default=("stage1",))

    def test_vectors_are_refused(self):
        with pytest.raises(ValueError, match=r"student feature 'pooled' has shape \(64,\)"):
            FitNet(toy_pair(), student_feature="pooled")
        with pytest.raises(ValueError, match=r"teacher feature 'pooled' has shape \(64,\)"):
            FitNet(toy_pair(), teacher_feature="pooled")

    def test_no_teacher_is_said_so(self):
        pair = replace(toy_pair(), teacher=None, teacher_shapes={})
        with pytest.raises(ValueError, match="FitNet compares the student with a teacher, and this run has"):
            FitNet(pair)

    def test_pooling_leaves_equal_sizes_alone(self):
        first, second = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
        assert all(a is b for a, b in zip(pool_to_smaller(first, second), (first, second), strict=True))

    def test_the_larger_map_is_pooled_on_either_side_and_in_either_direction(self):
        large, small = torch.arange(16.0).view(1, 1, 4, 4), torch.zeros(1, 1, 2, 2)
        means, maxima = [2.5, 4.5, 10.5, 12.5], [5.0, 7.0, 13.0, 15.0]
        assert pool_to_smaller(large, small)[0].flatten().tolist() == means
        assert pool_to_smaller(small, large)[1].flatten().tolist() == means
        assert pool_to_smaller(large, small, "max")[0].flatten().tolist() == maxima
        assert [f.shape[2:] for f in pool_to_smaller(large[..., :1, :], small)] == [(1, 2), (1, 2)]


def test_a_perfect_student_pays_nothing():
    """Joint form, through the objective: the loss is that of the regressed map."""
    pair = toy_pair()
    objective = FitNet(pair)
    batch = toy_batch()
    student, teacher = toy_outputs(pair, batch, student_features=("stage2",), teacher_features=("stage2",))
    teacher.features["stage2"] = objective.regressor(student["stage2"]).detach()
    assert objective(student, teacher, batch).item() == 0.0
