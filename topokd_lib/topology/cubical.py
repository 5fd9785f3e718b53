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
from importlib.util import find_spec
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from topokd_lib.topology.checks import check_tensor
from topokd_lib.topology.critical import (
    Places,
    check_function,
    check_options,
    diagrams_at,
    finish,
    lower_star_places,
)
from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.merging import merged_pixels

__all__ = ["cubical_diagrams"]


def cubical_diagrams(
    images: Float[Tensor, "batch height *width"],
    *,
    construction: Literal["vertices", "top-cells"],
    dimensions: Sequence[int] = (0, 1),
    superlevel: bool = False,
    essential: Literal["drop", "keep"] = "drop",
    engine: Literal["auto", "gudhi", "numba"] = "auto",
) -> tuple[PersistenceDiagrams, ...]:
    """Persistence diagrams of every image, filtered by its pixels.

    Births and deaths are in the unit of the pixels, and each is the value of one pixel, the vertex or the
    coface that enters last: the gradient goes there. Homology is taken modulo 2. Bars of length 0 are left
    out; the order of the others is that of the engine. Where pixels are equal, engines may name
    different ones.

    Args:
        images: Images of one size, single channel, or volumes; fold channels into the batch with
            ``images.flatten(0, 1)``.
        construction: What a pixel is, ``"vertices"`` (4 neighbours) or ``"top-cells"`` (8 neighbours).
        dimensions: Homology dimensions, in the order in which they are returned.
        superlevel: Filter from above. Births and deaths are those of ``-images``, so that a bar still dies no
            earlier than it is born: a component as bright as 3 is born at -3.
        essential: ``"drop"`` the one bar that never dies, the component of the darkest pixel, or ``"keep"``
            it with the death infinity.
        engine: What finds the bars; all find the same. ``"gudhi"`` works everywhere, and is fastest for top
            cells whose gradient is not asked for. ``"numba"`` (extra ``fast``) merges pixels of images in
            compiled code, seven times as fast wherever gudhi has to name pixels or works on vertices.
            ``"auto"`` takes the faster of those that can.

    Raises:
        TypeError: If the images are not a tensor.
        ValueError: If the images have no batch axis, are empty, not real or not finite, an option is
            unknown, or numba is asked for volumes.
        ImportError: If numba is asked for and not installed.

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
    check_tensor("images", images)
    if images.ndim < 3:
        raise ValueError(
            f"images have the axes (batch, height, width), got shape {tuple(images.shape)}; "
            f"add a batch axis with images[None], or see signal_diagrams for one axis"
        )
    check_function("images", images, "(image, row, column, …)")
    check_options(dimensions, essential)
    if construction not in ("vertices", "top-cells"):
        raise ValueError(f"pixels are 'vertices' or 'top-cells' of the complex, got {construction!r}")
    gradient = images.requires_grad and torch.is_grad_enabled()
    chosen = _choose(engine, planar=images.ndim == 3, indexed=gradient or construction == "vertices")
    function = -images if superlevel else images
    arrays = function.detach().cpu().double().numpy()
    keep = essential == "keep"
    if chosen == "gudhi" and not gradient:
        found = [bars.to(images) for bars in _values(arrays, construction, dimensions)]
        return tuple(
            finish(bars[..., 0], bars[..., 1], dimension, keep=keep)
            for dimension, bars in zip(dimensions, found, strict=True)
        )
    critical = _merged_places if chosen == "numba" else _critical_pixels
    places = [critical(array, construction, dimensions) for array in arrays]
    flat = function.flatten(1)
    return tuple(
        diagrams_at(flat, [image[index] for image in places], dimension, keep=keep)
        for index, dimension in enumerate(dimensions)
    )


def _choose(engine: str, *, planar: bool, indexed: bool) -> str:
    if engine not in ("auto", "gudhi", "numba"):
        raise ValueError(f"cubical persistence is computed by 'auto', 'gudhi' or 'numba', got {engine!r}")
    if engine == "numba" and not planar:
        raise ValueError("engine='numba' works on images, not on volumes; take engine='gudhi'")
    if engine == "auto":
        return "numba" if planar and indexed and find_spec("numba") else "gudhi"
    return engine


def _values(
    images: npt.NDArray[np.float64], construction: str, dimensions: Sequence[int]
) -> list[Float[Tensor, "batch bars 2"]]:
    """Births and deaths without the pixels that make them, per dimension; padded with bars of length 0."""
    from gudhi.sklearn import CubicalPersistence

    compute = CubicalPersistence(
        homology_dimensions=list(dimensions),
        homology_coeff_field=2,
        input_type="vertices" if construction == "vertices" else "top_dimensional_cells",
    )
    found = compute.fit_transform(list(images))
    return [
        pad_sequence([torch.from_numpy(image[index]) for image in found], batch_first=True)
        for index in range(len(dimensions))
    ]


def _merged_places(
    image: npt.NDArray[np.float64], construction: str, dimensions: Sequence[int]
) -> list[Places]:
    """As :func:`_critical_pixels`, in compiled code."""
    places = merged_pixels(image, corners=construction == "top-cells")
    none = np.empty((0, 2), np.int64)  # in the plane nothing has dimension 2
    return [places[dimension] if dimension < 2 else none for dimension in dimensions]


def _critical_pixels(
    image: npt.NDArray[np.float64], construction: str, dimensions: Sequence[int]
) -> list[Places]:
    """Places in the flattened image, per dimension."""
    from gudhi import CubicalComplex

    if construction == "vertices":
        grid = CubicalComplex(vertices=image)
        grid.compute_persistence(homology_coeff_field=2)
        generators = grid.vertices_of_persistence_pairs()
    else:
        grid = CubicalComplex(top_dimensional_cells=image)
        grid.compute_persistence(homology_coeff_field=2)
        generators = grid.cofaces_of_persistence_pairs()
    # gudhi counts pixels with the first axis fastest, torch with the last; the place -1 (never) stays.
    renumbered = np.append(np.arange(image.size).reshape(image.shape).ravel(order="F"), -1)
    return [renumbered[lower_star_places(generators, dimension)] for dimension in dimensions]
