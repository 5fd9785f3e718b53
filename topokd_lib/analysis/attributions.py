"""Whether student and teacher look at the same pixels: agreement of attribution maps.

Reference:
    J. Adebayo et al. Sanity Checks for Saliency Maps. NeurIPS 2018. [adebayo2018sanity]
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.models import FeatureModel, Teacher
from topokd_lib.outputs import Batch
from topokd_lib.prepare import attribution_map, integrated_gradients

__all__ = ["AttributionAgreement", "attribution_agreement", "compare_attributions"]


@dataclass(frozen=True)
class AttributionAgreement:
    """How alike the attribution maps of two networks are, averaged over images.

    Args:
        rank_correlation: Spearman's, over the pixels of an image; 1 for the same order.
        overlap: Intersection over union of the two networks' most important pixels.
        other_rank_correlation: The same with maps of *other* images on one side: what the maps have in common
            whatever the image, such as that objects are in the middle. Only what is above it is agreement.
        other_overlap: Likewise.
        images: How many.
    """

    rank_correlation: float
    overlap: float
    other_rank_correlation: float
    other_overlap: float
    images: int


def attribution_agreement(
    first: Float[Tensor, "images height width"],
    second: Float[Tensor, "images height width"],
    *,
    share: float = 0.1,
) -> AttributionAgreement:
    r"""Compare two sets of attribution maps, image by image.

    Rank correlation is blind to how the values are spread, and so to the size of the logits; the overlap

    .. math:: \frac{\lvert A \cap B \rvert}{\lvert A \cup B \rvert}

    of the sets of the most important pixels is blind to all others. For the control, each image is compared
    with the next one.

    Args:
        first: Maps of one network.
        second: Maps of another, of the same images.
        share: Fraction of pixels that count as the most important, at least one.

    Raises:
        ValueError: If shapes differ, there are fewer than two images, a map is constant and so has no order,
            or the share is out of range.

    Example:
        >>> maps = torch.rand(4, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> same = attribution_agreement(maps, 3 * maps**2)  # another scale, the same order
        >>> round(same.rank_correlation, 6), same.overlap
        (1.0, 1.0)
        >>> abs(same.other_rank_correlation) < 0.3
        True
    """
    if first.shape != second.shape or len(first) < 2:
        raise ValueError(
            f"maps of the same images are compared, at least two of them; got shapes {tuple(first.shape)} "
            f"and {tuple(second.shape)}"
        )
    if not 0 < share < 1:
        raise ValueError(f"the share of important pixels lies between 0 and 1, got share={share}")
    ranks = [_centred_ranks(maps) for maps in (first, second)]
    pixels = ranks[0].shape[1]
    important = max(1, round(share * pixels))
    tops = [torch.zeros_like(r).scatter_(1, r.topk(important, dim=1).indices, 1.0) for r in ranks]

    def correlation(other: Tensor) -> float:
        return float((ranks[0] * other).sum(dim=1).mean())

    def overlap(other: Tensor) -> float:
        common = (tops[0] * other).sum(dim=1)
        return float((common / (2 * important - common)).mean())

    return AttributionAgreement(
        rank_correlation=correlation(ranks[1]),
        overlap=overlap(tops[1]),
        other_rank_correlation=correlation(ranks[1].roll(1, 0)),
        other_overlap=overlap(tops[1].roll(1, 0)),
        images=len(first),
    )


def compare_attributions(
    student: FeatureModel,
    teacher: Teacher,
    batch: Batch,
    *,
    steps: int = 50,
    share: float = 0.1,
) -> AttributionAgreement:
    """Agreement of the integrated gradients of two networks for the labels of a batch.

    Args:
        student: Left in evaluation mode.
        teacher: With its own normalisation, in whose zero its baseline lies.
        batch: A few dozen images; each takes ``steps`` passes through both networks.
        steps: See :func:`~topokd_lib.prepare.integrated_gradients`.
        share: See :func:`attribution_agreement`.

    Raises:
        ImportError: If captum is not installed.
        ValueError: As :func:`attribution_agreement`.

    Example:
        A network agrees with itself, and another untrained one with it less:

        >>> from topokd_lib.testing import toy_batch, toy_pair
        >>> pair, batch = toy_pair(), toy_batch(4)
        >>> same = compare_attributions(pair.teacher.model, pair.teacher, batch, steps=4)
        >>> other = compare_attributions(pair.student, pair.teacher, batch, steps=4)
        >>> round(same.rank_correlation, 4), other.rank_correlation < 0.9
        (1.0, True)
    """
    images = batch.images
    seen = images * teacher.scale + teacher.shift if teacher.scale.numel() else images
    maps = [
        attribution_map(integrated_gradients(model.eval(), x, batch.labels, steps=steps)[0])
        for model, x in ((student, images), (teacher.model, seen))
    ]
    return attribution_agreement(*maps, share=share)


def _centred_ranks(maps: Tensor) -> Tensor:
    """Ranks of the pixels of each map, ties shared, centred and of length 1: products are correlations."""
    from scipy.stats import rankdata  # half a second and 30 MB, which only this function needs

    ranks = torch.from_numpy(rankdata(maps.detach().flatten(1).cpu().double().numpy(), axis=1))
    centred: Tensor = ranks - ranks.mean(dim=1, keepdim=True)
    lengths = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    if (lengths == 0).any():
        raise ValueError(
            f"map {int((lengths[:, 0] == 0).nonzero()[0])} is the same everywhere: its pixels have no order"
        )
    directions: Tensor = centred / lengths
    return directions
