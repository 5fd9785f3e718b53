"""DistPro's loss against official values; weights over time; what a search may be used with."""

import numpy as np
import pytest
import torch

from tests.objectives.reference import assert_modern_gradient, leaf
from topokd_lib.errors import ArtefactMismatch, CheckpointError, FeatureNotFound
from topokd_lib.objectives import DistPro, PathwayProcess, hierarchical_loss, pathway_weights, pathways
from topokd_lib.objectives.dist_pro import PathwayConnector
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair

LAYERS = dict(
    zip(
        ("enter.0", "enter.1", "attention", "mix.0", "mix.1", "leave.0", "leave.1"),
        ("0", "1", "3.conv", "4", "5", "8", "9"),
        strict=True,
    )
)
"""Our names of a connector's layers, and the official ones."""

STAGES = ("stage1.preact", "stage2.preact", "stage3.preact")


def official_connector(values, number, student, teacher):
    connector = PathwayConnector(student.shape[1], teacher.shape[1])
    official = {
        f"{ours}.{name}": torch.tensor(values[key])
        for ours, theirs in LAYERS.items()
        for name in ("weight", "bias", "running_mean", "running_var")
        if (key := f"w__dp/C.{number}.{theirs}.{name}") in values
    }
    missing = connector.load_state_dict(official, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return connector


@pytest.mark.parametrize(
    ("dtype", "suffix", "rtol"), [(torch.float64, "", 1e-6), (torch.float32, "_f32", 2e-5)]
)
def test_official_code_agrees(golden, dtype, suffix, rtol):
    values = golden("kd_modern/distpro__a")
    student = [leaf(values[f"in__s{i}"]) for i in (0, 1)]
    teacher = [leaf(values[f"in__t{i}"]) for i in (0, 1)]
    scores = leaf(values["in__alpha"])
    connectors, losses = [], []
    for number, (taught, learning) in enumerate(pathways(2)):
        target, seen = teacher[taught].to(dtype), student[learning].to(dtype)
        connectors.append(official_connector(values, number, seen, target).to(dtype))
        losses.append(hierarchical_loss(connectors[-1](seen, tuple(target.shape[2:])), target))
    weights = pathway_weights(scores.to(dtype))
    loss = weights @ torch.stack(losses)
    np.testing.assert_allclose(loss.item(), values[f"out__loss_333{suffix}"], rtol=rtol)
    np.testing.assert_allclose(loss.item() / 3, values[f"out__loss{suffix}"], rtol=rtol)
    if dtype == torch.float32:
        return
    np.testing.assert_allclose(weights.detach() / 3, values["out__weights"][:3], rtol=1e-6)
    np.testing.assert_allclose(torch.stack(losses).detach(), values["out__pathway_losses"], rtol=1e-6)
    (loss / 3).backward()  # official gradients are those of the form without the factor
    for name, tensor in (("alpha", scores), ("s0", student[0]), ("s1", student[1])):
        assert_modern_gradient(tensor, values, name)
    assert all(target.grad is None for target in teacher)
    for number, connector in enumerate(connectors):
        for ours, parameter in connector.named_parameters():
            layer, _, name = ours.rpartition(".")
            assert_modern_gradient(parameter, values, f"w0/C.{number}.{LAYERS[layer]}.{name}")


def test_weights_by_hand():
    """Scores 0 and 1 beside the constant 1: 2/(1 + 2e) and 2e/(1 + 2e)."""
    e = np.e
    found = pathway_weights(torch.tensor([0.0, 1.0]))
    np.testing.assert_allclose(found, [2 / (1 + 2 * e), 2 * e / (1 + 2 * e)], rtol=1e-6)
    assert pathway_weights(torch.full((6,), -1e4)).sum() == 0
    assert pathway_weights(torch.full((6,), 1e4)).sum() == 6


def process(scores, **changes):
    about = {
        "student": "resnet8",
        "teacher": "resnet14",
        "student_features": STAGES,
        "teacher_features": STAGES,
    }
    return PathwayProcess(scores, **(about | changes))


def test_scores_are_replayed_over_the_whole_training():
    """Three records; in the middle of the first of two epochs a quarter of the time is over."""
    scores = torch.stack([torch.zeros(6), torch.ones(6), torch.full((6,), 5.0)])
    objective = DistPro(toy_pair(), process=process(scores))
    for epochs, epoch, expected in ((2, 0, 0.5), (2, 1, 3.0), (1, 0, 1.0), (1000, 999, 4.996)):
        objective.begin_epoch(epoch, epochs)
        torch.testing.assert_close(objective.current_scores, torch.full((6,), expected))


def test_a_pathway_of_weight_zero_does_not_teach():
    pair, batch = toy_pair(), toy_batch()
    outputs = toy_outputs(pair, batch, student_features=STAGES, teacher_features=STAGES)
    only = torch.full((1, 6), -1e4)
    only[0, pathways(3).index((0, 2))] = 1e4  # the teacher's first stage, the student's last
    objective = DistPro(pair, process=process(only))
    losses = objective.pathway_losses(*outputs)
    loss = objective(*outputs, batch)
    torch.testing.assert_close(loss, 6 * losses[2])
    loss.backward()
    gradients = [outputs[0][name].grad for name in STAGES]
    assert [bool(gradient.abs().sum() > 0) for gradient in gradients] == [False, False, True]


def test_without_a_search_all_pathways_count_the_same():
    pair, batch = toy_pair(), toy_batch()
    outputs = toy_outputs(pair, batch, student_features=STAGES, teacher_features=STAGES)
    objective = DistPro(pair)
    expected = 6 / 7 * objective.pathway_losses(*outputs).sum()
    torch.testing.assert_close(objective(*outputs, batch), expected)


def test_file_survives_a_round_trip(tmp_path):
    made = process(torch.randn(5, 6), report={"plan": {"epochs": 3}})
    made.save(tmp_path / "folder" / "process.safetensors")
    found = PathwayProcess.load(tmp_path / "folder" / "process.safetensors")
    assert torch.equal(found.scores, made.scores)
    assert {k: v for k, v in vars(found).items() if k != "scores"} == {
        k: v for k, v in vars(made).items() if k != "scores"
    }
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["process.safetensors"]
    assert torch.equal(
        DistPro(toy_pair(), process=tmp_path / "folder" / "process.safetensors").scores, made.scores
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student": "resnet20"}, "student: made for resnet20, used with resnet8"),
        ({"teacher": "resnet56"}, "teacher: made for resnet56, used with resnet14"),
        (
            {"student_features": ("a", "b", "c")},
            r"stages of the student: made for \('a', 'b', 'c'\), used with",
        ),
    ],
)
def test_a_search_for_something_else_is_refused(changes, message):
    with pytest.raises(ArtefactMismatch, match=message):
        DistPro(toy_pair(), process=process(torch.ones(1, 6), **changes))


