"""TopKD against its official code, against exact persistence, and with input that does not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch, CheckpointError, FeatureNotFound
from topokd_lib.models import CifarResNet, Teacher, create_model
from topokd_lib.objectives import (
    KD,
    CrossEntropy,
    ExactImages,
    SortedDeaths,
    TopKD,
    WeightedSum,
    feature_cloud,
    make_connector,
    sorted_deaths_loss,
    topology_loss,
)
from topokd_lib.outputs import Batch
from topokd_lib.pair import Pair
from topokd_lib.testing import toy_batch, toy_outputs, toy_pair, toy_ripsnet
from topokd_lib.topology import PersistenceImage, RipsNet, RipsNetArtefact, h0_deaths, rips_diagrams


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


def official_step(golden, step, shift):
    """Losses, gradient norms and the classifier's gradient of one step, with one bias shifted."""
    weights = golden("topkd/resnet20_topkd_student_weights")
    teacher = create_model("resnet20", num_classes=100)
    teacher.load_state_dict({key: torch.tensor(np.asarray(weights[key])) for key in teacher.state_dict()})
    width = step["grad_fc"].shape[1]
    student = CifarResNet(8, widths=(16, 16, 32, width), num_classes=100)
    student.load_state_dict(
        {key: torch.tensor(np.asarray(step[f"student0/{key}"])) for key in student.state_dict()}
    )
    with torch.no_grad():
        student.layer1[0].bn1.bias += shift
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
    terms = {"total": loss.item()} | {name: objective.values[name].item() for name in ("ce", "kd", "top")}
    norms = {name: p.grad.norm().item() for name, p in student.named_parameters()}
    if width != 64:
        norms["conv.weight"] = topkd.connector.weight.grad.norm().item()
        norms["conv.bias"] = topkd.connector.bias.grad.norm().item()
    return terms, norms, student.fc.weight.grad


