"""TopKD against its official code, against exact persistence, and with input that does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch, CheckpointError, FeatureNotFound
from topokd_lib.models import CifarResNet, Teacher, create_model
from topokd_lib.objectives import KD, CrossEntropy, TopKD, WeightedSum, feature_cloud, topology_loss
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair, toy_ripsnet
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact, h0_deaths


def published_ripsnet(values) -> RipsNet:
    units = [int(u) for u in values["meta/units"]]
    pooling = str(values["meta/pooling"])
    network = RipsNet(values["layer1.weight"].shape[1], 400, pooling=pooling)
    with torch.no_grad():
        for number, layer in enumerate([*network.point_layers, *network.image_layers], start=1):
            layer.weight.copy_(torch.tensor(values[f"layer{number}.weight"]))
            if number <= 3:
                layer.bias.copy_(torch.tensor(values[f"layer{number}.bias"]))
    assert units[-1] == 400
    return network


def artefact_for(pair: Pair, network: RipsNet) -> RipsNetArtefact:
    image = PersistenceImage(
        birth_range=(0.0, 0.0), persistence_range=(0.0, 4.0), bandwidth=0.3, weight="topkd"
    )
    teacher = pair.require_teacher("test")
    return RipsNetArtefact(
        network=network,
        image=image,
        dimension=0,
        teacher=teacher.name,
        teacher_fingerprint=teacher.fingerprint(),
        feature="pooled",
        cloud_size=pair.batch_size,
        report={},
        provenance={},
    )


@pytest.mark.parametrize("which", ["train_step_A", "train_step_conv_A"])
def test_one_step_of_the_official_training(golden, which):
    """Total loss, every term and every gradient norm of the official ``train_distill``, with connector."""
    step = golden(f"topkd/{which}")
    weights = golden("topkd/resnet20_topkd_student_weights")
    teacher = create_model("resnet20", num_classes=100)
    teacher.load_state_dict({key: torch.tensor(np.asarray(weights[key])) for key in teacher.state_dict()})
    width = step["grad_fc"].shape[1]
    student = CifarResNet(8, widths=(16, 16, 32, width), num_classes=100)
    student.load_state_dict(
        {key: torch.tensor(np.asarray(step[f"student0/{key}"])) for key in student.state_dict()}
    )
    images, labels = torch.tensor(step["x"]), torch.tensor(step["labels"]).long()
    pair = Pair.measure(
        student,
        Teacher(teacher),
        image_shape=(3, 32, 32),
        train_labels=torch.arange(100),
        batch_size=len(labels),
    )
    topkd = TopKD(
        pair, artefact=artefact_for(pair, published_ripsnet(golden("topkd/ripsnet_resnet56_mean_weights")))
    )
    if width != 64:
        with torch.no_grad():
            topkd.connector.weight.copy_(torch.tensor(step["conv0/weight"])[:, :, 0, 0])
            topkd.connector.bias.copy_(torch.tensor(step["conv0/bias"]))
    objective = WeightedSum(
        {"ce": CrossEntropy(pair), "kd": KD(pair, temperature=float(step["kd_T"])), "top": topkd},
        {"ce": float(step["gamma_ce"]), "kd": float(step["alpha_kd"]), "top": float(step["delta_top"])},
    )
    batch = Batch(images, labels, torch.arange(len(labels)))
    loss = objective(
        student.train().extract(images, objective.student_features),
        pair.teacher(batch, objective.teacher_features),
        batch,
    )
    loss.backward()
    np.testing.assert_allclose(loss.item(), step["loss_total"], rtol=1e-5)
    for term in ("ce", "kd", "top"):
        np.testing.assert_allclose(objective.values[term].item(), step[f"loss_{term}"], rtol=1e-5)
    norms = dict(zip((str(name) for name in step["grad_names"]), step["grad_norms"], strict=True))
    found = {name: p.grad.norm().item() for name, p in student.named_parameters()}
    if width != 64:
        found["conv.weight"] = topkd.connector.weight.grad.norm().item()
        found["conv.bias"] = topkd.connector.bias.grad.norm().item()
    assert set(found) == set(norms)
    for name, norm in norms.items():
        np.testing.assert_allclose(found[name], norm, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        student.fc.weight.grad, step["grad_fc"], rtol=1e-4, atol=1e-6 * np.abs(step["grad_fc"]).max()
    )


def test_exact_images_come_from_minimum_spanning_trees():
    """By hand: three student points on a line, 1 and 2 apart; the teacher's 1 and 1."""
    pair = toy_pair()
    objective = TopKD(pair, artefact=toy_ripsnet(pair), image="exact")
    student, teacher = torch.zeros(3, 64), torch.zeros(3, 64)
    student[:, 0] = torch.tensor([0.0, 1.0, 3.0])
    teacher[:, 0] = torch.tensor([0.0, 1.0, 2.0])
    rows = torch.linspace(0, 3, 6)

    def profile(deaths):
        bumps = [10 * np.tanh(d) * torch.exp(-((rows - d) ** 2) / 0.18) / (2 * np.pi * 0.09) for d in deaths]
        return torch.stack(bumps).sum(0)

    expected = ((profile([1, 2]) - profile([1, 1])) ** 2).mean()
    found = topology_loss(objective.images(student[None]), objective.images(teacher[None]))
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("image", ["ripsnet", "exact"])
def test_equal_clouds_cost_nothing(image):
    pair = toy_pair(teacher="resnet8")
    objective = TopKD(pair, artefact=toy_ripsnet(pair), image=image)
    batch = toy_batch()
    student, teacher = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
    student.features["pooled"] = teacher["pooled"]
    assert objective(student, teacher, batch).item() == 0


