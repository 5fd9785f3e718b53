"""The networks of IG-KD are torchvision's MobileNetV2 with two changes, and pieces of it."""

import pytest
import torch
from torch import nn
from torchvision.models import MobileNetV2

from topokd_lib.models import CutMobileNetV2, create_model, describe
from topokd_lib.models.cut_mobilenetv2 import CUTS, SETTING

SIZES = {
    0: (2_236_682, 176.0),
    3: (1_019_402, 137.7),
    5: (543_498, 117.4),
    7: (306_954, 87.8),
    9: (185_738, 72.7),
    11: (77_194, 59.2),
    13: (40_970, 47.1),
    15: (16_042, 29.9),
    17: (1_994, 3.4),
}
"""Parameters and millions of operations (two for each multiply-accumulate), measured on the official code."""


def name_of(cut):
    return f"igkd_mobilenetv2_cut{cut}" if cut else "igkd_mobilenetv2"


@pytest.fixture
def theirs():
    network = MobileNetV2(num_classes=10, inverted_residual_setting=SETTING)
    network.features[0][0].stride = (1, 1)
    network.train()(torch.rand(8, 3, 32, 32))  # running statistics that are not trivial
    return network.eval()


@pytest.mark.parametrize("cut", SIZES)
def test_sizes_are_those_of_the_official_code(cut):
    size = describe(name_of(cut), num_classes=10)
    assert (size.parameters, round(2 * size.macs / 1e6, 1)) == SIZES[cut]


def test_the_whole_network_is_torchvisions(theirs):
    ours = CutMobileNetV2().eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("cut", [1, *CUTS])
def test_a_student_is_the_beginning_of_it(theirs, cut):
    ours = CutMobileNetV2(cut).eval()
    state = {k: v for k, v in theirs.state_dict().items() if k in ours.state_dict() and "classifier" not in k}
    assert not ours.load_state_dict(state, strict=False).unexpected_keys
    images = torch.rand(4, 3, 32, 32)
    pooled = nn.AdaptiveAvgPool2d(1)(theirs.features[:-cut](images)).flatten(1)
    output = ours.extract(images, ["pooled"])
    torch.testing.assert_close(output["pooled"], pooled, rtol=0, atol=1e-6)
    torch.testing.assert_close(output.logits, ours.classifier(pooled), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("cut", "middle", "shape"),
    [(5, "block9", (64, 8, 8)), (9, "block4", (32, 16, 16)), (15, "block2", (24, 32, 32))],
)
def test_blocks_are_counted_as_in_torchvision(theirs, cut, middle, shape):
    """The maps that IG-KD compares, after block 19 // divider of the official code."""
    images = torch.rand(2, 3, 32, 32)
    ours = CutMobileNetV2(cut).eval()
    assert ours.extract(images, [middle])[middle].shape[1:] == shape
    whole = CutMobileNetV2().eval()
    whole.load_state_dict(theirs.state_dict())
    expected = theirs.features[: int(middle.removeprefix("block")) + 1](images)
    assert torch.equal(whole.extract(images, [middle])[middle], expected)


def test_students_have_no_dropout():
    assert any(isinstance(module, nn.Dropout) for module in CutMobileNetV2().modules())
    assert not any(isinstance(module, nn.Dropout) for module in CutMobileNetV2(5).modules())


def test_images_may_have_other_channels():
    model = create_model("igkd_mobilenetv2_cut15", num_classes=3, in_channels=1).eval()
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize("cut", [-1, 18])
def test_what_cannot_be_cut(cut):
    with pytest.raises(ValueError, match=f"has 19 blocks and keeps at least two, got cut={cut}"):
        CutMobileNetV2(cut)
