"""Sizes of networks: counted by PyTorch, without running them."""

import pytest
import torch
from torch import nn

from topokd_lib.cli import main
from topokd_lib.errors import UnknownName
from topokd_lib.models import (
    IMAGENET_MODELS,
    MODELS,
    count_macs,
    count_parameters,
    create_model,
    describe,
    table,
)


def test_macs_by_hand():
    convolution = nn.Conv2d(3, 8, 3, padding=1, groups=1)  # 6×6 positions, 8 filters of 3·3·3 numbers
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)  # each filter sees two channels
    network = nn.Sequential(
        convolution, nn.BatchNorm2d(8), nn.ReLU(), grouped, nn.Flatten(), nn.Linear(288, 5)
    )
    assert count_macs(network, (3, 6, 6)) == 36 * 8 * 27 + 36 * 8 * 18 + 288 * 5
    assert count_parameters(network) == (8 * 27 + 8) + 16 + (8 * 18 + 8) + (288 * 5 + 5)


def test_counting_leaves_the_network_as_it_is():
    model = create_model("resnet8", num_classes=10).train()
    model.layer2.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert count_macs(model, (3, 32, 32)) == describe("resnet8", num_classes=10).macs
    assert model.layer1.training
    assert not model.layer2.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_description_says_what_the_network_does():
    size = describe("wrn_16_2", num_classes=10, image_size=16)
    model = create_model("wrn_16_2", num_classes=10).eval()
    output = model.extract(torch.randn(1, 3, 16, 16), model.feature_names)
    assert size.features == {name: tuple(value.shape[1:]) for name, value in output.features.items()}
    assert list(size.features) == list(model.feature_names)
    assert size.parameters == count_parameters(model)
    assert size.image_shape == (3, 16, 16)


def test_models_of_torchvision_are_described_for_their_own_images():
    size = describe("torchvision/resnet18")
    assert (size.parameters, size.image_shape) == (11_689_512, (3, 224, 224))  # as torchvision documents
    assert round(size.macs / 1e9, 2) == 1.81


def test_what_cannot_be_described_is_refused():
    with pytest.raises(UnknownName, match="no model 'resnet9'"):
        describe("resnet9")
    with pytest.raises(ValueError, match="halve images up to five times, got image_size=4"):
        describe("resnet8", image_size=4)


@pytest.mark.parametrize("imagenet", [False, True])
def test_the_table_has_a_line_for_every_model(imagenet):
    lines = table(imagenet=imagenet).splitlines()
    names = [line.split()[0] for line in lines[2:]]
    assert names == [name for name in MODELS if (name in IMAGENET_MODELS) == imagenet]
    assert len({len(line) for line in lines[1:]}) == 1
    if imagenet:
        assert lines[0].startswith("for images 3×224×224 and 1000 classes")
    else:
        assert lines[0].startswith("for images 3×32×32 and 100 classes")
        assert lines[2].split() == [
            "resnet8",
            "83,892",
            "12.51",
            "16×32×32",
            "16×32×32",
            "32×16×16",
            "64×8×8",
            "–",
            "64",
        ]


def test_the_command_prints_the_table(capsys):
    assert main(["models", "--imagenet"]) == 0
    assert capsys.readouterr().out.rstrip() == table(imagenet=True)