def test_files_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read pathway weights from .*topokd prepare dist-pro"):
        DistPro(toy_pair(), process=tmp_path / "nothing.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="holds no pathway weights; make one with"):
        PathwayProcess.load(tmp_path / "other.safetensors")
    metadata = {"format": "topokd-pathways", "process": "{}"}
    save_file({"scores": torch.zeros(1, 6)}, tmp_path / "half.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match=r"half\.safetensors are incomplete"):
        PathwayProcess.load(tmp_path / "half.safetensors")


@pytest.mark.parametrize("shape", [(0, 6), (2, 5)])
def test_scores_of_the_wrong_shape_are_refused(shape):
    with pytest.raises(ValueError, match="over 3 stages has records of 6 scores, got shape"):
        process(torch.zeros(*shape))


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="scores of pathways must be finite"):
        process(torch.full((1, 6), torch.nan))


def test_pair_that_does_not_fit_is_refused():
    pair = toy_pair()
    with pytest.raises(FeatureNotFound, match="student resnet8 has no feature 'stage9'"):
        DistPro(pair, student_features=("stage9",))
    with pytest.raises(ValueError, match="DistPro compares feature maps two by two and got 1 of the student"):
        DistPro(pair, student_features=("stage1",), teacher_features=("stage1", "stage2"))
    alone = type(pair)(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(
        ValueError, match="DistPro compares the student with a teacher, and this run has none"
    ):
        DistPro(alone)
