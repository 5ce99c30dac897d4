"""Smaller levels of a volume: each is made of the one before it, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from self2self.image_io.image import Array
from self2self.image_io.volumes.volume import Selection

Edges = tuple[NDArray[np.intp], ...]
"""For each axis, the first element of the finer level that each element of the coarser one stands for, and the end."""


def edges_of(fine: tuple[int, ...], coarse: tuple[int, ...]) -> Edges:
    """Which elements of a level of the shape `fine` each element of the next, of the shape `coarse`, stands for.

    Where the lengths have a whole ratio, but for a rest at the end, as many elements make one; a rest of them is left
    out or makes the last, as the length says.
    """
    return tuple(_edges(*lengths) for lengths in zip(fine, coarse, strict=True))


def _edges(fine: int, coarse: int) -> NDArray[np.intp]:
    factor = max(1, round(fine / coarse))
    if coarse in (fine // factor, -(-fine // factor)):
        return np.minimum(np.arange(coarse + 1) * factor, fine)
    return np.arange(coarse + 1) * fine // coarse


def source_of(selection: Selection, edges: Edges) -> Selection:
    """The elements of the finer level that a block of the coarser one stands for."""
    return tuple(
        slice(int(ends[part.start]), int(ends[part.stop])) for part, ends in zip(selection, edges, strict=True)
    )


def means_of(values: Array, selection: Selection, edges: Edges) -> Array:
    """The means of `values`, the elements `source_of` a block of the coarser level, in their type.

    Integers are rounded to the nearest.
    """
    means: Array = values.astype(np.float64)
    for axis, (part, ends) in enumerate(zip(selection, edges, strict=True)):
        starts = ends[part.start : part.stop] - ends[part.start]
        counts = np.diff(ends[part.start : part.stop + 1])
        shape = [1] * values.ndim
        shape[axis] = -1
        means = np.add.reduceat(means, starts, axis=axis) / counts.reshape(shape)
    return (np.rint(means) if values.dtype.kind in "iu" else means).astype(values.dtype)
