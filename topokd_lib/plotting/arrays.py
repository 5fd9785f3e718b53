"""Numbers on their way into a figure."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["as_rows"]


def as_rows(values: Tensor | ArrayLike, what: str) -> NDArray[np.float64]:
    """Tensor, array or nested list as a float array of shape (rows, 2); gradients stay behind.

    Args:
        values: Rows of two numbers. An empty list has no rows.
        what: Name of the values, for the message.

    Raises:
        ValueError: If a row does not hold two numbers, or one is NaN.

    Example:
        >>> as_rows([(0, 1), (0, float("inf"))], "pairs")
        array([[ 0.,  1.],
               [ 0., inf]])
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    rows = np.asarray(values, dtype=float)
    if rows.size == 0:
        return np.empty((0, 2))
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise ValueError(
            f"{what} must have shape (rows, 2), found {rows.shape}; "
            f"pick one item of a batch, or two columns, before drawing"
        )
    if np.isnan(rows).any():
        row = int(np.isnan(rows).any(axis=1).argmax())
        raise ValueError(f"{what} must be numbers, row {row} is {rows[row].tolist()}")
    return rows
