"""What all tests share: seeds, one thread, and the golden values where they are present."""

import random
from pathlib import Path

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT.parent / "shared" / "golden"

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def _seeded():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (third-party code may read the global state)
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture
def unchecked():
    """Switch the shape checks of the test run off: what a user sees who passes the wrong shape."""
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003
    yield
    jaxtyping.config.update("jaxtyping_disable", False)  # noqa: FBT003


@pytest.fixture
def golden():
    """``golden("topkd/pd_pi_A")`` loads values that the methods' official code computed."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(
                f"golden values are not part of the project ({name}.npz is absent); "
                f"this comparison with official code runs where they are"
            )
        with np.load(path) as arrays:
            return dict(arrays)

    return load
