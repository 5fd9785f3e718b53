"""GKD against official values, by hand, and beside the other methods that compare a batch with itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.objectives.reference import leaf
from topokd_lib.errors import FeatureNotFound
from topokd_lib.objectives import GKD, angle_cosines, graph_loss, kd_loss, relational_loss, similarity_graphs
from topokd_lib.outputs import ModelOutput
from topokd_lib.testing import toy_batch, toy_pair
from topokd_lib.topology import cosine_graph, nearest_neighbours, normalised_adjacency, spectral_distance

CASES = (
    *("full_p1_B16", "full_p2_B24", "k5_p1_B32", "k8_p2_B32", "intra_p1_B32", "intra_k4_p2_B32"),
    *("pool3_p1_B48", "hkd_gkd_B16"),
)
EVERY_EDGE = 128
"""The official code's word for no selection of neighbours."""


def case_of(values, name):
    """Inputs and results of one run of the official training step, and our options for it."""
    case = {k.removeprefix(f"{name}/"): v for k, v in values.items() if k.startswith(f"{name}/")}
    _, k, power, intra, inter, last = case["cfg"].tolist()
    edges = "same-class" if intra else "other-class" if inter else "all"
    options = {"neighbours": None if k == EVERY_EDGE else k, "edges": edges, "power": power}
    return case, options, (2,) if last else (0, 1, 2)


