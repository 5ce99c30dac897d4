"""Cut an image that needs more than the memory budget into tiles, and put the tiles together again.

All tiles have one size, so that one prepared engine serves them all. They start at multiples of 32 pixels, so that the
network pools the same pixels together as in the whole image. Neighbouring tiles overlap by `OVERLAP` pixels or more.
The `MARGIN` beside the edge of a tile is not used at all, because the padding of the convolutions shows there. Over the
`RAMP` in the middle of an overlap, one tile fades into the next along a raised cosine. The weights of all tiles sum to
one at every pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.outliers import blend_noisy_image, restore_outliers
from self2self.imaging.padding import Padding, padded_size
from self2self.model.contract import SIZE_MULTIPLE, Contract
from self2self.runtime.model import Model

MARGIN = 16
"""Pixels beside the edge of a tile that are not used.

Measured with the start weights on the example, 512x512, four passes with the masks of the whole image: a cut changes
the prediction by 3.7 grey levels (RMS) at the cut, 0.04 at 8 pixels from it, 0.0006 at 12 and 0.0002 at 16. With five
poolings the network sees farther than that. But it sees mostly local means of distant parts, and an edge hardly changes
those (docs/internals.md).
"""
RAMP = SIZE_MULTIPLE
"""Pixels over which one tile fades into the next."""
OVERLAP = 2 * MARGIN + RAMP
SMALLEST_TILE = 2 * OVERLAP
"""Smallest side of a tile. With smaller tiles, more than four would overlap at some pixels."""
BYTES_PER_VALUE = 100
"""Bytes for each value of a tile: sums, masks of the image's own size, and temporary arrays."""
PassBytes = Callable[[Contract, Mapping[str, int]], int]
"""Bytes of one pass for a contract, over data whose axes have some sizes."""


