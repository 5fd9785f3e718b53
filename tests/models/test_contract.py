"""Every model of the library keeps the contract; a new one is covered as soon as it is listed."""

import pytest

from topokd_lib.errors import FeatureNotFound, UnknownName
from topokd_lib.models import MODELS, CifarResNet, create_model
from topokd_lib.testing import CLASSES, MODEL_CHECKS


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request):
    return create_model(request.param, num_classes=CLASSES)


@pytest.mark.parametrize("check", MODEL_CHECKS.values(), ids=MODEL_CHECKS.keys())
def test_contract(model, check):
    check(model)


def test_unknown_model_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no model 'resnet21'\. Did you mean 'resnet2?"):
        create_model("resnet21", num_classes=10)


def test_depth_must_fit_the_family():
    with pytest.raises(ValueError, match=r"6·n \+ 2 .* got 18"):
        CifarResNet(18)


def test_norm_before_names_what_it_can_find():
    model = create_model("resnet8", num_classes=10)
    with pytest.raises(ValueError, match=r"'stage1' is not a batch normalisation's output"):
        model.norm_before("stage1")
    with pytest.raises(FeatureNotFound, match=r"no feature 'stage9'"):
        model.norm_before("stage9")
