"""MobileNetV1 is the distillation literature's, to the parameter name."""

import numpy as np
import pytest
import torch

from topokd_lib.models import MobileNetV1, create_model, describe


def test_size_is_the_one_that_the_literature_reports():
    """4.23 million parameters; MACs by hand: a block is 9·in + in·out numbers at every position behind it."""
    size = describe("mobilenetv1")
    sides_and_widths = [(112, 32, 64), (56, 64, 128), (56, 128, 128), (28, 128, 256), (28, 256, 256)]
    sides_and_widths += [(14, 256, 512), *[(14, 512, 512)] * 5, (7, 512, 1024), (7, 1024, 1024)]
    blocks = sum(side**2 * width * (9 + out) for side, width, out in sides_and_widths)
    assert size.parameters == 4_231_976
    assert size.macs == 112**2 * 27 * 32 + blocks + 1024 * 1000
    assert round(size.macs / 1e6, 1) == 568.7


def test_features_have_the_shapes_that_the_literature_distils():
    features = describe("mobilenetv1").features
    assert features["stem"] == (32, 112, 112)
    stages = [features[f"stage{k}"] for k in range(1, 5)]
    assert stages == [(128, 56, 56), (256, 28, 28), (512, 14, 14), (1024, 7, 7)]
    assert (features["pooled"], features["cam"]) == ((1024,), (1000, 7, 7))


def test_parameters_have_the_names_of_published_weights():
    with torch.device("meta"):
        model = MobileNetV1()
    keys = list(model.state_dict())
    assert len(keys) == 6 * 27 + 2
    assert keys[:2] == ["model.0.0.weight", "model.0.1.weight"]
    assert keys[-2:] == ["fc.weight", "fc.bias"]
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert state["model.1.0.weight"] == (32, 1, 3, 3)
    assert state["model.13.3.weight"] == (1024, 1024, 1, 1)
    assert state["model.13.4.running_var"] == (1024,)


def test_it_computes_what_the_shared_code_computes(fill):
    """Numbers of mdistiller's ``MobileNetV1`` at a08d46f, with the same weights and image."""
    model = fill(create_model("mobilenetv1", num_classes=1000), 5).eval()
    values = np.random.default_rng(33).standard_normal((1, 3, 224, 224))
    with torch.no_grad():
        output = model.extract(torch.from_numpy(values.astype(np.float32)), model.feature_names)
    expected = [-0.06361108, -0.30586466, -0.06498770, 0.09184067]
    np.testing.assert_allclose(output.logits[0, :4], expected, atol=1e-5)
    norms = {
        "stage1": 58.745472,
        "stage1.preact": 80.254929,
        "stage2": 46.723637,
        "stage2.preact": 65.176857,
        "stage3": 30.134077,
        "stage3.preact": 42.439919,
        "stage4": 20.201418,
        "stage4.preact": 30.040968,
        "pooled": 2.865478,
    }
    for feature, norm in norms.items():
        np.testing.assert_allclose(output[feature].norm().item(), norm, rtol=1e-5)


def test_weights_by_name_are_refused_with_a_way_out():
    with pytest.raises(ValueError, match=r"asked for 'IMAGENET1K_V1' of 'mobilenetv1'.*load_state_dict"):
        create_model("mobilenetv1", num_classes=1000, weights="IMAGENET1K_V1")
