"""SemCKD: official values, attention that can be checked by hand, and what hangs on the size of the batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.objectives.reference import (
    CROSS_STYLE,
    SAME_STYLE,
    assert_modern_gradient,
    benchmark_pair,
    leaf,
    parameters,
)
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import SemCKD, calibrated_loss, layer_attention
from topokd_lib.outputs import ModelOutput
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair


def official(values):
    """The objective with official weights, the outputs, and official names of trained parameters."""
    maps = {role: [values[f"in__{role}{k}"] for k in range(4) if f"in__{role}{k}" in values] for role in "st"}
    named = {role: {f"stage{k}": x for k, x in enumerate(arrays, 1)} for role, arrays in maps.items()}
    shapes = {
        role: {n: torch.Size(x.shape[1:]) for n, x in features.items()} for role, features in named.items()
    }
    batch_size = len(maps["s"][0])
    pair = replace(toy_pair(), student_shapes=shapes["s"], teacher_shapes=shapes["t"], batch_size=batch_size)
    objective = SemCKD(pair)
    modules = {f"query_weight{i}.": m for i, m in enumerate(objective.queries)}
    modules |= {f"key_weight{j}.": m for j, m in enumerate(objective.keys)}
    columns = len(maps["t"])
    modules |= {
        f"regressor{k // columns}{k % columns}.regressor.": m for k, m in enumerate(objective.regressors)
    }
    places = {"linear1.": "0.", "linear2.": "2."}
    trained = {}
    for prefix, module in modules.items():
        state = {}
        for key in (k for k in values if k.startswith(f"w__selfa/{prefix}")):
            name = key.removeprefix(f"w__selfa/{prefix}")
            for old, new in places.items():
                name = name.replace(old, new)
            state[name] = torch.tensor(values[key])
            trained[key.removeprefix("w__selfa/")] = (module, name)
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
    objective.double()
    logits = torch.zeros(batch_size, 2, dtype=torch.float64)
    student = ModelOutput(logits, {name: leaf(x) for name, x in named["s"].items()})
    teacher = ModelOutput(logits, {name: leaf(x) for name, x in named["t"].items()})
    return objective, student, teacher, trained


@pytest.mark.parametrize("case", ["a_small", "b_cross_size"])
def test_official_code_agrees(golden, case):
    """Also where the networks have different numbers of stages, and maps meet only after pooling."""
    values = golden(f"kd_modern/semckd__{case}")
    objective, student, teacher, trained = official(values)
    np.testing.assert_allclose(
        objective.attention(student, teacher).detach(), values["out__attention"], rtol=1e-6
    )
    loss = objective(student, teacher, toy_batch())
    loss.backward()
    np.testing.assert_allclose(loss.item(), values["out__loss"], rtol=1e-6)
    for k, feature in enumerate(student.features.values()):
        assert_modern_gradient(feature, values, f"s{k}")
    assert all(feature.grad is None for feature in teacher.features.values())
    compared = [key.removeprefix("gnorm__w0/") for key in values if key.startswith("gnorm__w0/")]
    assert {key.split(".")[0].rstrip("0123456789") for key in compared} >= {"key_weight"}
    for key in compared:
        module, name = trained[key]
        assert_modern_gradient(module.get_parameter(name), values, f"w0/{key}")


@pytest.mark.parametrize("case", ["a_small", "b_cross_size"])
def test_official_code_agrees_in_float32(golden, case):
    values = golden(f"kd_modern/semckd__{case}")
    objective, student, teacher, _ = official(values)
    loss = objective.float()(student.float(), teacher.float(), toy_batch())
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss.item(), values["out__loss_f32"], rtol=2e-5)


def test_attention_by_hand():
    """One query along the first key, one against it: e² to 1, and 1 to e²."""
    key = torch.tensor([1.0, 0.0])
    keys, queries = torch.stack([key, -key])[None], torch.stack([key, -key])[None]
    weight = np.exp(2) / (1 + np.exp(2))
    expected = torch.tensor([[[weight, 1 - weight], [1 - weight, weight]]]).float()
    torch.testing.assert_close(layer_attention(queries, keys), expected)


def test_one_loss_by_hand():
    """Rows 0.5·2 + 0.5·4 = 3 and 1·7 + 0·9 = 7; their mean."""
    distances = torch.tensor([[[2.0, 4.0], [7.0, 9.0]]])
    attention = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    assert calibrated_loss(distances, attention).item() == 5.0


@given(seed=st.integers(0, 10**6), students=st.integers(1, 4), teachers=st.integers(1, 4))
def test_attention_averages_over_the_teacher(seed, students, teachers):
    """Weights are a distribution, so equal distances come out as they are, and others between extremes."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(3, students, 5, generator=generator, dtype=torch.float64)
    keys = torch.randn(3, teachers, 5, generator=generator, dtype=torch.float64)
    attention = layer_attention(queries, keys)
    assert attention.min() >= 0
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, students, dtype=torch.float64))
    distances = torch.rand(3, students, teachers, generator=generator, dtype=torch.float64)
    loss = calibrated_loss(distances, attention)
    assert distances.min() - 1e-12 <= loss <= distances.max() + 1e-12
    assert calibrated_loss(torch.full_like(distances, 2.5), attention).item() == pytest.approx(2.5)


