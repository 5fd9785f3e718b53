"""Weights of other collections load strictly, and the networks classify as their authors' do."""

import pytest
import torch

from topokd_lib.errors import UnknownName
from topokd_lib.models import create_model, translate_state

GKD_NORMALISATION = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
TGD_NORMALISATION = ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))
"""Numbers of CIFAR-100, which the authors of TGD use for CIFAR-10."""


def _errors(model, data, normalisation, count):
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in normalisation)
    images, labels = data["images"][:count] / 255, data["labels"][:count]
    with torch.no_grad():
        predictions = [model.eval()((part - mean) / std).argmax(dim=1) for part in images.split(128)]
    return int((torch.cat(predictions) != labels).sum())


@pytest.mark.parametrize(
    ("file", "name", "parameters", "error"),
    [
        ("wrn28_0p5_gkd_seed0", "gkd_wrn_28_0.5", 94_154, 8.55),
        ("wrn28_0p5_rkd_seed0", "gkd_wrn_28_0.5", 94_154, 8.65),
        pytest.param("wrn28_1_teacher_seed0", "gkd_wrn_28_1", 369_690, 6.59, marks=pytest.mark.slow),
    ],
)
def test_networks_of_graph_kd(file, name, parameters, error, published_arrays):
    """Error in percent on the first 1,017 test images of CIFAR-10 in original quality."""
    model = create_model(name, num_classes=10)
    model.load_state_dict(translate_state(published_arrays(f"weights/gkd/{file}"), "graph_kd"))
    assert sum(p.numel() for p in model.parameters()) == parameters
    data = published_arrays("data/cifar10_test_lossless1017")
    assert round(100 * _errors(model, data, GKD_NORMALISATION, 1017) / 1017, 2) == error


@pytest.mark.parametrize("which", ["wrn161_Student", "T163_S161_kd", "T163_S161_TGD"])
def test_networks_of_tgd(which, published_arrays):
    """Their accuracy on images of original quality was never published; on JPEGs it is 75 to 77 percent."""
    weights = published_arrays("weights/tgd/wrn161_weights")
    state = {k.removeprefix(f"{which}/"): v for k, v in weights.items() if k.startswith(f"{which}/")}
    model = create_model("wrn_16_1", num_classes=10)
    model.load_state_dict(translate_state(state, "tgd"))
    assert sum(p.numel() for p in model.parameters()) == 175_066
    data = published_arrays("data/cifar10_test_lossless1017")
    assert _errors(model, data, TGD_NORMALISATION, 512) < 0.25 * 512


def test_all_parameters_are_translated_and_none_twice():
    keys = ("bn.weight", "layer1.0.shortcut.0.weight", "linear.bias", "layer1.0.bn1.bias")
    state = dict.fromkeys(keys, torch.zeros(1))
    assert list(translate_state(state, "graph_kd")) == [
        "bn1.weight",
        "layer1.0.downsample.0.weight",
        "fc.bias",
        "layer1.0.bn1.bias",
    ]


def test_an_unknown_source_is_answered_with_the_nearest():
    with pytest.raises(UnknownName, match=r"no source of weights 'tdg'\. Did you mean 'tgd'"):
        translate_state({}, "tdg")
