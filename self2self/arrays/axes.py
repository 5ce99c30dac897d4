"""Which axes of an array are pages, colours and channels, and the way to the pages of a stack and back.

Letters are those of ImageJ and OME: T time, Z depth, C channel, S sample of a colour (RGB or RGBA), Y row, X column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from self2self.errors import InputError, UsageError, typed
from self2self.image_io.image import MIN_SIDE
from self2self.machine.arguments import text, whole_number

Array = NDArray[Any]

LETTERS = "TZCSYX"
COLOURS = (1, 3, 4)
"""Lengths of a last axis that is taken for the samples of a colour, and of an axis S: grey, RGB, RGB with alpha."""
NARROWER = (np.uint16, np.int32, np.uint32)
"""Types that take the place of integers of 64 bits. Not that of 8 bits, whose black and white are known: a table of
small counts is no photograph."""


def as_numpy(noisy: ArrayLike) -> Array:
    """The values of `noisy` in NumPy: of NumPy, xarray, dask and zarr arrays, nested lists, and torch tensors.

    A masked array stays one.

    Raises:
        UsageError: `noisy` is a path.
        InputError: it is no array.
    """
    if isinstance(noisy, str) or hasattr(noisy, "__fspath__"):
        raise UsageError(
            f"got the path {noisy!r}; expected an array. Read the file first, or write its result beside it: "
            f"self2self.denoise_job({str(noisy)!r})"
        )
    if isinstance(noisy, np.ma.MaskedArray):
        return noisy
    try:
        if hasattr(noisy, "detach"):
            # NumPy refuses tensors that need a gradient or are on a GPU.
            noisy = noisy.detach().cpu()
        return np.asarray(noisy)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(f"array: numpy.asarray cannot convert it ({error}). Convert it first.") from error


def storable(array: Array) -> Array:
    """`array` in a type that files have, too: integers of 64 bits in the first of `NARROWER` that holds all of them.

    Raises:
        InputError: there is none.
    """
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or not array.size:
        return array
    values = np.ma.getdata(array)
    least, most = int(values.min()), int(values.max())
    for dtype in NARROWER:
        if np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
            return array.astype(dtype)
    raise InputError(
        f"array: has {array.dtype} values from {least} to {most}; expected values of 32 bits, from "
        f"{np.iinfo(np.int32).min} or up to {np.iinfo(np.uint32).max}. Convert it: noisy.astype(float)"
    )


def axes_of(noisy: ArrayLike, shape: tuple[int, ...], axes: str | None, channel_axis: int | None) -> str:
    """The letter of each axis.

    Args:
        noisy: the array; the names of an xarray's dimensions count if each is one of the letters.
        shape: its shape.
        axes: the letters, as the user gave them; None for a guess.
        channel_axis: number of the axis C, in place of `axes`; None for none.

    Raises:
        UsageError: the letters are wrong, do not fit the shape, or have to be given.
    """
    axes = None if axes is None else text("axes", axes)
    channel_axis = None if channel_axis is None else whole_number("channel_axis", channel_axis)
    if axes is not None and channel_axis is not None:
        raise UsageError(
            f"{typed('--axes', axes)} and {typed('--channel-axis', channel_axis)}: give one of them; C is the "
            "channel axis."
        )
    if axes is not None:
        return _checked(axes, shape)
    if channel_axis is not None:
        if not -len(shape) <= channel_axis < len(shape):
            raise UsageError(f"{typed('--channel-axis')} is {channel_axis}; the array has {len(shape)} axes.")
        rest = list(_pages_and(len(shape) - 1, "YX", shape))
        rest.insert(channel_axis % len(shape), "C")
        return _checked("".join(rest), shape)
    names = "".join(str(name) for name in getattr(noisy, "dims", ())).upper()
    if len(names) == len(shape) and set(names) <= set(LETTERS) and {"Y", "X"} <= set(names):
        return _checked(names, shape)
    if len(shape) >= 3 and shape[-1] in COLOURS:
        return _pages_and(len(shape), "YXS", shape)
    if len(shape) >= 3 and shape[-1] < MIN_SIDE <= shape[-2]:
        raise UsageError(
            f"array: has the shape {shape}, and its last axis is too short for the columns of an image. Say which axis "
            f"is which, for example {typed('--axes', 'TZYXC'[-len(shape) :])}"
        )
    return _pages_and(len(shape), "YX", shape)


def _pages_and(count: int, image_axes: str, shape: tuple[int, ...]) -> str:
    """The letters of `count` axes of which the last are `image_axes` and the first are pages."""
    pages = {0: "", 1: "T", 2: "TZ"}.get(count - len(image_axes))
    if pages is None:
        expected = "expected at least rows and columns" if count < 2 else f"say which axis is which, {_example()}"
        raise UsageError(f"array: has the shape {shape}; {expected}.")
    return pages + image_axes


def _checked(axes: str, shape: tuple[int, ...]) -> str:
    letters = axes.upper()
    if len(letters) != len(shape):
        raise UsageError(
            f"{typed('--axes', axes)} has {len(letters)} letters; the array has {len(shape)} axes, {shape}."
        )
    if set(letters) - set(LETTERS) or len(set(letters)) != len(letters) or not {"Y", "X"} <= set(letters):
        raise UsageError(
            f"{typed('--axes', axes)}; expected Y, X and others of {', '.join(LETTERS)}, each once, {_example()}."
        )
    if "S" in letters and (samples := shape[letters.index("S")]) not in COLOURS:
        raise UsageError(
            f"{typed('--axes', axes)}: S has {samples} samples; expected 1, 3 (RGB) or 4 (RGBA). Other channels: C."
        )
    return letters


def _example() -> str:
    return f"for example {typed('--axes TZYX')}"


@dataclass(frozen=True, slots=True)
class Layout:
    """The axes of an array.

    Attributes:
        axes: a letter for each axis.
        shape: of the array.
    """

    axes: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Number of channels (C); 1 without such an axis."""
        return self._length("C")

    @property
    def colours(self) -> int:
        """Number of samples of a colour (S); 1 without such an axis."""
        return self._length("S")

    @classmethod
    def of(cls, noisy: ArrayLike, axes: str | None, channel_axis: int | None) -> tuple[Array, Layout]:
        """The values of `noisy` in NumPy, and their layout; arguments and errors are those of `as_numpy`, `axes_of`."""
        array = as_numpy(noisy)
        if not array.size:
            raise InputError(
                f"array: has the shape {array.shape}, so it is empty; expected at least {MIN_SIDE}x{MIN_SIDE} pixels."
            )
        return array, cls(axes_of(noisy, array.shape, axes, channel_axis), array.shape)

    def pages_of(self, array: Array) -> Array:
        """The array, of this layout, as (pages, channels, H, W, samples); a view where that is possible."""
        moved = array.transpose([self.axes.index(letter) for letter in self._order])
        return moved.reshape(-1, self.channels, self._length("Y"), self._length("X"), self.colours)

    def array_of(self, pages: Array) -> Array:
        """The inverse of `pages_of`; the result is contiguous."""
        moved = pages.reshape([self._length(letter) for letter in self._order])
        return np.ascontiguousarray(moved.transpose([self._order.index(letter) for letter in self.axes]))

    @property
    def _order(self) -> str:
        pages = "".join(letter for letter in self.axes if letter in "TZ")
        return pages + "".join(letter for letter in "CYXS" if letter in self.axes)

    def _length(self, letter: str) -> int:
        return self.shape[self.axes.index(letter)] if letter in self.axes else 1
