"""ReviewKD: official values of the chain and its loss, and what flows from deep to shallow."""

import re

import numpy as np
import pytest
import torch

from tests.objectives.reference import assert_modern_gradient, benchmark_pair, leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import ReviewKD, hierarchical_loss
from topokd_lib.objectives.review_kd import AttentionFusion
from topokd_lib.outputs import ModelOutput
from topokd_lib.recipes import Recipe, load_recipe
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair

RENAMED = {"conv1": "reduce", "conv2": "expand", "att_conv.0": "attention"}


def our_name(official: str) -> str:
    """``abfs.1.att_conv.0.bias`` is ``1.attention.bias``."""
    return re.sub("conv1|conv2|att_conv.0", lambda m: RENAMED[m[0]], official.removeprefix("abfs."))


def official_objective(values, dtype):
    """An objective with the official modules, and the official inputs."""
    objective = ReviewKD(toy_pair())
    weights = {k.removeprefix("w__rev/"): v for k, v in values.items() if k.startswith("w__rev/")}
    count = sum(key.startswith("in__s") for key in values)
    chain = []
    for i in range(count):
        middle, seen = weights[f"abfs.{i}.conv1.0.weight"].shape[:2]
        taught = len(weights[f"abfs.{i}.conv2.0.weight"])
        chain.append(AttentionFusion(seen, middle, taught, fuse=i > 0))
    objective.fusions = torch.nn.ModuleList(chain)
    found = {our_name(key): torch.tensor(value) for key, value in weights.items()}
    keys = objective.fusions.load_state_dict(found, strict=False)
    assert not keys.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in keys.missing_keys)
    objective.to(dtype)
    names = tuple(f"{i}" for i in range(count))
    objective.student_features = objective.teacher_features = names
    student, teacher = (
        {name: torch.tensor(values[f"in__{side}{name}"], dtype=dtype) for name in names} for side in "st"
    )
    logits = torch.zeros(len(student["0"]), 5)
    return objective, ModelOutput(logits, student), ModelOutput(logits, teacher)


@pytest.mark.parametrize("case", ["a_small", "b_upsample"])
def test_the_official_chain_agrees(golden, case):
    """Down to the gradient of every weight; once with maps half as large as the teacher's."""
    values = golden(f"kd_modern/review_abf__{case}")
    objective, student, teacher = official_objective(values, torch.float64)
    for feature in student.features.values():
        feature.requires_grad_()
    loss = objective(student, teacher, toy_batch())
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    for name, feature in student.features.items():
        assert_modern_gradient(feature, values, f"s{name}")
    ours = dict(objective.fusions.named_parameters())
    official = [key.removeprefix("gnorm__") for key in values if key.startswith("gnorm__w0/")]
    assert len(official) == len(ours)
    for key in official:
        assert_modern_gradient(ours[our_name(key.removeprefix("w0/"))], values, key)


@pytest.mark.parametrize("case", ["a_small", "b_upsample"])
def test_the_official_chain_agrees_in_single_precision(golden, case):
    values = golden(f"kd_modern/review_abf__{case}")
    objective, student, teacher = official_objective(values, torch.float32)
    loss = objective(student, teacher, toy_batch())
    np.testing.assert_allclose(loss.item(), values["out__loss_f32"], rtol=2e-5)


@pytest.mark.parametrize("case", ["a_small", "b_imagenet_spatial"])
def test_the_official_loss_agrees(golden, case):
    """With sizes that 4 and 2 cells do not divide."""
    values = golden(f"kd_modern/review_hcl__{case}")
    students = [leaf(values[f"in__s{i}"]) for i in range(4)]
    teachers = [torch.tensor(values[f"in__t{i}"]).double() for i in range(4)]
    loss = torch.stack([hierarchical_loss(*maps) for maps in zip(students, teachers, strict=True)]).sum()
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    for i, student in enumerate(students):
        assert_modern_gradient(student, values, f"s{i}")
    single = [
        hierarchical_loss(s.detach().float(), t.float()) for s, t in zip(students, teachers, strict=True)
    ]
    np.testing.assert_allclose(sum(single), values["out__loss_f32"], rtol=2e-5)


def test_a_constant_difference_costs_the_same_at_every_resolution():
    """So that the normalisation of the weights is right: 9 whatever the size."""
    for side in (1, 2, 3, 4, 5, 8, 16):
        teacher = torch.randn(2, 3, side, side, dtype=torch.float64)
        assert hierarchical_loss(teacher + 3, teacher).item() == pytest.approx(9)


