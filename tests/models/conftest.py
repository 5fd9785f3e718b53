"""What the comparisons with the distillation benchmark share."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

SHARED = Path(__file__).resolve().parents[3] / "shared"


def _require(path):
    if not path.exists():
        pytest.skip(
            f"reference values are not part of the project ({path.name} is absent); "
            f"this test runs where they are"
        )
    return path


@pytest.fixture
def golden_json():
    """``golden_json("models/param_counts")`` loads what was measured on the benchmark's networks."""
    return lambda name: json.loads(_require(SHARED / "golden" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def published_arrays():
    """``published_arrays("weights/tgd/…")`` loads weights or images that were published by others."""

    def load(name):
        with np.load(_require(SHARED / f"{name}.npz")) as arrays:
            return {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}

    return load


@pytest.fixture
def fill():
    """Weights made from the names and shapes of the state alone, so that none need to be stored."""

    def filled(model, seed):
        state = model.state_dict()
        for key, value in state.items():
            shape = tuple(value.shape)
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
            if key.endswith("num_batches_tracked"):
                continue
            if len(shape) >= 2:
                numbers = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
            elif key.endswith("running_var"):
                numbers = rng.uniform(0.5, 1.5, shape)
            elif key.endswith("weight"):
                numbers = rng.uniform(0.25, 0.75, shape)
            else:
                numbers = 0.1 * rng.standard_normal(shape)
            state[key] = torch.from_numpy(numbers.astype(np.float32))
        model.load_state_dict(state)
        return model

    return filled


@pytest.fixture
def images():
    """``images(seed, size)``: random images of 32×32 pixels."""

    def make(seed, size):
        values = np.random.default_rng(seed).standard_normal((size, 3, 32, 32))
        return torch.from_numpy(values.astype(np.float32))

    return make
