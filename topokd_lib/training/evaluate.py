"""How good a network is on images it was not trained on."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch.nn import functional as F

from topokd_lib.models import FeatureModel
from topokd_lib.outputs import Batch

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What a network achieves on a set of images.

    Args:
        top1: Fraction, between 0 and 1, of images whose true class has the largest logit.
        top5: Fraction whose true class is among the five largest; 1 with five classes or fewer.
        loss: Mean cross-entropy in nats.
        count: How many images.
    """

    top1: float
    top5: float
    loss: float
    count: int


@torch.no_grad()
def evaluate(fabric: Fabric, model: FeatureModel, batches: Iterable[Batch]) -> Evaluation:
    """Accuracy and cross-entropy of ``model`` on ``batches``, in evaluation mode.

    With several processes each brings its own share of the images, of whatever size; sums and counts are
    added over processes, so every image counts once. The model is moved to Fabric's device, and its mode is
    restored afterwards.

    Raises:
        ValueError: If there is no image on any process.
    """
    was_training = model.training
    fabric.to_device(model).eval()
    exact = torch.float32 if fabric.device.type == "mps" else torch.float64
    totals = torch.zeros(4, dtype=exact, device=fabric.device)
    for batch in map(fabric.to_device, batches):
        with fabric.autocast():
            logits = model(batch.images)
        logits, labels = logits.float(), batch.labels
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        totals[0] += hits[:, 0].sum()
        totals[1] += hits.sum()
        totals[2] += F.cross_entropy(logits, labels, reduction="sum")
        totals[3] += len(batch)
    model.train(was_training)
    top1, top5, loss, count = torch.as_tensor(fabric.all_reduce(totals, reduce_op="sum")).tolist()
    if count == 0:
        raise ValueError("there is no image to evaluate on; is the test set empty?")
    return Evaluation(top1 / count, top5 / count, loss / count, int(count))