def outputs(objective: SemCKD, pair: Pair):
    names = {"student_features": objective.student_features, "teacher_features": objective.teacher_features}
    return toy_outputs(pair, toy_batch(), **names)


def test_a_query_without_direction_attends_to_all_layers_equally():
    """Official code divides by the zero length and returns NaN."""
    pair = toy_pair()
    objective = SemCKD(pair)
    for query in objective.queries:
        torch.nn.init.zeros_(query[2].weight)
        torch.nn.init.zeros_(query[2].bias)
    student, teacher = outputs(objective, pair)
    torch.testing.assert_close(objective.attention(student, teacher), torch.full((8, 3, 3), 1 / 3))
    loss = objective(student, teacher, toy_batch())
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(feature.grad).all() for feature in student.features.values())


def test_attention_is_trained_with_the_student():
    """Nothing keeps it in place: what is far off is listened to less."""
    pair = toy_pair()
    objective = SemCKD(pair)
    student, teacher = outputs(objective, pair)
    objective(student, teacher, toy_batch()).backward()
    for network in (*objective.queries, *objective.keys):
        assert network[2].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("batch_size", "dim"), [(4, 1), (8, 2), (64, 16), (66, 16)])
def test_parameters_depend_on_the_batch_size(batch_size, dim):
    objective = SemCKD(toy_pair(batch_size=batch_size))
    for network in (*objective.queries, *objective.keys):
        assert (network[0].in_features, network[0].out_features, network[2].out_features) == (
            batch_size, 2 * dim, dim,
        )  # fmt: skip


@pytest.mark.parametrize("names", [*SAME_STYLE, *CROSS_STYLE], ids="-".join)
def test_every_stage_of_one_meets_every_stage_of_the_other(names):
    """Embeddings of 64 → 32 → 16, and regressors as wide as twice the teacher; without memory for them."""
    pair = benchmark_pair(*names)
    with torch.device("meta"):
        objective = SemCKD(pair)
        student, teacher = (
            ModelOutput(torch.zeros(64, 100), {name: torch.zeros(64, *shapes[name]) for name in wanted})
            for shapes, wanted in (
                (pair.student_shapes, objective.student_features),
                (pair.teacher_shapes, objective.teacher_features),
            )
        )
    stages = [n for n in pair.student_shapes if n.startswith("stage") and "." not in n]
    assert objective.student_features == objective.teacher_features == tuple(stages)
    assert objective.attention(student, teacher).shape == (64, len(stages), len(stages))
    assert objective(student, teacher, toy_batch()).shape == ()
    embeddings = 2 * len(stages) * (64 * 32 + 32 + 32 * 16 + 16)
    regressors = 0
    for s in stages:
        for t in stages:
            wide, narrow = pair.teacher_shapes[t][0], pair.student_shapes[s][0]
            regressors += narrow * 2 * wide + 9 * (2 * wide) ** 2 + 2 * wide * wide + 8 * wide
    assert parameters(objective) == embeddings + regressors


def test_layers_can_be_chosen():
    pair = toy_pair()
    objective = SemCKD(pair, student_features=("stage2",), teacher_features=("stage1", "stage3.preact"))
    student, teacher = outputs(objective, pair)
    assert objective.attention(student, teacher).shape == (8, 1, 2)
    assert torch.isfinite(objective(student, teacher, toy_batch()))


class TestErrors:
    @pytest.mark.parametrize("batch_size", [1, 3])
    def test_a_batch_that_is_too_small_to_embed(self, batch_size):
        message = f"SemCKD compares the images of a batch .* needs at least 4, got {batch_size}"
        with pytest.raises(ValueError, match=message):
            SemCKD(toy_pair(batch_size=batch_size))

    @pytest.mark.parametrize("size", [1, 7])
    def test_a_batch_of_another_size(self, size):
        pair = toy_pair()
        objective = SemCKD(pair)
        student, teacher = (
            ModelOutput(out.logits[:size], {name: x[:size] for name, x in out.features.items()})
            for out in outputs(objective, pair)
        )
        message = rf"made for batches of 8 images, got {size}; keep the batch size fixed"
        with pytest.raises(ValueError, match=message):
            objective(student, teacher, toy_batch(size))

    def test_no_teacher(self):
        with pytest.raises(ValueError, match="SemCKD compares the student with a teacher, and this run has"):
            SemCKD(replace(toy_pair(), teacher=None, teacher_shapes={}))

    @pytest.mark.parametrize("role", ["student", "teacher"])
    def test_no_maps(self, role):
        with pytest.raises(ValueError, match=f"there is none of the {role}; name at least one in {role}_"):
            SemCKD(toy_pair(), **{f"{role}_features": ()})

    def test_a_feature_that_is_not_a_map(self):
        with pytest.raises(ValueError, match="SemCKD compares feature maps, and student feature 'pooled'"):
            SemCKD(toy_pair(), student_features=("stage1", "pooled"))

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"teacher resnet14 has no feature 'stage7'\. Did you mean"):
            SemCKD(toy_pair(), teacher_features=("stage7",))
