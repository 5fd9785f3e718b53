"""RipsNet: against the official networks, its training, and the artefact that carries it."""

import inspect
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn import functional as F

from topokd_lib.errors import ArtefactMismatch, CheckpointError, TrainingDiverged
from topokd_lib.topology import (
    PersistenceImage,
    RipsNet,
    RipsNetArtefact,
    fit_ripsnet,
    rips_diagrams,
)

OFFICIAL = ["resnet56_mean", "wrn40_2_sum"]
WIDTHS = (8, 8, 8, 8, 8, 8)


def official(golden, name):
    """The published network: layers 1-3 come before the pooling, 4-7 after it."""
    weights = golden(f"topkd/ripsnet_{name}_weights")
    dim = weights["layer1.weight"].shape[1]
    network = RipsNet(dim, 400, pooling=str(weights["meta/pooling"]))
    assert (dim, *network.widths) == (*weights["meta/units"][:4], *weights["meta/units"][4:7])
    state = dict(network.state_dict())
    for key, value in weights.items():
        if key.startswith("layer"):
            number, kind = int(key[5]), key.split(".")[1]
            own = f"point_layers.{number - 1}" if number <= 3 else f"image_layers.{number - 4}"
            state[f"{own}.{kind}"] = torch.from_numpy(value)
    network.load_state_dict(state)
    return network.eval()


def task(count=60, points=12, seed=0):
    """Clouds of growing spread, whose images differ accordingly."""
    generator = torch.Generator().manual_seed(seed)
    spread = 0.5 + torch.rand(count, 1, 1, generator=generator)
    clouds = spread * torch.randn(count, points, 3, generator=generator) + 5
    (diagrams,) = rips_diagrams(clouds)
    image = PersistenceImage.fit(diagrams, resolution=(6, 5))
    return clouds, image(diagrams), image


def small(seed=0, **options):
    torch.manual_seed(seed)
    return RipsNet(3, 30, widths=WIDTHS, **options)


def artefact(**changes):
    image = PersistenceImage((0.0, 0.0), (0.1, 2.0), 0.2, resolution=(6, 5), weight="topkd", scale=3.5)
    made = {
        "network": small(pooling="mean"),
        "image": image,
        "dimension": 0,
        "teacher": "resnet56",
        "teacher_fingerprint": "0123456789abcdef",
        "feature": "pooled",
        "cloud_size": 64,
        "report": {"r2": 0.4},
        "provenance": {"seed": "0"},
    }
    return RipsNetArtefact(**made | changes)


# Against the official networks


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_outputs(name, golden):
    network, values = official(golden, name), golden("topkd/ripsnet_forward_A")
    with torch.no_grad():
        found = network(torch.from_numpy(values[f"{name}/X"]))
        few = network(torch.from_numpy(values[f"{name}/X16"])[None])[0]
    np.testing.assert_allclose(found, values[f"{name}/out"], atol=2e-6)
    np.testing.assert_allclose(few, values[f"{name}/out16"], atol=2e-6)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_topology_loss_and_its_gradient(name, golden):
    """Computed here in float64, in float32 there: loss and norm to 1e-5, single entries to 1e-4."""
    network, values = official(golden, name).double(), golden("topkd/losses_A")
    student = torch.from_numpy(values[f"top_{name}/f_s"]).double().requires_grad_()
    teacher = torch.from_numpy(values[f"top_{name}/f_t"]).double()
    loss = F.mse_loss(network(teacher[None]), network(student[None]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), values[f"top_{name}/loss"], rtol=1e-5)
    np.testing.assert_allclose(student.grad.norm(), values[f"top_{name}/grad_norm"], rtol=1e-5)
    largest = np.abs(values[f"top_{name}/grad_f_s"]).max()
    np.testing.assert_allclose(student.grad, values[f"top_{name}/grad_f_s"], rtol=1e-4, atol=1e-4 * largest)


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_topology_loss_behind_a_projection(name, golden):
    """The student's features pass a 1 × 1 convolution, on vectors a linear layer."""
    network, values = official(golden, name).double(), golden("topkd/losses_A")
    part = {k.split("/")[1]: torch.from_numpy(v) for k, v in values.items() if k.startswith(f"conv_{name}/")}
    leaves = {k: part[k].double().requires_grad_() for k in ("f_s", "weight", "bias")}
    projected = F.linear(leaves["f_s"], leaves["weight"], leaves["bias"])
    loss = F.mse_loss(network(part["f_t"].double()[None]), network(projected[None]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), part["loss"], rtol=1e-5)
    for name_, leaf in leaves.items():
        expected = part[f"grad_{name_}"]
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


