"""The adapter changes nothing of torchvision's networks but gives their features names."""

import subprocess
import sys

import pytest
import torch
import torchvision
from torch.nn import functional as F

from topokd_lib.errors import UnknownName
from topokd_lib.models import TorchvisionModel, create_model

NAMES = ("resnet18", "resnet50", "mobilenet_v2")


@pytest.fixture(scope="module", params=NAMES)
def networks(request):
    """Torchvision's network and ours with the same weights, and running statistics that are not trivial."""
    torch.manual_seed(1)
    theirs = torchvision.models.get_model(request.param, num_classes=7)
    theirs.train()(torch.randn(8, 3, 64, 64))
    ours = TorchvisionModel(request.param, num_classes=7)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_keys_of_the_state_are_torchvisions(networks):
    theirs, ours = networks
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("training", [False, True])
def test_logits_are_torchvisions(networks, training):
    theirs, ours = (network.train(training) for network in networks)
    images = torch.randn(4, 3, 64, 64)
    torch.manual_seed(2)  # MobileNetV2 drops features in training
    expected = theirs(images)
    torch.manual_seed(2)
    found = ours.extract(images, ours.feature_names).logits
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value, rtol=1e-6, atol=1e-6)


def test_stages_of_a_resnet_are_those_of_torchvision(networks):
    theirs, ours = (network.eval() for network in networks)
    if ours.stage_ending != "relu":
        pytest.skip("MobileNetV2 has no modules called layer1 … layer4")
    images = torch.randn(2, 3, 64, 64)
    output = ours.extract(images, ours.feature_names)
    x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))
    torch.testing.assert_close(output["stem"], x)
    for number in range(1, 5):
        x = getattr(theirs, f"layer{number}")(x)
        torch.testing.assert_close(output[f"stage{number}"], x, rtol=1e-6, atol=1e-6)
        preact = output[f"stage{number}.preact"]
        assert preact.min() < 0
        assert torch.equal(F.relu(preact), output[f"stage{number}"])


def test_no_relu_works_in_place(networks):
    theirs, ours = networks
    assert any(getattr(module, "inplace", False) for module in theirs.modules())
    assert not any(getattr(module, "inplace", False) for module in ours.modules())


def test_stages_of_mobilenet_have_the_resolutions_of_the_small_one():
    model = TorchvisionModel("mobilenet_v2").eval()
    output = model.extract(torch.randn(1, 3, 64, 64), model.feature_names)
    shapes = [tuple(output[f"stage{k}"].shape[1:]) for k in range(1, 5)]
    assert shapes == [(24, 16, 16), (32, 8, 8), (96, 4, 4), (320, 2, 2)]
    assert output["pooled"].shape == (1, 1280)


def test_what_does_not_exist_is_refused():
    with pytest.raises(UnknownName, match=r"no torchvision model 'resnet19'\. Did you mean 'resnet18'"):
        TorchvisionModel("resnet19")
    with pytest.raises(UnknownName, match=r"squeezenet1_1 is a SqueezeNet, .* Known: ResNets"):
        TorchvisionModel("squeezenet1_1", num_classes=2)
    with pytest.raises(
        UnknownName, match=r"torchvision's resnet18 'IMAGENET1K_V9'\. Did you mean 'IMAGENET1K_V1'"
    ):
        TorchvisionModel("resnet18", weights="IMAGENET1K_V9")


@pytest.mark.parametrize(
    ("options", "asked"),
    [({"num_classes": 10}, "10 classes and 3 channels"), ({"in_channels": 1}, "1000 classes and 1 channels")],
)
def test_weights_keep_their_classes_and_channels(options, asked):
    with pytest.raises(ValueError, match=f"are for 1000 classes and 3 channels, asked for {asked}"):
        TorchvisionModel("resnet18", weights="IMAGENET1K_V1", **options)


def test_weights_are_torchvisions_business(monkeypatch):
    """Nothing is downloaded here: it is enough that torchvision is asked for the right weights."""
    asked = []
    get_model = torchvision.models.get_model

    def remember(name, *, weights, num_classes):
        asked.append((name, weights))
        return get_model(name, weights=None, num_classes=num_classes)

    monkeypatch.setattr(torchvision.models, "get_model", remember)
    TorchvisionModel("resnet18", weights="IMAGENET1K_V1")
    create_model("torchvision/resnet34", num_classes=1000, weights="IMAGENET1K_V1")
    assert asked == [("resnet18", "IMAGENET1K_V1"), ("resnet34", "IMAGENET1K_V1")]


def test_torchvision_is_imported_when_a_model_of_it_is_built():
    code = "import sys, topokd_lib.models; print('torchvision' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_it_has_a_name_in_the_registry():
    assert isinstance(create_model("torchvision/resnet18", num_classes=3), TorchvisionModel)
