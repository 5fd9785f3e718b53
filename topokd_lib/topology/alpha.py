"""Alpha persistence of batches of point clouds: the right complex in the plane and in space.

Balls of radius r grow around the points. The alpha complex is the part of the Delaunay triangulation that has
the shape of their union: far fewer simplices than Vietoris–Rips, and no approximation. Three units are in use
for the same filtration, so that the unit has to be named here each time.

Reference:
    H. Edelsbrunner, J. Harer. Computational Topology. 2010, §III.4. [edelsbrunner2010computational]
    C. Maria et al. The Gudhi library. ICMS 2014. [maria2014gudhi]
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from topokd_lib.topology.critical import check_options
from topokd_lib.topology.diagrams import PersistenceDiagrams
from topokd_lib.topology.spanning_tree import check_points

__all__ = ["alpha_diagrams"]

Array = npt.NDArray[np.float64]

UNITS: dict[str, Callable[[Array], Array]] = {
    "radius": lambda squared: np.sqrt(squared.clip(min=0)),
    "diameter": lambda squared: 2 * np.sqrt(squared.clip(min=0)),
    "squared radius": lambda squared: squared,
}
"""From the squared radius, in which gudhi computes, to the unit asked for."""


def alpha_diagrams(
    points: Float[Tensor, "batch points dim"],
    *,
    unit: Literal["radius", "diameter", "squared radius"],
    dimensions: Sequence[int] = (0, 1),
    essential: Literal["drop", "keep"] = "drop",
) -> tuple[PersistenceDiagrams, ...]:
    """Persistence diagrams of the alpha filtration of every cloud, through gudhi, in float64 inside.

    In the unit ``"diameter"`` values compare with those of :func:`~topokd_lib.topology.rips.rips_diagrams`:
    in dimension 0 the diagrams are the same; above, the filtrations differ, and so do the diagrams. Homology
    is taken modulo 2. Bars of length 0 are left out, and a duplicate of a point adds no bar.

    There is no gradient: the diagrams are constants. Use Rips, or
    :func:`~topokd_lib.topology.spanning_tree.h0_deaths`, in a loss. The triangulation grows quickly with the
    dimension of the space: meant for two and three.

    Args:
        points: Clouds of one size.
        unit: What values measure. ``"radius"`` of the balls; ``"diameter"``, twice that;
            ``"squared radius"``, gudhi's own default.
        dimensions: Homology dimensions, in the order in which they are returned.
        essential: ``"drop"`` the one bar that never dies, in dimension 0, or ``"keep"`` it with the death
            infinity.

    Raises:
        InvalidPoints: See :func:`~topokd_lib.topology.check_points`.
        ValueError: If the unit, the dimensions or ``essential`` are unknown.

    Example:
        Balls around the corners of a square of side 2 touch at radius 1 and fill it at half the diagonal.

        >>> square = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]])
        >>> for unit in ("radius", "diameter", "squared radius"):
        ...     h0, h1 = alpha_diagrams(square, unit=unit)
        ...     print(unit, h0.deaths[0].tolist(), [round(value, 4) for value in h1[0][0].tolist()])
        radius [1.0, 1.0, 1.0] [1.0, 1.4142]
        diameter [2.0, 2.0, 2.0] [2.0, 2.8284]
        squared radius [1.0, 1.0, 1.0] [1.0, 2.0]
    """
    check_points(points)
    check_options(dimensions, essential)
    if unit not in UNITS:
        raise ValueError(f"alpha values are measured in one of {', '.join(map(repr, UNITS))}, got {unit!r}")
    dtype = torch.float64 if points.dtype == torch.float64 else torch.float32
    clouds = [_bars(cloud, dimensions) for cloud in points.detach().cpu().double().numpy()]
    diagrams = []
    for index, dimension in enumerate(dimensions):
        bars = [UNITS[unit](cloud[index]) for cloud in clouds]
        tensors = [torch.from_numpy(rows).to(points.device, dtype) for rows in bars]
        kept = [
            rows[(rows[:, 1] > rows[:, 0]) & (rows[:, 1].isfinite() | (essential == "keep"))]
            for rows in tensors
        ]
        diagrams.append(PersistenceDiagrams.from_list(kept, dimension))
    return tuple(diagrams)


def _bars(points: Array, dimensions: Sequence[int]) -> list[Array]:
    """Bars per dimension, in squared radii."""
    from gudhi import AlphaComplex

    tree = AlphaComplex(points=points).create_simplex_tree()
    tree.compute_persistence(homology_coeff_field=2, persistence_dim_max=True)
    return [tree.persistence_intervals_in_dimension(dimension).reshape(-1, 2) for dimension in dimensions]
