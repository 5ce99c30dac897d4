"""Turn an image into its eight orientations: mirrored, transposed, or both.

Fits and ensembles use orientations as additional views of one image. An orientation is a number from 0 to 7: bit 0
mirrors left and right, bit 1 mirrors top and bottom, and bit 2 transposes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", bound=np.generic)

MIRROR_ORIENTATIONS = 4
"""Number of orientations without a transposition: 0 to 3 keep the shape, 4 to 7 swap height and width."""


@overload
def oriented(values: NDArray[T], orientation: int) -> NDArray[T]: ...
@overload
def oriented(values: Tensor, orientation: int) -> Tensor: ...
def oriented(values: NDArray[T] | Tensor, orientation: int) -> NDArray[T] | Tensor:
    """Return [..., H, W] in an orientation: a view of an array; a copy of a tensor if it is mirrored, else a view."""
    axes = tuple(axis for bit, axis in ((1, -1), (2, -2)) if orientation & bit)
    if axes:
        values = np.flip(values, axes) if isinstance(values, np.ndarray) else values.flip(axes)
    return values.swapaxes(-2, -1) if orientation & 4 else values


@overload
def undo_orientation(values: NDArray[T], orientation: int) -> NDArray[T]: ...
@overload
def undo_orientation(values: Tensor, orientation: int) -> Tensor: ...
def undo_orientation(values: NDArray[T] | Tensor, orientation: int) -> NDArray[T] | Tensor:
    """Return the upright image of `values`, which are in `orientation`: the inverse of `oriented`."""
    return oriented(oriented(values, orientation & 4), orientation & 3)
