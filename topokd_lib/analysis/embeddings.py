"""Features of many images as points in the plane."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["umap_embedding"]


def umap_embedding(
    points: Float[Tensor, "points dim"],
    *,
    neighbours: int = 15,
    minimum_distance: float = 0.1,
    metric: str = "euclidean",
    seed: int = 0,
) -> Float[Tensor, "points 2"]:
    """UMAP: points in the plane whose neighbours are those of the points in many dimensions.

    Distances between groups, and the size of a group, mean little; who is near whom means something. The same
    seed gives the same picture on one machine, and UMAP uses one core for that.

    Args:
        points: Features, one row for each image.
        neighbours: How many are kept near; few show detail, many the whole.
        minimum_distance: Between points of the picture.
        metric: Of the features; one that UMAP knows, such as ``"cosine"``.
        seed: Of the start and of the descent.

    Raises:
        ImportError: If umap-learn is not installed.
        ValueError: If there are not more points than neighbours, or a coordinate is not finite.

    Reference:
        L. McInnes, J. Healy, J. Melville. UMAP. 2018. [mcinnes2018umap]

    Example:
        >>> from topokd_lib.data import load_digits
        >>> images = load_digits(size=8).test_images[:60, 0].flatten(1).float()
        >>> umap_embedding(images, neighbours=5).shape
        torch.Size([60, 2])
    """
    if not 2 <= neighbours < len(points):
        raise ValueError(
            f"UMAP joins each point with 2 or more of the others, got neighbours={neighbours} and "
            f"{len(points)} points"
        )
    if not points.isfinite().all():
        raise ValueError(
            f"features must be finite, {int((~points.isfinite()).any(dim=1).sum())} points are not"
        )
    try:
        from umap import UMAP
    except ModuleNotFoundError as error:
        raise ImportError(
            "an embedding by UMAP needs umap-learn, which is not installed: pip install 'topokd-lib[book]' "
            "or pip install umap-learn"
        ) from error
    reducer = UMAP(
        n_neighbors=neighbours, min_dist=minimum_distance, metric=metric, random_state=seed, n_jobs=1
    )
    with warnings.catch_warnings():
        # A seed switches parallel work off, which is asked for here; scikit-learn renamed an argument.
        warnings.simplefilter("ignore")
        placed = reducer.fit_transform(points.detach().cpu().numpy())
    return torch.from_numpy(placed).to(points.dtype)
