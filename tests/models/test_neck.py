"""Necks: the network with one keeps the contract of models, and a merged one is an ordinary network again."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.objectives.reference import leaf
from topokd_lib.models import MODELS, NToOneNeck, ProjectorNeck, Taps, create_model
from topokd_lib.testing import MODEL_CHECKS, toy_batch

FAMILIES = (
    *("resnet8", "resnet50", "wrn_16_2", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2"),
    *("mobilenetv1", "torchvision/resnet18", "torchvision/mobilenet_v2"),
)


def official_neck(values):
    """A neck with the weights of the official code, and its classifier."""
    parts = {"expand": "up", "contract": "down"}
    wide, narrow = values["w__ft/up.0.weight"].shape[:2]
    neck = NToOneNeck(narrow, values["in__t"].shape[1], wide // values["in__t"].shape[1])
    for ours, theirs in parts.items():
        state = {"conv.weight": values[f"w__ft/{theirs}.0.weight"]}
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"bn.{name}"] = values[f"w__ft/{theirs}.1.{name}"]
        getattr(neck, ours).load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    classifier = nn.Linear(narrow, len(values["w__ft/fc.bias"]))
    classifier.load_state_dict({k: torch.tensor(values[f"w__ft/fc.{k}"]) for k in ("weight", "bias")})
    return neck.double(), classifier.double()


@pytest.mark.parametrize("case", ["a_small", "b_n8"])
def test_official_code_agrees_before_and_after_merging(golden, case):
    values = golden(f"kd_modern/norm__{case}")
    neck, classifier = official_neck(values)
    neck.eval()
    maps = leaf(values["in__s"])
    logits = classifier(neck(maps, Taps()).mean(dim=(2, 3)))
    merged = neck.merge(classifier)(maps.mean(dim=(2, 3)))
    np.testing.assert_allclose(logits.detach(), values["out__logits_eval"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(merged.detach(), values["out__logits_merged"], rtol=1e-9, atol=1e-12)


def trained(model):
    """Running statistics and normalisations that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            for tensor in (module.bias.data, module.running_mean):
                tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def with_neck(name, kind):
    model = create_model(name, num_classes=5)
    channels = model.last_layer.in_features
    if kind is NToOneNeck:
        model.insert_neck(NToOneNeck(channels, 6, parts=2))
    else:
        model.insert_neck(ProjectorNeck(channels, 6), nn.Linear(6, 5))
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_merged_network_gives_the_same_logits_and_is_an_ordinary_one(name):
    model = trained(with_neck(name, NToOneNeck)).eval()
    images = toy_batch(4).images
    before = model(images)
    model.merge_neck()
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)
    fresh = create_model(name, num_classes=5)
    assert model.feature_names == fresh.feature_names
    assert list(model.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(images), model(images))


def test_every_family_was_tried():
    families = {type(create_model(name, num_classes=5)) for name in FAMILIES}
    others = {type(create_model(name, num_classes=5)) for name in MODELS} - families
    assert [other.__name__ for other in others] == ["CutMobileNetV2"]
    cut = create_model("igkd_mobilenetv2_cut5", num_classes=5)
    with pytest.raises(
        ValueError, match=r"igkd_mobilenetv2_cut5 offers no 'last_map' \(it offers .*choose another"
    ):
        cut.insert_neck(NToOneNeck(8, 8, 2))


@pytest.mark.parametrize("check", MODEL_CHECKS.values(), ids=MODEL_CHECKS.keys())
@pytest.mark.parametrize("kind", [NToOneNeck, ProjectorNeck])
@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "mobilenetv2_half"])
def test_a_network_with_a_neck_keeps_the_contract(name, kind, check):
    torch.manual_seed(0)
    check(with_neck(name, kind))


def test_features_of_a_neck_come_in_their_order():
    assert with_neck("resnet8", NToOneNeck).feature_names[-5:] == (
        *("stage3", "expanded", "last_map", "pooled", "cam"),
    )
    assert with_neck("resnet8", ProjectorNeck).feature_names[-4:] == ("stage3", "last_map", "pooled", "cam")


def test_merging_leaves_a_network_alone_that_has_nothing_to_merge():
    for model in (create_model("resnet8", num_classes=5), with_neck("resnet8", ProjectorNeck)):
        keys = list(model.state_dict())
        model.merge_neck()
        assert list(model.state_dict()) == keys


def test_merged_by_hand():
    """One channel, two parts: 1 + (2·3 + 4·5) = 27 times the weight; shifts 2·b₁ and b₂ go into the bias."""
    neck = NToOneNeck(1, 1, parts=2)
    with torch.no_grad():
        neck.expand.conv.weight.copy_(torch.tensor([3.0, 5.0]).view(2, 1, 1, 1))
        neck.contract.conv.weight.copy_(torch.tensor([2.0, 4.0]).view(1, 2, 1, 1))
        neck.expand.bn.bias.copy_(torch.tensor([1.0, 0.0]))
        neck.contract.bn.bias.fill_(7.0)
        for norm in (neck.expand.bn, neck.contract.bn):
            norm.running_var.fill_(1 - norm.eps)
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 10.0)
    nn.init.constant_(layer.bias, 0.5)
    merged = neck.merge(layer)
    assert merged.weight.item() == pytest.approx(270)
    assert merged.bias.item() == pytest.approx(0.5 + 10 * (2 * 1 + 7))


def test_a_classifier_without_bias_gets_one():
    merged = NToOneNeck(2, 2, parts=1).merge(nn.Linear(2, 3, bias=False))
    assert merged.bias.tolist() == [0, 0, 0]


def test_what_cannot_be_done_is_refused():
    model = with_neck("resnet8", NToOneNeck)
    with pytest.raises(ValueError, match="resnet8 has a neck already; build another network"):
        model.insert_neck(NToOneNeck(64, 6))
    with pytest.raises(TypeError, match="a ProjectorNeck is not linear and cannot be merged"):
        ProjectorNeck(4, 4).merge(nn.Linear(4, 2))
    with pytest.raises(ValueError, match="an n-to-one neck needs at least one part, got parts=0"):
        NToOneNeck(4, 4, parts=0)
