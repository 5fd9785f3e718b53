"""Every model of the library keeps the contract; a new one is covered as soon as it is listed."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from topokd_lib.errors import FeatureNotFound, UnknownName
from topokd_lib.models import (
    BENCHMARK_NAMES,
    MODELS,
    CifarResNet,
    CifarVGG,
    CifarWideResNet,
    create_model,
)
from topokd_lib.testing import CLASSES, MODEL_CHECKS, toy_batch

# Checks with many passes or a copy of the network run for one or two members of a class; the others
# differ in depth and width only.
EXPENSIVE = {
    "declared_features_exist",
    "modules_up_to_a_feature_are_what_it_depends_on",
    "norm_before_a_preactivation_is_its_last_step",
    "features_leave_training_alone",
    "training_reaches_every_parameter",
    "weights_survive_a_round_trip",
}
REPRESENTATIVES = (
    *("resnet8", "resnet20", "resnet8x4", "gkd_wrn_28_0.5", "resnet50", "wrn_16_1", "wrn_16_2"),
    *("vgg8", "vgg11", "mobilenetv2_half", "igkd_mobilenetv2_cut5", "shufflenetv1", "shufflenetv2"),
    *("mobilenetv1", "torchvision/resnet18", "torchvision/resnet50", "torchvision/mobilenet_v2"),
)


@pytest.fixture(scope="module")
def model(request):
    return create_model(request.param, num_classes=CLASSES)


CASES = [
    pytest.param(name, check, id=f"{name}-{title}")
    for name in sorted(MODELS)
    for title, check in MODEL_CHECKS.items()
    if name in REPRESENTATIVES or title not in EXPENSIVE
]


@pytest.mark.parametrize(("model", "check"), CASES, indirect=["model"])
def test_contract(model, check):
    check(model)


def test_every_class_has_a_representative():
    assert set(MODEL_CHECKS) >= EXPENSIVE
    assert {factory.func for factory in MODELS.values()} == {MODELS[name].func for name in REPRESENTATIVES}


class OverwrittenPreactivation(CifarResNet):
    """Its last ReLU works in place, on the tensor that was kept."""

    def compute(self, images, taps):
        logits = super().compute(images, taps)
        F.relu_(taps.features.get("stage3.preact", torch.zeros(1)))
        return logits


class SecondNormalisation(CifarWideResNet):
    """Makes a pre-activation by applying the normalisation once more, as the benchmark does."""

    def compute(self, images, taps):
        logits = super().compute(images, taps)
        if "stage3.preact" in taps:
            taps.keep("stage3.preact", self.bn1(taps.features["stage3"]))
        return logits


def _declared(ending):
    model = CifarResNet(8, num_classes=CLASSES)
    model.stage_ending = ending
    return model


@pytest.mark.parametrize(
    ("build", "check", "message"),
    [
        (lambda: OverwrittenPreactivation(8), "stages_end_as_declared", "overwritten in place"),
        (lambda: _declared("linear"), "stages_end_as_declared", "although no ReLU follows"),
        (lambda: _declared("sum"), "stages_end_as_declared", "the sum has no negative value"),
        (lambda: SecondNormalisation(10, 1), "features_leave_training_alone", r"changes bn1\.running_mean"),
    ],
)
def test_a_model_that_breaks_the_contract_is_noticed(build, check, message):
    with pytest.raises(AssertionError, match=message):
        MODEL_CHECKS[check](build())


def test_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no model 'resnet21'\. Did you mean 'resnet2?"):
        create_model("resnet21", num_classes=10)


@pytest.mark.parametrize(("benchmark", "ours"), BENCHMARK_NAMES.items())
def test_the_names_of_the_benchmark_lead_to_ours(benchmark, ours):
    assert create_model(ours, num_classes=10).name == ours
    with pytest.raises(UnknownName, match=f"no model '{benchmark}'; here it is called '{ours}'"):
        create_model(benchmark, num_classes=10)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_knows_its_name(name):
    with torch.device("meta"):
        assert create_model(name, num_classes=10).name == name


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CifarResNet(18), r"6·n \+ 2 .* got 18"),
        (lambda: CifarWideResNet(18, 2), r"6·n \+ 4 .* got 18"),
        (lambda: CifarVGG(12), "a VGG has depth 8, 11, 13, 16, 19, got 12"),
    ],
)
def test_depth_must_fit_the_family(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_norm_before_names_what_it_can_find():
    model = create_model("resnet8", num_classes=10)
    with pytest.raises(ValueError, match=r"'stage1' is not .* one of 'stage1\.preact', 'stage2\.preact'"):
        model.norm_before("stage1")
    with pytest.raises(FeatureNotFound, match=r"no feature 'stage9'"):
        model.norm_before("stage9")


def test_only_the_second_shufflenet_has_no_normalisation_before_its_stages():
    for name in REPRESENTATIVES:
        with torch.device("meta"):
            model = create_model(name, num_classes=10)
        if name == "shufflenetv2":
            with pytest.raises(ValueError, match=r"no single batch norm.* all channels of 'stage1\.preact'"):
                model.norm_before("stage1.preact")
        else:
            assert isinstance(model.norm_before("stage1.preact"), nn.BatchNorm2d)


@pytest.mark.parametrize(
    "name", ["wrn_16_1", "vgg8", "mobilenetv2_half", "shufflenetv2", "torchvision/resnet18"]
)
def test_images_may_have_other_channels(name):
    model = create_model(name, num_classes=CLASSES, in_channels=6).eval()
    images = toy_batch(2).images.repeat(1, 2, 1, 1)
    assert model(images).shape == (2, CLASSES)


def test_a_fourth_pooling_is_for_images_of_64_pixels():
    model = create_model("vgg8", num_classes=CLASSES).eval()
    sides = {
        side: model.extract(torch.randn(1, 3, side, side), ["stage4"])["stage4"].shape[-1]
        for side in (32, 64)
    }
    assert sides == {32: 4, 64: 4}