@pytest.mark.parametrize("name", CASES)
def test_the_official_loss_and_gradients(golden, name):
    case, options, blocks = case_of(golden("gkd/gkd_cases"), name)
    weight, soft_weight, temperature, _ = case["lam"].tolist()
    labels = torch.tensor(case["labels"])
    logits = leaf(case["student_logits"])
    students = {i: leaf(case[f"s{i}"]) for i in blocks}
    teachers = {i: leaf(case[f"t{i}"]) for i in blocks}
    losses = {i: graph_loss(students[i], teachers[i], labels, **options) for i in blocks}
    term = weight * torch.stack(list(losses.values())).mean()
    soft = kd_loss(logits, leaf(case["teacher_logits"]), temperature) / temperature**2  # no τ² there
    total = F.cross_entropy(logits, labels) + soft_weight * soft + term
    total.backward()
    for i, loss in losses.items():
        np.testing.assert_allclose(loss.item(), case[f"layer_loss{i}"], rtol=1e-5)
        np.testing.assert_allclose(students[i].grad.norm(), case[f"gradnorm_s{i}"], rtol=1e-5)
        scale = np.abs(case[f"grad_s{i}"]).max()
        np.testing.assert_allclose(students[i].grad, case[f"grad_s{i}"], rtol=1e-4, atol=1e-5 * scale)
        assert teachers[i].grad is None
    np.testing.assert_allclose(term.item(), case["gkd_term"], rtol=1e-5)
    np.testing.assert_allclose(total.item(), case["total_loss"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, case["grad_logits"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_the_official_graphs(golden, name):
    case, options, blocks = case_of(golden("gkd/gkd_cases"), name)
    labels = torch.tensor(case["labels"])
    for i in blocks:
        features = leaf(case[f"s{i}"]), leaf(case[f"t{i}"])
        before_power = similarity_graphs(*features, labels, **{**options, "power": 1})
        graphs = similarity_graphs(*features, labels, **options)
        for role, plain, graph in zip("st", before_power, graphs, strict=True):
            np.testing.assert_allclose(plain.detach(), case[f"adj_{role}{i}"], atol=1e-7)
            if options["power"] > 1:
                np.testing.assert_allclose(graph.detach(), case[f"adjp_{role}{i}"], atol=1e-7)
        if options["neighbours"] is not None and options["edges"] == "all":
            full = normalised_adjacency(cosine_graph(torch.tensor(case[f"t{i}"]).flatten(1)))
            found = nearest_neighbours(full, options["neighbours"])
            assert np.array_equal(found.numpy(), case[f"mask{i}"].astype(bool))


def test_the_distance_term_of_the_official_code_is_that_of_rkd(golden):
    """It averages over pairs of different images where RKD averages over all, and adds up over blocks."""
    case, _, blocks = case_of(golden("gkd/gkd_cases"), "rkd_B16")
    weight, pairs = case["lam"][3], 16 / 15
    labels, logits = torch.tensor(case["labels"]), leaf(case["student_logits"])
    students = [leaf(case[f"s{i}"]) for i in blocks]
    distances = [
        relational_loss(student.flatten(1), leaf(case[f"t{i}"]).flatten(1), pairs, 0.0)
        for i, student in zip(blocks, students, strict=True)
    ]
    total = F.cross_entropy(logits, labels) + weight * torch.stack(distances).mean()
    total.backward()
    np.testing.assert_allclose(total.item(), case["total_loss"], rtol=1e-5)
    for i, student in zip(blocks, students, strict=True):
        np.testing.assert_allclose(student.grad.norm(), case[f"gradnorm_s{i}"], rtol=1e-5)


# ------------------------------------------------------------------------------------ beside other relations


def points(seed, count=7, dim=3):
    return torch.rand(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 10**6))
def test_edges_are_rkds_angles_at_the_origin(seed):
    """With the origin as one more image, RKD's angles there are the weights of the graph."""
    cloud = points(seed)
    seen = angle_cosines(torch.cat([torch.zeros(1, 3, dtype=torch.float64), cloud]))[0, 1:, 1:]
    torch.testing.assert_close(seen.fill_diagonal_(0), cosine_graph(cloud))


@given(seed=st.integers(0, 10**6), factor=st.floats(0.05, 0.95))
def test_cosines_that_are_all_smaller_by_one_factor_cost_nothing(seed, factor):
    """A direction that all images share, or that each has alone, is invisible to GKD and not to RKD."""
    teacher = F.normalize(points(seed), dim=1)
    alone = torch.eye(7, dtype=torch.float64)
    student = torch.cat([factor**0.5 * teacher, (1 - factor) ** 0.5 * alone], dim=1)
    torch.testing.assert_close(cosine_graph(student), factor * cosine_graph(teacher))
    assert graph_loss(student, teacher).item() < 1e-20
    assert relational_loss(student, teacher, 1.0, 0.0).item() > 1e-8


@given(seed=st.integers(0, 10**6))
def test_both_vanish_for_rotated_directions_and_only_gkd_for_other_lengths(seed):
    teacher = F.normalize(points(seed), dim=1)
    rotation, _ = torch.linalg.qr(points(seed + 1, 3, 3))
    student = teacher @ rotation
    assert graph_loss(student, teacher).item() < 1e-20
    assert relational_loss(student, teacher).item() < 1e-12
    lengths = torch.linspace(1, 2, 7, dtype=torch.float64)[:, None]
    assert graph_loss(student * lengths, teacher).item() < 1e-20
    assert relational_loss(student * lengths, teacher).item() > 1e-6


@given(seed=st.integers(0, 10**6))
def test_a_shift_costs_nothing_in_rkd_and_something_here(seed):
    teacher = points(seed)
    student = teacher + 0.5
    assert relational_loss(student, teacher).item() < 1e-12
    assert graph_loss(student, teacher).item() > 1e-8


@given(seed=st.integers(0, 10**6))
def test_the_loss_bounds_the_distance_of_spectra(seed):
    student, teacher = points(seed), points(seed + 1)
    distance = spectral_distance(cosine_graph(student), cosine_graph(teacher))
    assert distance**2 <= graph_loss(student, teacher) + 1e-12


# -------------------------------------------------------------------------------------------------- by hand


def test_three_images_by_hand():
    """Teacher: one edge of weight 1. Student: two of 1/√2 after normalisation. Four entries and two."""
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert graph_loss(student, teacher).item() == pytest.approx(2 * 1 + 4 * 0.5, rel=1e-6)
    assert graph_loss(student, teacher, reduction="mean").item() == pytest.approx(4 / 9, rel=1e-6)


def test_a_neighbour_that_only_the_student_has_costs_nothing():
    teacher = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]], dtype=torch.float64)
    student = torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    seen, _ = similarity_graphs(student, teacher, neighbours=1)
    assert torch.equal(seen > 0, torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).fill_diagonal_(0) > 0)