def test_exact_topology_forgets_position_and_ripsnet_does_not():
    """Rotating and shifting a cloud changes no distance; the estimate of RipsNet changes all the same."""
    pair = toy_pair()
    generator = torch.Generator().manual_seed(3)
    cloud = torch.randn(1, 32, 64, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(64, 64, generator=generator))
    moved = cloud @ rotation + 2.0
    exact = TopKD(pair, artefact=toy_ripsnet(pair), image="exact")
    torch.testing.assert_close(exact.images(moved), exact.images(cloud), rtol=1e-3, atol=1e-4)
    estimated = TopKD(pair, artefact=toy_ripsnet(pair))
    assert (estimated.images(moved) - estimated.images(cloud)).abs().max() > 1e-3


def test_descending_the_exact_loss_brings_the_deaths_together():
    pair = toy_pair()
    artefact = toy_ripsnet(pair)
    artefact = replace(artefact, image=replace(artefact.image, persistence_range=(0.0, 12.0), bandwidth=1.0))
    objective = TopKD(pair, artefact=artefact, image="exact")
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 24, 64, generator=generator)
    student = (0.8 * torch.randn(1, 24, 64, generator=generator)).requires_grad_()
    target = objective.images(teacher)
    before = (h0_deaths(student) - h0_deaths(teacher)).abs().mean().item()
    optimiser = torch.optim.Adam([student], lr=0.02)
    for _ in range(100):
        optimiser.zero_grad()
        topology_loss(objective.images(student), target).backward()
        optimiser.step()
    after = (h0_deaths(student) - h0_deaths(teacher)).abs().mean().item()
    assert after < 0.3 * before


def test_feature_maps_are_averaged():
    maps = torch.arange(24.0).reshape(2, 3, 2, 2)
    torch.testing.assert_close(feature_cloud(maps)[0], maps.mean((2, 3)))
    with pytest.raises(
        ValueError, match=r"one vector or one map per image, got a feature of shape \(2, 3, 4\)"
    ):
        feature_cloud(torch.zeros(2, 3, 4))


def test_the_artefact_passed_in_is_not_changed():
    pair = toy_pair()
    artefact = toy_ripsnet(pair)
    TopKD(pair, artefact=artefact)
    assert all(p.requires_grad for p in artefact.network.parameters())


def test_a_connector_is_added_only_where_widths_differ():
    narrow = toy_pair()
    assert not list(TopKD(narrow, artefact=toy_ripsnet(narrow)).connector.parameters())
    wide = toy_pair(teacher="resnet8x4")
    connector = TopKD(wide, artefact=toy_ripsnet(wide)).connector
    assert connector.weight.shape == (256, 64)
    with pytest.raises(ValueError, match="student 'pooled' has 64 channels, teacher 'pooled' has 256"):
        TopKD(wide, artefact=toy_ripsnet(wide), connector="none")


class TestArtefactsThatDoNotFit:
    def test_another_teacher(self):
        artefact = toy_ripsnet(toy_pair(teacher="resnet20"))
        with pytest.raises(
            ArtefactMismatch, match=r"made for resnet20, used with resnet14.*topokd prepare ripsnet"
        ):
            TopKD(toy_pair(), artefact=artefact)

    def test_the_same_architecture_with_other_weights(self):
        artefact = toy_ripsnet(toy_pair())
        pair = toy_pair()
        with torch.no_grad():
            pair.teacher.model.fc.bias += 1
        with pytest.raises(ArtefactMismatch, match="fingerprint: made for"):
            TopKD(pair, artefact=artefact)

    def test_another_cloud_size(self):
        pair = toy_pair()
        with pytest.raises(ArtefactMismatch, match=r"clouds of 32 points, and a minibatch of this run has 8"):
            TopKD(pair, artefact=replace(toy_ripsnet(pair), cloud_size=32))

    def test_a_feature_that_does_not_exist(self):
        pair = toy_pair()
        with pytest.raises(
            FeatureNotFound, match=r"student resnet8 has no feature 'stage4'. Did you mean 'stage"
        ):
            TopKD(pair, artefact=toy_ripsnet(pair), student_feature="stage4")
        with pytest.raises(
            FeatureNotFound, match=r"teacher resnet14 has no feature 'pool'. Did you mean 'pooled'"
        ):
            TopKD(pair, artefact=replace(toy_ripsnet(pair), feature="pool"), student_feature="pooled")

    def test_a_file_that_is_no_artefact(self, tmp_path):
        path = tmp_path / "ripsnet.safetensors"
        with pytest.raises(CheckpointError, match=r"ripsnet\.safetensors"):
            TopKD(toy_pair(), artefact=path)
        path.write_bytes(b"not a network")
        with pytest.raises(CheckpointError, match=r"ripsnet\.safetensors"):
            TopKD(toy_pair(), artefact=path)


def test_the_loss_sees_topology_in_another_stage():
    pair = toy_pair()
    objective = TopKD(pair, artefact=toy_ripsnet(pair, "stage2"))
    assert objective.student_features == objective.teacher_features == ("stage2",)


def test_the_published_normalisation_is_the_mean_over_pixels():
    ones, zeros = torch.ones(1, 400), torch.zeros(1, 400)
    assert topology_loss(ones, zeros).item() == 1.0
    assert F.mse_loss(ones, zeros).item() == 1.0
