"""Which axis of a volume is what, and the way from its blocks to pages and back.

Pages are planes of rows and columns: those of one time after the other (T), each from the first depth to the last (Z).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from self2self.arrays.axes import axes_of
from self2self.errors import InputError, UsageError, typed
from self2self.image_io.format import STORED_TYPES
from self2self.image_io.image import MAX_PIXELS, MIN_SIDE, Array
from self2self.image_io.volumes import Selection, Volume


@dataclass(frozen=True, slots=True)
class VolumeLayout:
    """The axes of a volume.

    Attributes:
        axes: a letter for each axis, of ``TZCSYX`` (`arrays.axes`).
        shape: of the array.
    """

    axes: str
    shape: tuple[int, ...]

    def length(self, letter: str) -> int:
        """Length of an axis; 1 without such an axis."""
        return self.shape[self.axes.index(letter)] if letter in self.axes else 1

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.length("T") * self.length("Z")

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a page."""
        return self.length("Y"), self.length("X")

    def page(self, time: int, depth: int) -> int:
        """The number of a page, from 0."""
        return time * self.length("Z") + depth

    def selection(self, times: slice, depths: slice, channels: slice, window: tuple[slice, slice]) -> Selection:
        """The part of the array with these pages, channels, rows and columns, and all samples of a colour."""
        parts = {
            "T": times,
            "Z": depths,
            "C": channels,
            "S": slice(0, self.length("S")),
            "Y": window[0],
            "X": window[1],
        }
        return tuple(parts[letter] for letter in self.axes)

    def as_pages(self, values: Array) -> Array:
        """Values of such a part as (pages, H, W, C), C channels or samples of a colour; a view where possible."""
        sizes = dict(zip(self.axes, values.shape, strict=True))
        order = [letter for letter in "TZYXCS" if letter in self.axes]
        moved = values.transpose([self.axes.index(letter) for letter in order])
        count, samples = (np.prod([sizes.get(letter, 1) for letter in pair], dtype=int) for pair in ("TZ", "CS"))
        return moved.reshape(count, sizes["Y"], sizes["X"], samples)

    def from_pages(self, pages: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `as_pages` for a part of the shape `shape`."""
        sizes = dict(zip(self.axes, shape, strict=True))
        order = [letter for letter in "TZYXCS" if letter in self.axes]
        moved = pages.reshape([sizes[letter] for letter in order])
        return np.ascontiguousarray(moved.transpose([order.index(letter) for letter in self.axes]))


def layout_of(volume: Volume, axes: str | None, channel_axis: int | None) -> VolumeLayout:
    """The axes of a volume: as the user gave them, else as the file names them, else guessed from the shape.

    Raises:
        UsageError: the letters do not fit the shape, or have to be given.
        InputError: rows and columns are too few or too many, or the type is none of an image.
    """
    if axes is None and channel_axis is None:
        axes = volume.axes
    try:
        letters = axes_of((), volume.shape, axes, channel_axis)
    except UsageError as error:
        raise UsageError(f"{volume.path}: {str(error).removeprefix('array: ')}") from error
    layout = VolumeLayout(letters, volume.shape)
    _check(volume.path, layout, volume.dtype)
    return layout


def _check(path: Path, layout: VolumeLayout, dtype: np.dtype[np.generic]) -> None:
    height, width = layout.size
    if min(layout.shape) < 1:
        raise InputError(f"{path}: has the shape {layout.shape}, so it is empty. Choose another array.")
    if min(height, width) < MIN_SIDE or height * width > MAX_PIXELS:
        raise InputError(
            f"{path}: with the axes {layout.axes}, pages have {height}x{width} pixels; expected at least "
            f"{MIN_SIDE}x{MIN_SIDE}, and at most {MAX_PIXELS / 1e6:.0f} megapixels. Say which axis is which, for "
            f"example {typed('--axes ZYX')}"
        )
    if dtype.name not in STORED_TYPES:
        raise InputError(
            f"{path}: has values of type {dtype.name}; expected integers of 8, 16 or 32 bits or floats of 16, 32 or 64 "
            "bits. Convert it."
        )