@dataclass(frozen=True, slots=True)
class Axis:
    """The tiles along one axis.

    Attributes:
        length: pixels of the padded image, a multiple of 32.
        tile: pixels of one tile, a multiple of 32.
        starts: first pixel of each tile, multiples of 32.
    """

    length: int
    tile: int
    starts: tuple[int, ...]

    @classmethod
    def cut(cls, length: int, largest: int) -> Axis:
        """Cover `length` with the fewest tiles of at most `largest` pixels, evenly spread, and as small as possible."""
        if length <= largest:
            return cls(length, length, (0,))
        count = -(-(length - OVERLAP) // (largest - OVERLAP))
        tile = -(-(length + (count - 1) * OVERLAP) // (count * SIZE_MULTIPLE)) * SIZE_MULTIPLE
        steps = (length - tile) // SIZE_MULTIPLE
        return cls(length, tile, tuple(i * steps // (count - 1) * SIZE_MULTIPLE for i in range(count)))

    def weights(self, index: int) -> NDArray[np.float32]:
        """Weight of tile `index` in the result at each of its pixels, float32 (tile,)."""
        weights = np.ones(self.tile, np.float32)
        if index > 0:
            weights *= self._fade(index - 1, index)
        if index + 1 < len(self.starts):
            weights *= 1 - self._fade(index, index)
        return weights

    def _fade(self, left: int, tile: int) -> NDArray[np.float32]:
        """Weight of tile `left` + 1 in its overlap with tile `left`, from 0 to 1, at the pixels of `tile`."""
        middle = (self.starts[left + 1] + self.starts[left] + self.tile) // 2
        pixels = np.arange(self.tile) + self.starts[tile] + 0.5
        position = np.clip((pixels - middle) / RAMP + 0.5, 0, 1)
        fade: NDArray[np.float32] = (0.5 - 0.5 * np.cos(np.pi * position)).astype(np.float32)
        return fade


@dataclass(frozen=True, slots=True)
class TilePlan:
    """How a padded image is cut.

    Attributes:
        rows, columns: the tiles along the two axes.
    """

    rows: Axis
    columns: Axis

    @classmethod
    def cut(cls, height: int, width: int, largest: int) -> TilePlan:
        """Cut into tiles of at most `largest` pixels along each axis; one tile if the image is not larger.

        Args:
            height: of the padded image, a multiple of 32.
            width: of the padded image, a multiple of 32.
            largest: a multiple of 32, and at least `SMALLEST_TILE`.
        """
        return cls(Axis.cut(height, largest), Axis.cut(width, largest))

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows.starts) * len(self.columns.starts)

    @property
    def axes(self) -> dict[str, int]:
        """Size of a tile, as the sizes of the masks' axes."""
        return {"H": self.rows.tile, "W": self.columns.tile}

    def weights(self, row: int, column: int) -> NDArray[np.float32]:
        """Weight of a tile in the result, float32 (tile, tile)."""
        weights: NDArray[np.float32] = self.rows.weights(row)[:, None] * self.columns.weights(column)
        return weights


@dataclass(frozen=True, slots=True)
class PartOfImage:
    """Which part of a larger image some pixels are, so that they become what they are in the whole.

    The part begins and ends at edges of the whole, or where the padded whole has a multiple of 32 pixels before it
    (`windows_of`), so that the network pools the same pixels together.

    Attributes:
        height, width: of the whole image.
        top, left: first row and first column of the part.
        rows, columns: size of the part.
    """

    height: int
    width: int
    top: int
    left: int
    rows: int
    columns: int

    def padding(self, contract: Contract) -> Padding:
        """What is added around the part: the padding of the whole on the sides that they share, and else nothing."""
        whole = Padding.for_size(self.height, self.width, contract.size_multiple, contract.minimum_size)
        return Padding(
            0 if self.top else whole.top,
            0 if self.top + self.rows < self.height else whole.bottom,
            0 if self.left else whole.left,
            0 if self.left + self.columns < self.width else whole.right,
        )

    def origin(self, contract: Contract) -> tuple[int, int]:
        """Row and column of the padded part in the padded whole."""
        whole = Padding.for_size(self.height, self.width, contract.size_multiple, contract.minimum_size)
        return self.top + whole.top if self.top else 0, self.left + whole.left if self.left else 0


def windows_of(spans: Sequence[tuple[int, int]], length: int, halo: int) -> list[tuple[int, int]]:
    """The pixels along one axis that a network sees in order to predict those of each span.

    Windows of one axis have one size after padding, so that one prepared engine serves all of them.

    Args:
        spans: first pixel that is predicted, and the one after the last, of each part.
        length: of the image along this axis.
        halo: pixels that are seen on each side of a span, at least, as far as there are any.

    Returns:
        the first pixel and the one after the last of each window, as `PartOfImage` has them.
    """
    before, padded = Padding.for_size(length, length).top, padded_size(length, length)[0]
    firsts = [(start + before - halo) // SIZE_MULTIPLE * SIZE_MULTIPLE for start, _ in spans]
    lasts = [-(-(end + before + halo) // SIZE_MULTIPLE) * SIZE_MULTIPLE for _, end in spans]
    size = min(padded, max(last - first for first, last in zip(firsts, lasts, strict=True)))
    starts = [min(max(0, first), padded - size) for first in firsts]
    return [(max(0, start - before), min(length, start + size - before)) for start in starts]


def place_of(top: int, left: int) -> int:
    """Number that selects the masks of a tile, computed from its first row and column.

    It is 0 for the tile at the top left and for a whole image.
    """
    row, column = top // SIZE_MULTIPLE, left // SIZE_MULTIPLE
    return int((row << 16) + column)


def tile_sizes(largest: int) -> Iterator[int]:
    """Tile sides to try one after the other: `largest`, then halves of it, down to `SMALLEST_TILE`."""
    size = largest
    while size > SMALLEST_TILE:
        yield size
        size = max(SMALLEST_TILE, size // 2 // SIZE_MULTIPLE * SIZE_MULTIPLE)
    yield SMALLEST_TILE


def tile_bytes(model: Model, size: tuple[int, int], side: int, pass_bytes: PassBytes) -> int:
    """Bytes for one pass, its masks and the sums, with tiles of at most `side` pixels.

    The other arguments are those of `largest_tile`.
    """
    plan = TilePlan.cut(*size, side)
    # Each of the two canvases holds a row of tiles, and a copy of it while the canvas moves on to the next row.
    canvases = 2 * 2 * 4 * plan.rows.tile * size[1] if plan.count > 1 else 0
    sums = BYTES_PER_VALUE * plan.rows.tile * plan.columns.tile
    return pass_bytes(model.contract, plan.axes) + model.contract.channels * (sums + canvases)


def largest_tile(model: Model, size: tuple[int, int], room: int, pass_bytes: PassBytes) -> int:
    """Side of the largest square tile of which one pass fits into `room` bytes, and at least `SMALLEST_TILE`.

    An image that fits as a whole gives its longer side. A larger tile may take less memory than a smaller one, so the
    memory of every side is computed.

    Args:
        model: the model to run; one of a fixed size cannot run tiles, so it gives the longer side of the image.
        size: height and width of the padded image.
        room: bytes for the engine, its masks and the sums.
        pass_bytes: `Engine.pass_bytes` of the engine.
    """
    largest = max(size)
    if model.size is not None or tile_bytes(model, size, largest, pass_bytes) <= room:
        return largest
    unit = model.contract.size_multiple
    sides = range(largest // unit * unit, SMALLEST_TILE, -unit)
    return next((side for side in sides if tile_bytes(model, size, side, pass_bytes) <= room), SMALLEST_TILE)


class Correction(Protocol):
    """Compares an image with the predictions for it, then corrects the result; `imaging.local_means` is one.

    Attributes:
        note: what the user should know of the correction, once it is made; empty for nothing.
    """

    note: str

    def see(self, top: int, noisy: NDArray[np.float32], prediction: NDArray[np.float32]) -> None:
        """Add the lines from `top` on of both images, float32 (C, lines, W)."""

    def restore(self, result: NDArray[np.float32]) -> None:
        """Correct `result`, float32 (C, H, W), in place, after `see` had every line."""


class Canvas:
    """Puts tiles together, one row of tiles after the other.

    The canvas holds one row of tiles. It writes a line of pixels to the output as soon as no later tile can change the
    line. Therefore the output may be the image from which the tiles are taken.

    Args:
        plan: how the padded image is cut.
        padding: what was added to the image.
        out: float32 (C, H, W), without padding; filled from top to bottom.
        noisy: the noisy image, if the tiles are predictions for it, to restore its outliers
            (`imaging.outliers.restore_outliers`); may be `out`. None for other values, which go to `out` unchanged.
        corrections: get every line of `noisy` and of the predictions.
        noisy_share: share of `noisy` in the output; the predictions have the rest.
    """

    def __init__(
        self,
        plan: TilePlan,
        padding: Padding,
        out: NDArray[np.float32],
        noisy: NDArray[np.float32] | None = None,
        corrections: Sequence[Correction] = (),
        noisy_share: float = 0.0,
    ) -> None:
        self._plan = plan
        self._padding = padding
        self._out = out
        self._noisy = noisy
        self._corrections = corrections
        self._noisy_share = noisy_share
        self._strip = np.zeros((out.shape[0], plan.rows.tile, plan.columns.length), np.float32)
        self.lines = 0
        """Number of finished lines of the output."""

    def add(self, row: int, column: int, values: NDArray[np.float32]) -> None:
        """Blend in the values (C, tile, tile) of a tile. Tiles come row by row, and from left to right."""
        plan = self._plan
        start = plan.columns.starts[column]
        for channel, weighted in zip(self._strip[..., start : start + plan.columns.tile], values, strict=True):
            channel += weighted * plan.weights(row, column)
        if column + 1 == len(plan.columns.starts):
            self._finish(row)

    def _finish(self, row: int) -> None:
        rows = self._plan.rows
        first = rows.starts[row]
        last = rows.starts[row + 1] if row + 1 < len(rows.starts) else rows.length
        top, left = self._padding.top, self._padding.left
        height, width = self._out.shape[1:]
        begin, end = max(first - top, 0), min(last - top, height)
        lines = self._strip[:, begin + top - first : end + top - first, left : left + width]
        if self._noisy is None:
            self._out[:, begin:end] = lines
        else:
            if self._noisy_share:
                blend_noisy_image(lines, self._noisy[:, begin:end], self._noisy_share)
            for correction in self._corrections:
                correction.see(begin, self._noisy[:, begin:end], lines)
            restore_outliers(lines, self._noisy[:, begin:end], self._out[:, begin:end])
        self.lines = end
        done = last - first
        kept = self._strip[:, done:].copy()
        self._strip[:, : kept.shape[1]] = kept
        self._strip[:, kept.shape[1] :] = 0
