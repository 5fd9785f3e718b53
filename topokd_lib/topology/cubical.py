"""Cubical persistence of batches of images and volumes, differentiable with respect to the pixels.

A grid of pixels becomes a complex in two ways. Pixels as *vertices*: edges, squares and cubes between
neighbours enter with their last vertex, so that pixels join through their sides (4 neighbours in the plane).
Pixels as *top cells*: edges and corners enter with their first pixel, so that pixels also join through
corners (8 neighbours). The two give different diagrams; neither is a default of the field.

Reference:
    H. Wagner, C. Chen, E. Vuçini. Efficient computation of persistent homology for cubical data. 2012.
        [wagner2012cubical]
    H. Edelsbrunner, J. Harer. Computational Topology. 2010. [edelsbrunner2010computational]
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.critical import Places, check_function, check_options, diagrams_at, lower_star_places
from topokd_lib.topology.diagrams import PersistenceDiagrams

__all__ = ["cubical_diagrams"]


def cubical_diagrams(
    images: Float[Tensor, "batch height *width"],
    *,
    construction: Literal["vertices", "top-cells"],
    dimensions: Sequence[int] = (0, 1),
    superlevel: bool = False,
    essential: Literal["drop", "keep"] = "drop",
) -> tuple[PersistenceDiagrams, ...]:
    """Persistence diagrams of every image, filtered by its pixels.

    Births and deaths are in the unit of the pixels, and each is the value of one pixel, the vertex or the
    coface that gudhi names: the gradient goes there. Bars of length 0 are left out.

    Args:
        images: Images of one size, single channel, or volumes; fold channels into the batch with
            ``images.flatten(0, 1)``.
        construction: What a pixel is, ``"vertices"`` (4 neighbours) or ``"top-cells"`` (8 neighbours).
        dimensions: Homology dimensions, in the order in which they are returned.
        superlevel: Filter from above. Births and deaths are those of ``-images``, so that a bar still dies no
            earlier than it is born: a component as bright as 3 is born at -3.
        essential: ``"drop"`` the one bar that never dies, the component of the darkest pixel, or ``"keep"``
            it with the death infinity.

    Raises:
        ValueError: If the images have no batch axis, are empty, not real or not finite, or an option is
            unknown.

    Example:
        A dark ring around a bright pixel. Two bright pixels in opposite corners cut the ring between sides,
        but not across corners.

        >>> import torch
        >>> image = torch.tensor([[[5.0, 1, 1], [1, 9, 1], [1, 1, 5]]])
        >>> for construction in ("vertices", "top-cells"):
        ...     h0, h1 = cubical_diagrams(image, construction=construction)
        ...     print(construction, h0[0].tolist(), h1[0].tolist())
        vertices [[1.0, 5.0]] [[5.0, 9.0]]
        top-cells [] [[1.0, 9.0]]
    """
    if images.ndim < 3:
        raise ValueError(
            f"images have the axes (batch, height, width), got shape {tuple(images.shape)}; "
            f"add a batch axis with images[None], or see signal_diagrams for one axis"
        )
    check_function("images", images, "(image, row, column, …)")
    check_options(dimensions, essential)
    if construction not in ("vertices", "top-cells"):
        raise ValueError(f"pixels are 'vertices' or 'top-cells' of the complex, got {construction!r}")
    function = -images if superlevel else images
    arrays = function.detach().cpu().double().numpy()
    bars = [_critical_pixels(array, construction, dimensions) for array in arrays]
    flat = function.flatten(1)
    return tuple(
        diagrams_at(flat, [image[index] for image in bars], dimension, keep=essential == "keep")
        for index, dimension in enumerate(dimensions)
    )


def _critical_pixels(
    image: npt.NDArray[np.float64], construction: str, dimensions: Sequence[int]
) -> list[Places]:
    """Places in the flattened image, per dimension."""
    from gudhi import CubicalComplex

    if construction == "vertices":
        grid = CubicalComplex(vertices=image)
        grid.compute_persistence()
        generators = grid.vertices_of_persistence_pairs()
    else:
        grid = CubicalComplex(top_dimensional_cells=image)
        grid.compute_persistence()
        generators = grid.cofaces_of_persistence_pairs()
    # gudhi counts pixels with the first axis fastest, torch with the last; the place -1 (never) stays.
    renumbered = np.append(np.arange(image.size).reshape(image.shape).ravel(order="F"), -1)
    return [renumbered[lower_star_places(generators, dimension)] for dimension in dimensions]
