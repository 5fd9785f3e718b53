"""TGD against official values and gradients, by hand, in its variants, and with what it cannot use."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.objectives.reference import leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import (
    OFD,
    SP,
    TGD,
    merged_kd_loss,
    merged_similarity_loss,
    similarity_loss,
)
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import OBJECTIVE_CHECKS, toy_batch, toy_group, toy_outputs, toy_pair

STAGES = ("stage1", "stage2", "stage3")
MODES = {
    "official": TGD,
    "alpha-1": lambda pair: TGD(pair, alpha=1.0),
    "alpha-0": lambda pair: TGD(pair, alpha=0.0),
    "other-variants": lambda pair: TGD(pair, logits="textbook", maps="unit-maps", alpha=0.5),
    "one-map": lambda pair: TGD(pair, features=("stage3",)),
}


@pytest.mark.parametrize("check", OBJECTIVE_CHECKS.values(), ids=OBJECTIVE_CHECKS.keys())
@pytest.mark.parametrize("build", MODES.values(), ids=MODES.keys())
def test_contract(build, check):
    check(build, toy_group())


GOLDEN_ALPHAS = {"A": (0.99, 0.9, 0.5), "B": (0.99, 1.0, 0.0)}


@pytest.mark.parametrize(
    ("case", "alpha"), [(case, a) for case in GOLDEN_ALPHAS for a in GOLDEN_ALPHAS[case]]
)
def test_the_official_code_agrees(golden, case, alpha):
    """Values and gradients; in case B the maps of the second teacher have another size."""
    values = golden("tgd/loss_golden")
    given = {k.removeprefix(f"{case}/"): v for k, v in values.items() if k.startswith(f"{case}/")}
    expected = {k.split("/")[1]: v for k, v in given.items() if k.startswith(f"a{alpha}/")}
    logits = leaf(given["s_logits"])
    maps = [leaf(given[f"s{k}"]) for k in (1, 2, 3)]
    taught = [[torch.from_numpy(given[f"t{t}_{k}"]).double() for k in (1, 2, 3)] for t in (1, 2)]
    targets = [torch.from_numpy(given[f"t{t}_logits"]).double() for t in (1, 2)]

    kd = merged_kd_loss(logits, *targets, alpha)
    np.testing.assert_allclose(kd.item(), 16 * expected["kd"], rtol=1e-7)
    similarity = [merged_similarity_loss(m, *pair, alpha) for m, *pair in zip(maps, *taught, strict=True)]
    for k, found in enumerate(similarity, start=1):
        np.testing.assert_allclose(found.item(), expected[f"sp{k}"], rtol=1e-7)

    objective = TGD(toy_group(), alpha=alpha)
    student = ModelOutput(logits, dict(zip(STAGES, maps, strict=True)))
    features = {}
    for name, target, per_stage in zip(("image", "topology"), targets, taught, strict=True):
        features[f"{name}/logits"] = target
        features |= {f"{name}/{stage}": m for stage, m in zip(STAGES, per_stage, strict=True)}
    labels = torch.from_numpy(given["y"])
    loss = objective(student, ModelOutput(targets[0], features), toy_batch())
    total = 0.1 * F.cross_entropy(logits, labels) + loss
    np.testing.assert_allclose(total.item(), expected["total"], rtol=1e-7)
    total.backward()
    np.testing.assert_allclose(logits.grad, expected["grad_logits"], rtol=1e-6, atol=1e-10)
    for k, m in enumerate(maps, start=1):
        np.testing.assert_allclose(m.grad.norm(), expected[f"gnorm_s{k}"], rtol=1e-6)
        scale = np.abs(expected[f"grad_s{k}"]).max()
        np.testing.assert_allclose(m.grad, expected[f"grad_s{k}"], atol=1e-6 * scale)


def test_soft_targets_by_hand():
    """Two classes; the teachers say 1:1 and 3:1, the student 1:1."""
    student, even, sure = (torch.tensor([[odds, 0.0]]) for odds in (0.0, 0.0, float(np.log(3))))
    expected = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    for variant, classes in (("official", 2), ("textbook", 1)):
        loss = merged_kd_loss(student, even, sure, alpha=0.8, temperature=1.0, variant=variant)
        assert loss.item() == pytest.approx(0.2 * expected / classes, rel=1e-5)


def test_larger_activations_prevail_unless_maps_have_unit_rows():
    """The first teacher finds all images alike, the second, with activations ten times as large, none."""
    alike, unlike = torch.ones(2, 1), 10 * torch.eye(2)
    student = unlike
    half = 0.5**0.5

    def expected(off_diagonal, diagonal):
        row = np.array([diagonal, off_diagonal]) / np.hypot(diagonal, off_diagonal)
        return ((row[0] - 1) ** 2 + row[1] ** 2) / 2

    official = merged_similarity_loss(student, alike, unlike, alpha=0.5)
    assert official.item() == pytest.approx(expected(0.5, 0.5 + 50), rel=1e-4)
    fair = merged_similarity_loss(student, alike, unlike, alpha=0.5, variant="unit-maps")
    assert fair.item() == pytest.approx(expected(0.5 * half, 0.5 * half + 0.5), rel=1e-4)


@pytest.mark.parametrize("maps", ["official", "unit-maps"])
def test_alpha_one_is_similarity_preserving_distillation_from_the_image_teacher(maps):
    student, image, topology = torch.randn(6, 4, 3, 3), torch.randn(6, 5, 3, 3), torch.randn(6, 2, 7, 7)
    found = merged_similarity_loss(student, image, topology, alpha=1.0, variant=maps)
    torch.testing.assert_close(found, similarity_loss(student, image))


def test_weights_are_those_of_the_two_parts():
    pair, batch = toy_group(), toy_batch()
    whole = TGD(pair)
    student, teacher = toy_outputs(
        pair, batch, student_features=STAGES, teacher_features=whole.teacher_features
    )
    parts = [TGD(pair, **{w: 0.0})(student, teacher, batch) for w in ("kd_weight", "similarity_weight")]
    torch.testing.assert_close(whole(student, teacher, batch), sum(parts))
    doubled = TGD(pair, kd_weight=1.8, similarity_weight=6000.0)
    torch.testing.assert_close(doubled(student, teacher, batch), 2 * sum(parts))


class TestErrors:
    def test_one_teacher_is_not_enough(self):
        with pytest.raises(FeatureNotFound, match="resnet14 has no feature 'image/stage1'"):
            TGD(toy_pair())

    def test_a_name_that_no_teacher_has(self):
        with pytest.raises(FeatureNotFound, match=r"'topologie/stage1'\. Did you mean 'topology/stage1'\?"):
            TGD(toy_group(), topology="topologie")
        with pytest.raises(FeatureNotFound, match="student resnet8 has no feature 'stage4'"):
            TGD(toy_group(), features=("stage4",))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": 1.01}, r"from 0 to 1, got alpha=1\.01"),
            ({"temperature": 0.0}, r"must be positive, got 0\.0"),
            ({"kd_weight": -1.0}, r"got kd_weight=-1\.0 and similarity_weight=3000\.0"),
            ({"features": ()}, "at least one feature, got none"),
        ],
    )
    def test_numbers_out_of_range(self, options, message):
        with pytest.raises(ValueError, match=message):
            TGD(toy_group(), **options)

    def test_a_batch_of_one(self):
        with pytest.raises(ValueError, match=r"TGD compares the images of a batch .* at least 2, got 1"):
            merged_similarity_loss(torch.ones(1, 3), torch.ones(1, 3), torch.ones(1, 3))

    def test_objectives_for_one_teacher(self):
        """Their features are not those of a group, and a group is no network."""
        with pytest.raises(FeatureNotFound, match="Did you mean 'image/stage1'"):
            SP(toy_group())
        with pytest.raises(ValueError, match="looks into the teacher's network needs one teacher, and this"):
            OFD(toy_group())