# The network


@pytest.mark.parametrize(
    ("dim", "first"),
    [(3, 16), (16, 16), (64, 64), (65, 128), (960, 512), (1024, 512), (2048, 1024), (5000, 1024)],
)
def test_widths_of_the_official_table(dim, first):
    network = RipsNet(dim, 400)
    assert network.widths[0] == first
    assert network.widths[3:] == (50, 100, 200)


@pytest.mark.parametrize(("dim", "parameters"), [(64, 113_896), (128, 137_128)])
def test_official_number_of_parameters(dim, parameters):
    assert sum(p.numel() for p in RipsNet(dim, 400).parameters()) == parameters


@given(st.permutations(range(6)), st.sampled_from(["sum", "mean"]))
@settings(deadline=None, max_examples=20)
def test_order_of_the_points_does_not_matter(order, pooling):
    network = small(pooling=pooling).double()
    points = torch.randn(2, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(network(points[:, order]), network(points))


def test_twice_the_points_matter_to_the_sum_but_not_to_the_mean():
    points = torch.randn(2, 6, 3, dtype=torch.float64)
    twice = torch.cat([points, points], dim=1)
    mean, total = small(pooling="mean").double(), small(pooling="sum").double()
    torch.testing.assert_close(mean(twice), mean(points))
    assert (total(twice) - total(points)).abs().max() > 1e-4


def test_gradients_reach_the_points():
    network = small().double()
    points = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, points)