def test_edges_within_and_between_classes_are_all_edges():
    student, teacher, labels = points(0), points(1), torch.tensor([0, 0, 1, 1, 2, 2, 2])
    parts = [graph_loss(student, teacher, labels, edges=e) for e in ("same-class", "other-class")]
    assert sum(parts).item() == pytest.approx(graph_loss(student, teacher).item())
    assert min(parts) > 0


def test_high_powers_of_the_full_graph_know_only_degrees():
    cloud = points(0)
    degrees = cosine_graph(cloud).sum(dim=1)
    limit = torch.outer(degrees.sqrt(), degrees.sqrt()) / degrees.sum()
    errors = [(similarity_graphs(cloud, cloud, power=p)[0] - limit).norm().item() for p in (1, 2, 8)]
    assert errors[0] > 2 * errors[1] > 2e4 * errors[2]


def test_an_image_that_is_similar_to_none_is_finite():
    student = torch.rand(4, 3)
    student[2] = 0
    student.requires_grad_()
    loss = graph_loss(student, torch.rand(4, 5))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_blocks_are_those_of_the_official_code_and_are_averaged():
    objective = GKD(toy_pair())
    assert objective.student_features == objective.teacher_features == ("stage1", "stage2", "pooled")
    batch = toy_batch()
    said = [ModelOutput(torch.zeros(8, 5), {n: torch.rand(8, 4) for n in objective.student_features})
            for _ in range(2)]  # fmt: skip
    expected = [graph_loss(said[0][name], said[1][name]) for name in objective.student_features]
    torch.testing.assert_close(objective(*said, batch), torch.stack(expected).mean())


def test_options_reach_the_loss():
    options = {"neighbours": 2, "edges": "same-class", "power": 2, "reduction": "mean"}
    objective = GKD(toy_pair(), student_features=("pooled",), **options)
    batch = toy_batch()
    said = [ModelOutput(torch.zeros(8, 5), {"pooled": torch.rand(8, 4)}) for _ in range(2)]
    expected = graph_loss(said[0]["pooled"], said[1]["pooled"], batch.labels, **options)
    torch.testing.assert_close(objective(*said, batch), expected)


class TestErrors:
    def test_a_batch_of_one(self):
        message = "GKD compares the images of a batch with each other and needs at least 2, got 1"
        with pytest.raises(ValueError, match=message):
            GKD(toy_pair(batch_size=1))
        with pytest.raises(ValueError, match=message):
            graph_loss(torch.ones(1, 3), torch.ones(1, 3))

    def test_an_unknown_feature(self):
        with pytest.raises(FeatureNotFound, match=r"student resnet8 has no feature 'stage9'\. Did you mean"):
            GKD(toy_pair(), student_features=("stage9",))

    def test_blocks_that_do_not_pair_up(self):
        with pytest.raises(ValueError, match=r"got 1 of the student \(pooled\) and 2 of the teacher"):
            GKD(toy_pair(), student_features=("pooled",), teacher_features=("stage1", "pooled"))

    def test_labels_that_are_needed(self):
        with pytest.raises(ValueError, match="edges='same-class' has to know the labels"):
            graph_loss(torch.rand(3, 2), torch.rand(3, 2), edges="same-class")

    @pytest.mark.parametrize("neighbours", [0, 8])
    def test_neighbours_that_are_not_there(self, neighbours):
        with pytest.raises(ValueError, match=f"has 7 others in its batch .* got neighbours={neighbours}"):
            GKD(toy_pair(), neighbours=neighbours)

    def test_a_power_below_one(self):
        with pytest.raises(ValueError, match="a power of at least 1, got power=0"):
            GKD(toy_pair(), power=0)

    @pytest.mark.parametrize(("option", "value"), [("edges", "intra"), ("reduction", "max")])
    def test_a_word_that_is_not_known(self, option, value, unchecked):
        with pytest.raises(ValueError, match=f"{option} is one of .*, got '{value}'"):
            GKD(toy_pair(), **{option: value})
