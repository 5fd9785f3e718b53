"""Architectures equal the distillation benchmark's: weights load, logits and features agree."""

import json
import zlib

import numpy as np
import pytest
import torch

from topokd_lib.models import create_model

COUNTS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
}
POSITIONS = ("stem", "stage1", "stage2", "stage3", "pooled")


def fill(model, seed):
    """Weights made from the names and shapes of the state alone, so that none need to be stored."""
    state = model.state_dict()
    for key, value in state.items():
        shape = tuple(value.shape)
        rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
        if key.endswith("num_batches_tracked"):
            continue
        if len(shape) >= 2:
            filled = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            filled = rng.uniform(0.5, 1.5, shape)
        elif key.endswith("weight"):
            filled = rng.uniform(0.25, 0.75, shape)
        else:
            filled = 0.1 * rng.standard_normal(shape)
        state[key] = torch.from_numpy(filled.astype(np.float32))
    model.load_state_dict(state)
    return model


def images(seed, size):
    values = np.random.default_rng(seed).standard_normal((size, 3, 32, 32))
    return torch.from_numpy(values.astype(np.float32))


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    model = create_model(name, num_classes=100)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "resnet56", "resnet8x4"])
def test_logits_and_features(name, golden):
    expected = golden(f"models/filled_{name}")
    meta = json.loads(str(expected["meta"]))
    model = fill(create_model(name, num_classes=100), meta["fill_seed"]).eval()
    output = model.extract(images(meta["input_seed"], meta["batch"]), model.feature_names)
    np.testing.assert_allclose(output.logits.detach(), expected["logits"], atol=1e-5)
    for position, feature in enumerate(POSITIONS):
        found = output[feature].detach().numpy()
        np.testing.assert_allclose(np.linalg.norm(found), expected[f"feat{position}.norm"], rtol=1e-5)
        np.testing.assert_allclose(found.ravel()[:16], expected[f"feat{position}.head"], atol=1e-5)
    for position in (1, 2, 3):
        found = output[f"stage{position}.preact"].detach().numpy()
        np.testing.assert_allclose(found.ravel()[:16], expected[f"preact{position}.head"], atol=1e-5)


@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
def test_running_statistics_after_a_training_step(name, golden):
    expected = golden(f"models/filled_{name}")
    meta = json.loads(str(expected["meta"]))
    model = fill(create_model(name, num_classes=100), meta["fill_seed"]).train()
    logits = model(images(meta["train_input_seed"], meta["train_batch"]))
    np.testing.assert_allclose(logits.detach(), expected["train_logits"], rtol=1e-4, atol=1e-4)
    state = model.state_dict()
    for which in ("first", "last"):
        found = state[meta[f"{which}_bn"]].numpy()[:16]
        np.testing.assert_allclose(found, expected[f"train.running_mean_{which}"], atol=1e-5)


def test_published_weights_load(golden):
    weights = {
        k: torch.from_numpy(np.asarray(v)) for k, v in golden("topkd/resnet20_topkd_student_weights").items()
    }
    model = create_model("resnet20", num_classes=100)
    model.load_state_dict({key: weights[key] for key in model.state_dict()})
    expected = golden("topkd/resnet20_forward_A")
    output = model.eval().extract(torch.from_numpy(expected["x"]), ["pooled"])
    np.testing.assert_allclose(output.logits.detach(), expected["logits"], atol=1e-5)
    np.testing.assert_allclose(output["pooled"].detach(), expected["feat_pool"], atol=1e-5)


def test_weights_of_the_benchmark(golden):
    expected = golden("models/weights_resnet8")
    model = create_model("resnet8", num_classes=100)
    state = {
        k.removeprefix("sd."): torch.from_numpy(np.asarray(v))
        for k, v in expected.items()
        if k.startswith("sd.")
    }
    model.load_state_dict(state)
    logits = model.eval()(torch.from_numpy(expected["x"]))
    np.testing.assert_allclose(logits.detach(), expected["logits"], atol=1e-5)