@pytest.mark.parametrize("shape", [(2, 5, 4), (5, 3), (2, 0, 3), (2, 5, 3, 1)])
def test_clouds_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"shape \(batch, points, 3\), at least one point each, got"):
        inspect.unwrap(RipsNet.forward)(small(), torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0, "pixels": 4}, "sizes are positive, got dim=0"),
        ({"dim": 3, "pixels": 0}, "pixels=0"),
        ({"dim": 3, "pixels": 4, "widths": (8, 8)}, r"six hidden widths .* widths=\(8, 8\)"),
        ({"dim": 3, "pixels": 4, "widths": (8, 8, 8, 8, 8, 0)}, "sizes are positive"),
        ({"dim": 3, "pixels": 4, "pooling": "max"}, "'sum' or 'mean', got 'max'"),
    ],
)
def test_networks_that_cannot_be_built(arguments, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(RipsNet.__init__)(RipsNet.__new__(RipsNet), **arguments)


# Training


def test_it_learns_more_than_the_constant():
    clouds, images, _ = task(count=200)
    torch.manual_seed(0)
    network = RipsNet(3, 30, widths=(16,) * 6)
    report = fit_ripsnet(network, clouds, images, epochs=40, learning_rate=3e-2, batch_size=32)
    assert report.r2 > 0.25
    # The report is about the weights that are left: it can be checked from outside.
    held_out = slice(150, None)
    with torch.no_grad():
        error = F.mse_loss(network(clouds[held_out]), images[held_out].flatten(1)).item()
    assert report.validation_mse == pytest.approx(error, rel=1e-5)
    constant = images[:150].mean(dim=0).expand_as(images[held_out])
    assert report.constant_mse == pytest.approx(F.mse_loss(constant, images[held_out]).item(), rel=1e-5)
    assert report.r2 == pytest.approx(1 - report.validation_mse / report.constant_mse)


def test_same_seed_same_network():
    clouds, images, _ = task()
    networks, reports = [], []
    for seed in (0, 0, 1):
        networks.append(small())
        reports.append(fit_ripsnet(networks[-1], clouds, images, epochs=3, batch_size=8, seed=seed))
        torch.rand(7)  # what else draws random numbers does not matter
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert reports[0] == reports[1] != reports[2]


def test_standardisation_is_that_of_the_training_clouds():
    clouds, images, _ = task()
    clouds[..., 2] = 7.0
    network = small()
    fit_ripsnet(network, clouds, images, epochs=1)
    points = clouds[:45].flatten(0, 1)
    torch.testing.assert_close(network.input_mean, points.mean(dim=0))
    torch.testing.assert_close(network.input_std[:2], points.std(dim=0, correction=0)[:2])
    assert network.input_std[2] == 1.0, "a constant coordinate must not be divided by 0"
    plain = small()
    fit_ripsnet(plain, clouds, images, epochs=1, standardise=False)
    assert not plain.input_mean.any()
    assert (plain.input_std == 1).all()


def test_it_stops_early_and_keeps_the_best():
    clouds, images, _ = task()
    history = []
    report = fit_ripsnet(
        small(),
        clouds,
        images,
        epochs=500,
        learning_rate=0.5,
        patience=3,
        progress=lambda epoch, train, validation: history.append((epoch, train, validation)),
    )
    assert [epoch for epoch, _, _ in history] == list(range(report.epochs_run))
    assert report.epochs_run < 500
    assert report.epochs_run == report.best_epoch + 1 + 3
    best = min(history, key=lambda entry: entry[2])
    assert best == (report.best_epoch, report.train_mse, report.validation_mse)


def test_images_may_keep_their_axes():
    clouds, images, image = task()
    assert images.shape[1:] == image.resolution
    reports = [fit_ripsnet(small(), clouds, part, epochs=1) for part in (images, images.flatten(1))]
    assert reports[0] == reports[1]


def test_data_in_double_precision_meet_a_single_precision_network():
    clouds, images, _ = task()
    report = fit_ripsnet(small(), clouds.double(), images.double(), epochs=1)
    assert report.epochs_run == 1


@pytest.mark.parametrize(
    ("clouds", "images", "options", "message"),
    [
        ((8, 5, 3), (7, 30), {}, r"every cloud needs one image: .*\(8, 5, 3\).*\(7, 30\)"),
        ((0, 5, 3), (0, 30), {}, "every cloud needs one image"),
        ((8, 5, 4), (8, 30), {}, r"have 4 and 30; build RipsNet\(dim=4, pixels=30\)"),
        ((8, 5, 3), (8, 6, 6), {}, r"have 3 and 36; build RipsNet\(dim=3, pixels=36\)"),
        ((8, 5, 3), (8, 30), {"epochs": 0}, "at least 1, got 0"),
        ((8, 5, 3), (8, 30), {"patience": 0}, "at least 1"),
        ((8, 5, 3), (8, 30), {"validation_fraction": 0.0}, "leaves 8 of 8 clouds for training"),
        ((8, 5, 3), (8, 30), {"validation_fraction": 1.0}, "leaves 0 of 8 clouds"),
    ],
)
def test_data_that_do_not_fit(clouds, images, options, message):
    arguments = {"epochs": 1} | options
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(fit_ripsnet)(small(), torch.rand(clouds), torch.rand(images), **arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda clouds, images: (clouds * np.nan, images), "must be finite"),
        (lambda clouds, images: (clouds, images / 0), "must be finite"),
        (lambda clouds, images: (clouds, images - 2), "cannot draw values from .*normalise=True"),
        (lambda clouds, images: (clouds, 9 + images), "cannot draw values from"),
        (lambda clouds, images: (clouds, images * 0), "nothing to learn"),
    ],
)
def test_values_that_cannot_be_learned(change, message):
    with pytest.raises(ValueError, match=message):
        fit_ripsnet(small(), *change(torch.rand(8, 5, 3), torch.rand(8, 30)), epochs=1)


