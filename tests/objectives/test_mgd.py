"""MGD: official values under official masks, and masks that are what they should be."""

import numpy as np
import pytest
import torch

from tests.objectives.reference import assert_modern_gradient, benchmark_pair, leaf, parameters
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import MGD, generation_loss, random_mask
from topokd_lib.objectives.connectors import last_stage
from topokd_lib.objectives.mgd import MaskedGenerator
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair

WEIGHT = 7e-5  # the official code multiplies by it inside
CASES = {"a_align": 0.15, "b_noalign": 0.5}


def official_objective(values, masked, dtype, monkeypatch):
    """An objective with the official weights and random numbers, and the official inputs."""
    objective = MGD(toy_pair(), masked=masked)
    generator = MaskedGenerator(values["in__s"].shape[1], values["in__t"].shape[1])
    prefix = "w__mgd/"
    generator.load_state_dict(
        {k.removeprefix(prefix): torch.tensor(v) for k, v in values.items() if k.startswith(prefix)}
    )
    objective.generator = generator.to(dtype)
    drawn = torch.tensor(values["in__u"])

    def rand(shape, *, device):
        assert shape == drawn.shape, "one number per image and channel of the teacher"
        return drawn.to(device)

    monkeypatch.setattr(torch, "rand", rand)
    student = leaf(values["in__s"]).to(dtype).detach().requires_grad_()
    logits = torch.zeros(len(student), 5)
    teacher = torch.tensor(values["in__t"], dtype=dtype)
    return objective, ModelOutput(logits, {"stage3": student}), ModelOutput(logits, {"stage3": teacher})


@pytest.mark.parametrize("case", CASES)
def test_the_official_code_agrees(golden, case, monkeypatch):
    values = golden(f"kd_modern/mgd__{case}")
    objective, student, teacher = official_objective(values, CASES[case], torch.float64, monkeypatch)
    loss = objective(student, teacher, toy_batch())
    (WEIGHT * loss).backward()
    np.testing.assert_allclose(loss.item(), values["out__loss_raw"], rtol=1e-6)
    np.testing.assert_allclose(WEIGHT * loss.item(), values["out__loss"], rtol=1e-6)
    assert_modern_gradient(student["stage3"], values, "s")
    for name, parameter in objective.generator.named_parameters():
        assert_modern_gradient(parameter, values, f"w0/{name}")


@pytest.mark.parametrize("case", CASES)
def test_the_official_code_agrees_in_single_precision(golden, case, monkeypatch):
    values = golden(f"kd_modern/mgd__{case}")
    objective, student, teacher = official_objective(values, CASES[case], torch.float32, monkeypatch)
    loss = objective(student, teacher, toy_batch())
    np.testing.assert_allclose(loss.item(), values["out__loss_raw_f32"], rtol=2e-5)


def test_one_number_by_hand():
    """Two images, differences (3, 4) and (0, 1): (25 + 1) / 2."""
    generated = torch.tensor([[3.0, 4.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    assert generation_loss(generated, torch.zeros(2, 2, 1, 1)).item() == 13.0


@pytest.mark.parametrize("unit", ["channel", "position"])
def test_a_mask_hides_as_much_as_it_should(unit):
    maps = torch.ones(100, 100, 10, 10)
    mask = random_mask(maps, 0.15, unit)
    shape = (100, 100, 1, 1) if unit == "channel" else (100, 1, 10, 10)
    assert mask.shape == shape
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.mean().item() == pytest.approx(0.85, abs=0.015)  # four standard deviations of 10 000 draws


def test_nothing_is_hidden_at_probability_zero():
    assert random_mask(torch.ones(64, 64, 1, 1), 0.0).all()


@pytest.mark.parametrize("unit", ["channel", "position"])
def test_what_is_hidden_gets_no_gradient(unit):
    """And what is not hidden gets one."""
    generator = MaskedGenerator(6, 6)
    student = torch.randn(4, 6, 5, 5, requires_grad=True)
    torch.manual_seed(3)
    mask = random_mask(student, 0.5, unit).expand(4, 6, 5, 5) > 0
    torch.manual_seed(3)
    generation_loss(generator(student, 0.5, unit), torch.randn(4, 6, 5, 5)).backward()
    assert 0 < mask.sum() < mask.numel()
    assert (student.grad[~mask] == 0).all()
    assert (student.grad[mask] != 0).all()


def test_the_seed_decides_on_the_mask():
    pair, batch = toy_pair(), toy_batch()
    objective = MGD(pair, masked=0.5)
    outputs = toy_outputs(pair, batch, student_features=("stage3",), teacher_features=("stage3",))
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(objective(*outputs, batch).item())
    assert losses[0] == losses[1] != losses[2]


def test_each_network_gives_its_last_stage_and_the_larger_map_is_averaged():
    """A teacher of four stages and 4×4 cells, a student of 2×2."""
    objective = MGD(benchmark_pair("resnet50", "mobilenetv2_half"))
    assert (objective.student_features, objective.teacher_features) == (("stage4",), ("stage4",))
    assert objective.generator.align.in_channels == 160
    objective = MGD(toy_pair(), student_feature="stage3", teacher_feature="stage2")
    logits, batch = torch.zeros(8, 5), toy_batch()
    student = ModelOutput(logits, {"stage3": torch.randn(8, 64, 4, 4)})
    fine = torch.randn(8, 32, 8, 8)
    coarse = torch.nn.functional.avg_pool2d(fine, 2)
    losses = []
    for teacher in (fine, coarse):
        torch.manual_seed(0)
        losses.append(objective(student, ModelOutput(logits, {"stage2": teacher}), batch))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize(
    ("teacher", "student", "count"),
    [
        ("resnet56", "resnet20", 2 * (9 * 64 * 64 + 64)),
        ("resnet32x4", "shufflenetv1", 960 * 256 + 256 + 2 * (9 * 256 * 256 + 256)),
    ],
)
def test_it_trains_a_generator_and_an_alignment_where_widths_differ(teacher, student, count):
    assert parameters(MGD(benchmark_pair(teacher, student))) == count


@pytest.mark.parametrize("masked", [-0.1, 1.0, float("nan")])
def test_a_mask_that_hides_everything_or_less_than_nothing_is_refused(masked):
    with pytest.raises(ValueError, match=f"masked is a probability, at least 0 and below 1, got {masked}"):
        MGD(toy_pair(), masked=masked)


def test_features_that_do_not_fit_are_refused(unchecked):
    pair = toy_pair()
    with pytest.raises(ValueError, match=r"teacher feature 'pooled' has shape \(64,\)"):
        MGD(pair, teacher_feature="pooled")
    with pytest.raises(FeatureNotFound, match="student resnet8 has no feature 'stage9'"):
        MGD(pair, student_feature="stage9")
    with pytest.raises(FeatureNotFound, match=r"no feature 'stage1' to .* It offers: stem, pooled"):
        last_stage({"stem": torch.Size((3, 4, 4)), "pooled": torch.Size((3,))})
    with pytest.raises(ValueError, match=r"shape \(1, 2, 4, 4\), the teacher's \(1, 3, 4, 4\); build"):
        generation_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))
    alone = type(pair)(pair.student, None, pair.student_shapes, {}, pair.train_labels, 8)
    with pytest.raises(ValueError, match="MGD compares the student with a teacher, and this run has none"):
        MGD(alone)
