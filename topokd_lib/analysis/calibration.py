"""Whether a network is right as often as it says: calibration errors and proper scores.

Reference:
    C. Guo, G. Pleiss, Y. Sun, K. Weinberger. On Calibration of Modern Neural Networks. ICML 2017, §2.
    [guo2017calibration]
    G. Brier. Verification of Forecasts Expressed in Terms of Probability. 1950. [brier1950verification]
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Calibration", "measure_calibration"]


@dataclass(frozen=True)
class Calibration:
    """How far confidence and accuracy are apart, on one set of images.

    Args:
        ece: Expected calibration error, between 0 and 1.
        largest_gap: Of a bin that is not empty; the maximum calibration error.
        nll: Mean negative log-likelihood of the true class, in nats.
        brier: Mean squared distance of the probabilities to the truth, summed over classes, between 0 and 2.
        accuracy: Fraction of images whose largest probability is that of the true class.
        confidence: Mean largest probability.
        edges: Where the bins begin and end.
        counts: Images in each bin.
        bin_confidence: Mean confidence in each bin; NaN where it is empty.
        bin_accuracy: Accuracy in each bin; NaN where it is empty.
    """

    ece: float
    largest_gap: float
    nll: float
    brier: float
    accuracy: float
    confidence: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    bin_confidence: tuple[float, ...]
    bin_accuracy: tuple[float, ...]


def measure_calibration(
    logits: Float[Tensor, "images classes"],
    labels: Int[Tensor, " images"],
    *,
    bins: int = 15,
    binning: Literal["equal-width", "equal-mass"] = "equal-width",
    temperature: float = 1.0,
) -> Calibration:
    r"""Calibration of the most probable class, and two proper scores of all of them.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} \lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert, \qquad
              \mathrm{NLL} = -\frac{1}{n} \sum_i \log p_{i y_i}, \qquad
              \mathrm{Brier} = \frac{1}{n} \sum_i \sum_c (p_{ic} - [c = y_i])^2

    Bin :math:`b` of :math:`B` holds the images with a confidence in
    :math:`(\tfrac{b-1}{B}, \tfrac{b}{B}]`, as in the paper, which uses 15; ``"equal-mass"`` puts equally many
    images into each. The ECE depends on the bins, and is too large on few images; the scores have no bins.

    Args:
        logits: Of a network, not yet divided by a temperature.
        labels: Class numbers.
        bins: How many.
        binning: Where they end.
        temperature: Divides the logits first; above 1 it makes a network less sure.

    Raises:
        ValueError: If there is no image, a label has no class, a logit is not finite, or an option is out of
            range.

    Example:
        Three of four images right, and sure of all four:

        >>> logits = torch.tensor([[9.0, -9.0]] * 4)
        >>> found = measure_calibration(logits, torch.tensor([0, 0, 0, 1]))
        >>> round(found.ece, 3), round(found.brier, 3), found.counts[-1]
        (0.25, 0.5, 4)
    """
    count, classes = logits.shape
    if count == 0 or not logits.isfinite().all():
        raise ValueError(
            f"calibration needs finite logits of at least one image, got {count} images, of which "
            f"{int((~logits.isfinite()).any(dim=1).sum())} have a logit that is not finite"
        )
    if len(labels) != count or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"{count} images of {classes} classes need as many labels in 0 … {classes - 1}, got "
            f"{len(labels)} in {int(labels.min())} … {int(labels.max())}"
        )
    if bins < 1 or not temperature > 0 or binning not in ("equal-width", "equal-mass"):
        raise ValueError(
            f"bins and temperature must be positive, and bins of 'equal-width' or 'equal-mass', got "
            f"bins={bins}, temperature={temperature}, binning={binning!r}"
        )
    log_probabilities = F.log_softmax(logits.double() / temperature, dim=1)
    probabilities = log_probabilities.exp()
    confidence, predicted = probabilities.max(dim=1)
    right = (predicted == labels).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    if binning == "equal-mass":
        edges = torch.quantile(confidence, edges)
    edges = edges.to(confidence.device)
    place = torch.bucketize(confidence, edges[1:-1])
    counts = torch.bincount(place, minlength=bins)
    means = [torch.bincount(place, weights=x, minlength=bins) / counts for x in (confidence, right)]
    gaps = (means[0] - means[1]).abs()
    truth = F.one_hot(labels.long(), classes)
    return Calibration(
        ece=float((gaps.nan_to_num() * counts).sum() / count),
        largest_gap=float(gaps.nan_to_num().max()),
        nll=float(F.nll_loss(log_probabilities, labels.long())),
        brier=float((probabilities - truth).square().sum(dim=1).mean()),
        accuracy=float(right.mean()),
        confidence=float(confidence.mean()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        bin_confidence=tuple(means[0].tolist()),
        bin_accuracy=tuple(means[1].tolist()),
    )