def test_an_error_that_explodes_is_reported():
    clouds, images, _ = task()
    with pytest.raises(TrainingDiverged, match=r"in epoch 0; lower the learning rate, now 1e\+30"):
        fit_ripsnet(small(), clouds, images, epochs=2, learning_rate=1e30, batch_size=8)


# The artefact


def test_artefacts_survive_a_file(tmp_path):
    made = artefact()
    with torch.no_grad():
        made.network.input_mean.fill_(0.5)
    path = tmp_path / "new" / "ripsnet.safetensors"
    made.save(path)
    read = RipsNetArtefact.load(path)
    points = torch.randn(2, 5, 3)
    assert torch.equal(read.network(points), made.network(points))
    assert not read.network.training
    for name in ("image", "dimension", "teacher", "teacher_fingerprint", "feature", "cloud_size"):
        assert getattr(read, name) == getattr(made, name)
    assert (read.report, read.provenance) == (made.report, made.provenance)
    assert [file.name for file in path.parent.iterdir()] == ["ripsnet.safetensors"]


def test_a_report_fits_into_the_artefact(tmp_path):
    clouds, images, image = task()
    network = small()
    report = fit_ripsnet(network, clouds, images, epochs=1)
    artefact(network=network, image=image, report=asdict(report)).save(tmp_path / "file")
    assert RipsNetArtefact.load(str(tmp_path / "file")).report == asdict(report)


def test_double_precision_survives(tmp_path):
    artefact(network=small().double()).save(tmp_path / "file")
    assert RipsNetArtefact.load(tmp_path / "file").network.input_mean.dtype == torch.float64


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "ripsnet.safetensors"
    artefact().save(path)
    before = path.read_bytes()

    def full(self, content):
        raise OSError("no space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        artefact(teacher="other").save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_right_artefact_passes():
    artefact().check(teacher="resnet56", fingerprint="0123456789abcdef", feature="pooled", dim=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": "vgg13"}, "teacher: made for resnet56, used with vgg13"),
        ({"fingerprint": "f" * 16}, "fingerprint: made for 0123456789abcdef, used with ffffffffffffffff"),
        ({"feature": "stage3"}, "feature: made for pooled, used with stage3"),
        ({"dim": 64}, "feature width: made for 3, used with 64"),
        ({"dim": 64, "teacher": "vgg13"}, "teacher: .*; feature width: .*topokd prepare ripsnet"),
    ],
)
def test_the_wrong_artefact_is_refused(change, message):
    asked = {"teacher": "resnet56", "fingerprint": "0123456789abcdef", "feature": "pooled", "dim": 3}
    with pytest.raises(ArtefactMismatch, match=message):
        artefact().check(**asked | change)


def test_image_and_network_of_unequal_resolution():
    image = PersistenceImage((0.0, 0.0), (0.1, 2.0), 0.2, resolution=(5, 5))
    with pytest.raises(ValueError, match="draws 30 pixels, but the image has 5 × 5 = 25"):
        artefact(image=image)


def test_no_such_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read a RipsNet from .*absent.*topokd prepare ripsnet"):
        RipsNetArtefact.load(tmp_path / "absent")


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read a RipsNet from"):
        RipsNetArtefact.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file(tmp_path, keep):
    path = tmp_path / "file"
    artefact().save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=rf"cannot read a RipsNet from {path}"):
        RipsNetArtefact.load(path)


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "file"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match=rf"{path} is a safetensors file but not a RipsNet"):
        RipsNetArtefact.load(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda described: described.pop("network"),
        lambda described: described.pop("teacher"),
        lambda described: described["network"].update(dim=4),
        lambda described: described["image"].update(resolution=[5, 5]),
        lambda described: described["image"].pop("bandwidth"),
        lambda described: described.update(extra=1),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path, damage):
    path = tmp_path / "file"
    made = artefact()
    made.save(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    described = json.loads(metadata["artefact"])
    damage(described)
    metadata["artefact"] = json.dumps(described)
    save_file(made.network.state_dict(), path, metadata=metadata)
    with pytest.raises(CheckpointError, match=rf"the RipsNet in {path} is incomplete or inconsistent"):
        RipsNetArtefact.load(path)
