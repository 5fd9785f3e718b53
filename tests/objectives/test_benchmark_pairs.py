"""Feature objectives run on the benchmark's thirteen pairs: shapes meet, and so do devices."""

import pytest
import torch

from tests.objectives.reference import CROSS_STYLE, SAME_STYLE, benchmark_pair
from topokd_lib import objectives
from topokd_lib.outputs import Batch, ModelOutput

BATCH = 4


@pytest.mark.parametrize("names", [*SAME_STYLE, *CROSS_STYLE], ids="-".join)
@pytest.mark.parametrize(
    "method",
    [
        *("FitNet", "AT", "NST", "VID", "OFD", "SP", "CC", "RKD", "PKT"),
        *("SRRL", "ReviewKD", "MGD", "CATKD"),
    ],
)
def test_a_batch_passes(names, method):
    """On the meta device, which has shapes and no numbers."""
    pair = benchmark_pair(*names)
    objective = getattr(objectives, method)(pair).to("meta")
    with torch.device("meta"):
        outputs = [
            ModelOutput(torch.zeros(BATCH, 100), {name: torch.zeros(BATCH, *shapes[name]) for name in wanted})
            for shapes, wanted in (
                (pair.student_shapes, objective.student_features),
                (pair.teacher_shapes, objective.teacher_features),
            )
        ]
        labels = torch.zeros(BATCH, dtype=torch.long)
        batch = Batch(torch.zeros(BATCH, 3, 32, 32), labels, labels)
    loss = objective(*outputs, batch)
    assert (loss.shape, loss.dtype, loss.device.type) == ((), torch.float32, "meta")