def test_a_checkerboard_is_seen_only_at_full_resolution():
    """Means over 2×2 cells and more are zero: 1 / (1 + 1/2 + 1/4 + 1/8)."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(4, 4)[None, None]
    assert hierarchical_loss(board, torch.zeros_like(board)).item() == pytest.approx(8 / 15)


def test_a_deep_feature_reaches_every_shallower_level():
    """The shallowest teacher map alone teaches all stages and the pooled vector."""
    pair, batch = toy_pair(teacher="resnet8x4"), toy_batch()
    objective = ReviewKD(pair)
    student, teacher = toy_outputs(
        pair,
        batch,
        student_features=objective.student_features,
        teacher_features=objective.teacher_features,
    )
    residual = None
    for fusion, name in zip(objective.fusions, reversed(objective.student_features), strict=True):
        feature = student[name] if student[name].ndim == 4 else student[name][..., None, None]
        fused, residual = fusion(feature, residual, tuple(feature.shape[2:]))
    hierarchical_loss(fused, teacher["stage1.preact"]).backward()
    for name, feature in student.features.items():
        assert feature.grad.abs().sum() > 0, name


def test_attention_decides_between_the_map_and_the_residual():
    """With a bias of ±50 one of the two is switched off."""
    fusion = AttentionFusion(3, 4, 5, fuse=True).eval()
    student, residual = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    with torch.no_grad():
        fusion.attention.weight.zero_()
        fusion.attention.bias.copy_(torch.tensor([-50.0, 50.0]))
    _, mixed = fusion(student, residual, (4, 4))
    torch.testing.assert_close(mixed, residual.repeat_interleave(2, 2).repeat_interleave(2, 3))
    with torch.no_grad():
        fusion.attention.bias.copy_(torch.tensor([50.0, -50.0]))
    _, mixed = fusion(student, residual, (4, 4))
    torch.testing.assert_close(mixed, fusion.reduce(student))


def test_levels_and_widths_come_from_the_pair():
    """Those that the official code lists by hand for this pair."""
    objective = ReviewKD(benchmark_pair("resnet32x4", "resnet8x4"))
    assert objective.student_features == ("stage1", "stage2", "stage3", "pooled")
    assert objective.teacher_features == ("stage1.preact", "stage2.preact", "stage3.preact", "pooled")
    convolutions = [(f.reduce[0].in_channels, f.expand[0].out_channels) for f in objective.fusions]
    assert convolutions == [(256, 256), (256, 256), (128, 128), (64, 64)]
    assert [f.attention is not None for f in objective.fusions] == [False, True, True, True]


@pytest.mark.parametrize(
    ("teacher", "student", "middle"),
    [("resnet56", "resnet20", 64), ("vgg13", "mobilenetv2_half", 512), ("resnet32x4", "shufflenetv1", 512)],
)
def test_mixtures_are_as_wide_as_the_pooled_vector_but_at_most_512(teacher, student, middle):
    objective = ReviewKD(benchmark_pair(teacher, student))
    assert {fusion.reduce[0].out_channels for fusion in objective.fusions} == {middle}


def test_warm_up_is_a_field_of_the_recipe():
    """A twentieth of the weight in the first epoch, all of it from the twentieth on."""
    recipe, _ = load_recipe("cifar100/review_kd", kind=Recipe)
    total = recipe.objective(toy_pair())
    weights = []
    for epoch in (0, 9, 19, 239):
        total.begin_epoch(epoch, 240)
        weights.append(total.weight("review_kd"))
    assert weights == pytest.approx([0.03, 0.3, 0.6, 0.6])


def test_a_batch_of_one_is_refused():
    with pytest.raises(ValueError, match=r"normalises a 1×1 map .* at least 2, got batch_size=1"):
        ReviewKD(toy_pair(batch_size=1))


def test_features_that_do_not_fit_are_refused(unchecked):
    pair = toy_pair()
    with pytest.raises(ValueError, match="ReviewKD compares feature maps two by two and got 1 of"):
        ReviewKD(pair, student_features=("stage1",))
    with pytest.raises(ValueError, match=r"student feature 'pooled' has shape \(64,\)"):
        ReviewKD(pair, student_features=("pooled",), teacher_features=("stage1",))
    with pytest.raises(FeatureNotFound, match=r"teacher resnet14 has no feature 'stage7'"):
        ReviewKD(pair, student_features=("stage1",), teacher_features=("stage7",))
    with pytest.raises(ValueError, match="middle_channels must be at least 1, got 0"):
        ReviewKD(pair, middle_channels=0)
    with pytest.raises(ValueError, match=r"fused map has shape \(1, 2, 4, 4\), the teacher's \(1, 3, 4, 4\)"):
        hierarchical_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    alone = type(pair)(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(ValueError, match="ReviewKD compares the student with a teacher, and this run has no"):
        ReviewKD(alone)