@pytest.mark.parametrize("which", ["train_step_A", "train_step_conv_A"])
def test_one_step_of_the_official_training(golden, which):
    """Total loss, every term and every gradient norm of the official ``train_distill``, with connector.

    In ``train_step_A`` one of the million inputs of the first block's ReLU is 2.2e-7 in float64. Roundings,
    which differ between processors, decide on which side of 0 it falls, and gradient norms below it jump by
    8e-4. So the official step is one of those on either side: with a bias moved by that much, or not.
    """
    step = golden(f"topkd/{which}")
    expected = dict(zip((str(name) for name in step["grad_names"]), step["grad_norms"], strict=True))

    def distance(candidate):
        return max(abs(candidate[1][name] / norm - 1) for name, norm in expected.items())

    terms, norms, of_classifier = min(
        (official_step(golden, step, shift) for shift in (0.0, -3e-7, 3e-7)), key=distance
    )
    for term, value in terms.items():
        np.testing.assert_allclose(value, step[f"loss_{term}"], rtol=1e-5)
    assert set(norms) == set(expected)
    for name, norm in expected.items():
        np.testing.assert_allclose(norms[name], norm, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(
        of_classifier, step["grad_fc"], rtol=1e-4, atol=1e-6 * np.abs(step["grad_fc"]).max()
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
    with pytest.raises(ValueError, match="the student's feature has 64 channels, the teacher's 256"):
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


def outputs(pair, seed=1, scale=1.0):
    """A batch and what both networks say of it, with the teacher's features ``scale`` times as large."""
    batch = toy_batch(seed=seed)
    student, teacher = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
    teacher.features["pooled"] = scale * teacher["pooled"]
    return student, teacher, batch


class TestWithoutPreparation:
    def test_conventions_are_those_of_the_first_clouds_of_the_teacher(self):
        pair = toy_pair()
        objective = TopKD(pair, image="exact", normalise="none", fit_clouds=2)
        taught = [outputs(pair, seed) for seed in (1, 2, 3)]
        clouds = torch.stack([teacher["pooled"] for _, teacher, _ in taught])
        for seen, (student, teacher, batch) in enumerate(taught, start=1):
            objective(student, teacher, batch)
            (diagrams,) = rips_diagrams(clouds[: min(seen, 2)])
            (found,) = objective.exact.conventions
            expected = PersistenceImage.fit(diagrams, weight="topkd")
            assert found.persistence_range == pytest.approx(expected.persistence_range)
            assert found.bandwidth == pytest.approx(expected.bandwidth)
            assert found.scale == pytest.approx(expected.scale, rel=1e-5)

    def test_a_run_that_goes_on_has_the_same_images(self):
        pair = toy_pair()
        first = TopKD(pair, image="exact", fit_clouds=2)
        for seed in (1, 2):
            first(*outputs(pair, seed))
        second = TopKD(pair, image="exact", fit_clouds=2)
        second(*outputs(pair, 7))  # of another teacher's batch, to be forgotten
        second.load_state_dict(first.state_dict())
        assert second.exact.conventions == first.exact.conventions
        second(*outputs(pair, 3))
        assert second.exact.conventions == first.exact.conventions

    def test_conventions_can_be_given(self):
        pair = toy_pair()
        image = PersistenceImage((0.0, 0.0), (0.0, 1.0), 0.1, resolution=(7, 1))
        objective = TopKD(pair, image="exact", conventions=(image,))
        objective(*outputs(pair))
        assert objective.exact.conventions == (image,)
        assert not objective.state_dict()
        assert objective.images(torch.randn(1, 8, 64)).shape == (1, 7)

    def test_two_dimensions_are_two_images(self):
        pair = toy_pair()
        wide = PersistenceImage((0.0, 2.0), (0.0, 2.0), 0.2, resolution=(4, 4))
        both = TopKD(pair, image="exact", dimensions=(0, 1), normalise="none", conventions=(wide, wide))
        angles = torch.arange(8) * torch.pi / 4
        circle = torch.zeros(1, 8, 64)
        circle[0, :, 0], circle[0, :, 1] = angles.cos(), angles.sin()
        images = both.images(circle)
        for part, dimension in zip(images.split(16, dim=1), (0, 1), strict=True):
            (diagrams,) = rips_diagrams(circle, dimensions=(dimension,))
            assert diagrams.counts.item() > 0
            torch.testing.assert_close(part, wide(diagrams).flatten(1))

    def test_size_is_forgotten_or_not(self):
        pair = toy_pair(teacher="resnet8")
        for normalise, forgets in (("mean", True), ("max", True), ("none", False)):
            objective = TopKD(pair, image="exact", normalise=normalise)
            student, teacher, batch = outputs(pair)
            student.features["pooled"] = teacher["pooled"].clone().requires_grad_()
            objective(student, teacher, batch)
            teacher.features["pooled"] = 3 * teacher["pooled"]
            assert (objective(student, teacher, batch).item() < 1e-8) == forgets

    def test_a_dimension_that_the_teacher_does_not_have_is_refused(self):
        pair = toy_pair()
        objective = TopKD(pair, image="exact", dimensions=(3,), fit_clouds=1)
        with pytest.raises(
            ValueError, match="first 1 clouds of the teacher have no two different bars of dim"
        ):
            objective(*outputs(pair))

    def test_no_connector_is_needed(self):
        wide = toy_pair(teacher="resnet8x4")
        objective = TopKD(wide, image="exact")
        assert not list(objective.parameters())
        assert objective(*outputs(wide)).isfinite()


class TestConstantTarget:
    @pytest.mark.parametrize("image", ["ripsnet", "exact"])
    def test_it_is_the_mean_of_the_teachers_images_so_far(self, image):
        pair = toy_pair()
        objective = TopKD(pair, artefact=toy_ripsnet(pair), image=image, target="constant")
        images = []
        for seed in (1, 2, 3):
            student, teacher, batch = outputs(pair, seed)
            loss = objective(student, teacher, batch)
            images.append(objective.images(teacher["pooled"][None]))
            mean = torch.stack(images).mean(dim=0)
            expected = topology_loss(objective.images(student["pooled"][None]), mean)
            torch.testing.assert_close(loss, expected)

    def test_it_hardly_knows_the_present_batch(self):
        """After many batches another batch of the teacher's changes the target, and the loss, little."""
        pair = toy_pair()
        losses = {}
        for target in ("batch", "constant"):
            objective = TopKD(pair, artefact=toy_ripsnet(pair), image="exact", target=target)
            for seed in range(100):
                objective(*outputs(pair, seed))
            student, _, batch = outputs(pair, 1)
            losses[target] = [objective(student, outputs(pair, seed)[1], batch).item() for seed in (201, 202)]
        change = {target: abs(one - other) for target, (one, other) in losses.items()}
        assert change["constant"] < 0.1 * change["batch"]

    def test_the_mean_begins_anew_when_conventions_change(self):
        pair = toy_pair()
        objective = TopKD(pair, image="exact", target="constant", fit_clouds=3)
        for seed in range(5):
            objective(*outputs(pair, seed))
        assert (
            objective.mean_target.count.item() == 3
        )  # the third cloud, which completed the fit, and two more

    def test_a_batch_of_another_size(self):
        pair = toy_pair()
        objective = SortedDeaths(pair, target="constant")
        batch = toy_batch(size=5)
        student, teacher = toy_outputs(pair, batch, student_features=["pooled"], teacher_features=["pooled"])
        with pytest.raises(ValueError, match=r"has 7 numbers, and this batch's has 4; all batches must have"):
            objective(student, teacher, batch)


class TestConnectors:
    def test_an_isometric_one_keeps_all_distances(self):
        wide = toy_pair(teacher="resnet8x4")
        connector = TopKD(wide, artefact=toy_ripsnet(wide), connector="isometric").connector
        cloud = torch.randn(1, 20, 64)
        torch.testing.assert_close(h0_deaths(connector(cloud)), h0_deaths(cloud))

    def test_a_linear_one_on_request(self):
        pair = toy_pair()
        assert TopKD(pair, image="exact", connector="linear").connector.weight.shape == (64, 64)

    def test_what_does_not_exist(self, unchecked):
        with pytest.raises(ValueError, match="no linear map from 256 to 64 dimensions keeps all distances"):
            make_connector("isometric", 256, 64, needed=True)
        with pytest.raises(ValueError, match="one of auto, linear, isometric, none, got 'conv'"):
            make_connector("conv", 64, 64, needed=True)


class TestOptionsThatContradictEachOther:
    def test_a_ripsnet_is_needed(self):
        with pytest.raises(ValueError, match=r"needs the artefact of a RipsNet.*image='exact', which needs"):
            TopKD(toy_pair())

    def test_unknown_ones(self, unchecked):
        pair = toy_pair()
        for name in ("image", "normalise", "target"):
            with pytest.raises(ValueError, match=f"TopKD has no {name}='other'; known: "):
                TopKD(pair, **{"image": "exact", name: "other"})
        with pytest.raises(ValueError, match="SortedDeaths has no target='other'; known: batch, constant"):
            SortedDeaths(pair, target="other")

    def test_an_artefact_is_of_raw_clouds_and_of_one_dimension(self):
        pair = toy_pair()
        artefact = toy_ripsnet(pair)
        with pytest.raises(
            ValueError, match="images are of clouds as they are, and normalise='mean' changes"
        ):
            TopKD(pair, artefact=artefact, normalise="mean")
        with pytest.raises(ValueError, match=r"the artefact says what is drawn \(dimension 0\)"):
            TopKD(pair, artefact=artefact, image="exact", dimensions=(1,))
        with pytest.raises(ValueError, match="leave one of the two out"):
            TopKD(pair, artefact=artefact, image="exact", conventions=(artefact.image,))

    def test_exact_images(self):
        image = PersistenceImage((0.0, 0.0), (0.0, 1.0), 0.1)
        with pytest.raises(ValueError, match=r"at least one, counted from 0, got \(0, 0\)"):
            ExactImages((0, 0))
        with pytest.raises(ValueError, match=r"dimensions are \(0, 1\), and there are 1 conventions"):
            ExactImages((0, 1), conventions=(image,))
        with pytest.raises(ValueError, match="fitted to at least one cloud, got 0"):
            ExactImages(clouds=0)


class TestSortedDeaths:
    def test_it_is_an_exact_topkd_without_a_window(self):
        """Equal up to the unit: what the image loses outside its ranges is seen here."""
        pair = toy_pair()
        image = PersistenceImage((0.0, 0.0), (1.0, 2.0), 0.05)
        student, teacher = torch.randn(1, 8, 64) * 0.01, torch.randn(1, 8, 64) * 0.04
        window = TopKD(pair, image="exact", normalise="none", conventions=(image,))
        assert topology_loss(window.images(student), window.images(teacher)).item() < 1e-12
        assert sorted_deaths_loss(student[0], teacher[0], normalise="none").item() > 0.01

    def test_gradients_are_those_of_differences(self):
        student = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
        teacher = torch.randn(9, 5, dtype=torch.float64)
        for normalise in ("mean", "max", "none"):
            assert torch.autograd.gradcheck(
                lambda x, n=normalise: sorted_deaths_loss(x, teacher, normalise=n), student
            )

    def test_which_images_are_neighbours_does_not_matter(self):
        cloud = torch.randn(12, 4)
        assert sorted_deaths_loss(cloud[torch.randperm(12)], cloud).item() < 1e-12

    def test_the_official_code_without_correspondence_agrees(self, golden):
        """topological-autoencoders at its default setting: sorted tree lengths, squared, divided by m."""
        values = golden("beyond_topkd/n48_d16_d8_f64")
        student = torch.tensor(values["student"], requires_grad=True)
        teacher = torch.tensor(values["teacher"])
        teacher = teacher / torch.cdist(teacher, teacher).max()
        loss = sorted_deaths_loss(student, teacher, normalise="none") * 47 / 48
        loss.backward()
        assert loss.item() == pytest.approx(float(values["topoae_nomatch_loss"]), rel=1e-9)
        assert student.grad.norm().item() == pytest.approx(
            float(values["topoae_nomatch_grad_norm"]), rel=1e-9
        )

    def test_errors(self, unchecked):
        with pytest.raises(ValueError, match="clouds of equal size, got 3 and 4 points"):
            sorted_deaths_loss(torch.ones(3, 2), torch.ones(4, 2))
        with pytest.raises(ValueError, match="needs at least 2, got 1"):
            SortedDeaths(toy_pair(batch_size=1))
