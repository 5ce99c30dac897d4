"""Sum up the predictions of the passes, and compute their mean, standard deviation and standard error.

The sums are float64, so that the mean of 500 float32 predictions does not depend on how they were grouped. They are
computed slab by slab: the float64 copy of a slab stays in the cache, and no copy has the size of an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.orientation import MIRROR_ORIENTATIONS
from self2self.model.masks import PASSES_PER_BLOCK
from self2self.runtime.engines.engine import FloatArray

Sums = NDArray[np.float64]

SLAB_VALUES = 2**16
"""Approximate number of values in a slab: half a megabyte in float64."""


class PassSums(Protocol):
    """What is known of the result after some passes over a tile.

    Attributes:
        count: number of passes so far.
        tile, tiles: number of the tile, from 0, and number of tiles of the image.
    """

    count: int
    tile: int
    tiles: int

    def mean(self) -> FloatArray:
        """Mean over the passes, float32 (C, H, W)."""

    def standard_deviation(self) -> FloatArray:
        """Standard deviation over the passes, float32 (C, H, W)."""

    def standard_error(self) -> float:
        """Standard error of the mean: RMS over all values, in 8-bit grey levels; NaN where it is not known."""


def passes_of_image(moments: PassSums, passes: int) -> tuple[int, int]:
    """How many passes over tiles are done, and how many there will be if each tile has `passes`."""
    return moments.tile * passes + moments.count, moments.tiles * passes


class Moments:
    """Running mean and variance of predictions, and the standard error of their mean.

    Within a block, passes with balanced masks depend on each other. The passes of each orientation have their own
    expected value. Therefore all orientations have the same weight as soon as each has `PASSES_PER_BLOCK` passes. The
    standard error is computed from the means of whole blocks: each is compared with the other blocks of its
    orientation. These are the mean and the error of a stratified sample (Cochran, Sampling Techniques, 1977, sections
    5.2 and 5.3), on the assumption that all strata have the same variance.

    Args:
        shape: (C, H, W) of one prediction.
        block: number of passes whose masks depend on each other; 1 if all passes are independent.
        tile: number of the tile, from 0.
        tiles: number of tiles of the image.

    Attributes:
        count: number of passes so far.
    """

    def __init__(self, shape: tuple[int, ...], block: int = 1, tile: int = 0, tiles: int = 1) -> None:
        self.shape = shape
        self.block = block
        self.tile = tile
        self.tiles = tiles
        self.count = 0
        self._squares: Sums = np.zeros(shape)
        """Sum of the squares of all predictions."""
        self._block_sum: Sums | None = np.zeros(shape) if block > 1 else None
        """Sum over the passes of the unfinished block; None if each pass is a block, and goes into `_sums` at once."""
        self._in_block = 0
        """Number of passes in the unfinished block."""
        self._sums: dict[int, Sums] = {}
        """Sum over the whole blocks of each orientation."""
        self._blocks: dict[int, int] = {}
        """Number of whole blocks of each orientation."""
        self._passes: dict[int, int] = {}
        """Number of passes of each orientation, including those of the unfinished block."""
        self._orientation = 0
        """Orientation of the last pass."""
        self._block_squares = 0.0
        """Sum, over all values, of the squares of the sums of whole blocks."""
        self._finite = True

    @classmethod
    def from_sums(cls, total: Sums, squares: Sums, count: int, tile: int = 0, tiles: int = 1) -> Moments:
        """Create moments of `count` independent passes from their sums and sums of squares, float64 (C, H, W)."""
        moments = cls(total.shape, tile=tile, tiles=tiles)
        moments.count = count
        moments._squares = squares
        moments._sums, moments._blocks, moments._passes = {0: total}, {0: count}, {0: count}
        moments._block_squares = float(squares.sum())
        moments._finite = math.isfinite(moments._block_squares)
        return moments

    def stored(self) -> tuple[dict[str, Any], dict[str, Sums]]:
        """All that `restored` needs: numbers as JSON values, and the sums by name, which are not copied."""
        numbers = {
            "shape": list(self.shape),
            "block": self.block,
            "count": self.count,
            "in block": self._in_block,
            "orientation": self._orientation,
            # JSON has no integers as keys.
            "blocks": list(self._blocks.items()),
            "passes": list(self._passes.items()),
            "block squares": self._block_squares,
        }
        unfinished = {} if self._block_sum is None else {"block": self._block_sum}
        sums = {f"sum {orientation}": values for orientation, values in self._sums.items()}
        return numbers, {"squares": self._squares, **unfinished, **sums}

    @classmethod
    def restored(cls, numbers: Mapping[str, Any], sums: Mapping[str, Sums], tile: int = 0, tiles: int = 1) -> Moments:
        """The moments that `stored` gave, finite ones; further passes change them as they would have changed those.

        Raises:
            KeyError: something is missing.
        """
        moments = cls(tuple(numbers["shape"]), numbers["block"], tile, tiles)
        moments.count, moments._in_block = numbers["count"], numbers["in block"]
        moments._orientation, moments._block_squares = numbers["orientation"], numbers["block squares"]
        moments._blocks, moments._passes = dict(numbers["blocks"]), dict(numbers["passes"])
        moments._squares = sums["squares"]
        moments._block_sum = None if moments.block == 1 else sums["block"]
        # The order of the orientations is that in which they are added up.
        moments._sums = {int(key.split()[1]): values for key, values in sums.items() if key.startswith("sum ")}
        return moments

    def is_finite(self) -> bool:
        """Whether all predictions so far are finite."""
        return self._finite

    def add(self, predictions: FloatArray, orientation: int = 0) -> None:
        """Add predictions [N, C, H, W]; all passes of a block have one orientation."""
        for prediction in predictions:
            sums = self._sums_of(orientation) if self._block_sum is None else self._block_sum
            total = 0.0
            for rows in self._slabs():
                wide = prediction[:, rows].astype(np.float64)
                sums[:, rows] += wide
                self._squares[:, rows] += np.square(wide, out=wide)
                # `wide` now holds squares. Squares of float32 cannot overflow a sum in float64.
                total += float(wide.sum())
            self._finite &= math.isfinite(total)
            self._in_block += 1
            if self._in_block == self.block:
                self._finish_block(orientation, total)
        self.count += len(predictions)
        self._passes[orientation] = self._passes.get(orientation, 0) + len(predictions)
        self._orientation = orientation

    def _finish_block(self, orientation: int, squares: float) -> None:
        """Count a whole block; `squares` is the sum of the squares of its last pass."""
        if self._block_sum is not None:
            sums = self._sums_of(orientation)
            sums += self._block_sum
            squares = _sum_of_squares(self._block_sum)
            self._block_sum.fill(0)
        self._block_squares += squares
        self._blocks[orientation] = self._blocks.get(orientation, 0) + 1
        self._in_block = 0

    def _sums_of(self, orientation: int) -> Sums:
        if orientation not in self._sums:
            self._sums[orientation] = np.zeros(self.shape)
        return self._sums[orientation]

    def _slabs(self) -> Iterator[slice]:
        """Rows of each slab; the slabs cover the image."""
        channels, height, width = self.shape
        rows = max(1, SLAB_VALUES // max(1, channels * width))
        return (slice(top, top + rows) for top in range(0, height, rows))

    def mean(self) -> FloatArray:
        """Mean over the passes, float32 (C, H, W)."""
        weights = self._weights()
        result = np.empty(self.shape, np.float32)
        for rows in self._slabs():
            result[:, rows] = sum(sums[:, rows] * weights[orientation] for orientation, sums in self._all_sums())
        return result

    def _all_sums(self) -> list[tuple[int, Sums]]:
        """Pairs of orientation and sum that together cover all passes; the unfinished block has its own pair."""
        unfinished = [] if self._block_sum is None else [(self._orientation, self._block_sum)]
        return [*self._sums.items(), *unfinished]

    def _weights(self) -> dict[int, float]:
        """Weight of one pass in the mean, for each orientation."""
        if len(self._passes) == MIRROR_ORIENTATIONS and min(self._passes.values()) >= PASSES_PER_BLOCK:
            return {orientation: 1 / (MIRROR_ORIENTATIONS * passes) for orientation, passes in self._passes.items()}
        return dict.fromkeys(self._passes, 1 / self.count)

    def standard_deviation(self) -> FloatArray:
        """Unbiased standard deviation over the passes, float32 (C, H, W); zero for one pass."""
        result = np.zeros(self.shape, np.float32)
        for rows, variance in self._variances():
            np.sqrt(variance, out=result[:, rows], casting="same_kind")
        return result

    def _variances(self) -> Iterator[tuple[slice, Sums]]:
        """Yield the rows of each slab and their unbiased variance over the passes; nothing for one pass."""
        if self.count < 2:
            return
        for rows in self._slabs():
            values = np.asarray(sum(sums[:, rows] for _, sums in self._all_sums()))
            np.square(values, out=values)
            values /= self.count
            np.subtract(self._squares[:, rows], values, out=values)
            values /= self.count - 1
            yield rows, np.maximum(values, 0, out=values)

    def standard_error(self) -> float:
        """Standard error of the mean: RMS over all values, in 8-bit grey levels; NaN for one pass.

        Before any orientation has two whole blocks, the result is the error of as many independent passes, which is
        larger.
        """
        if self.count < 2:
            return math.nan
        size = self._squares.size
        freedom = sum(self._blocks.values()) - len(self._blocks)
        if freedom < 1:
            variance = sum(float(values.sum()) for _, values in self._variances()) / size
            return 255 * math.sqrt(variance / self.count)
        explained = sum(_sum_of_squares(sums) / self._blocks[key] for key, sums in self._sums.items())
        between = max(0.0, self._block_squares - explained) / freedom / size
        # `between` is the variance of a block's sum.
        weights = self._weights()
        blocks = sum(weights[key] ** 2 * passes / self.block for key, passes in self._passes.items())
        return 255 * math.sqrt(between * blocks)


def _sum_of_squares(values: Sums) -> float:
    # Not vdot: the threads of its library spin for tens of milliseconds after it, and slow down the next pass.
    return float(np.einsum("chw,chw->", values, values))


class KeptSums(Protocol):
    """Where a loop over the passes of one tile keeps its sums."""

    def restored(self) -> tuple[Moments, dict[str, float]] | None:
        """The sums of an earlier run and the seconds that they took; None if there are none."""

    def due(self) -> bool:
        """Whether it is time to keep the sums again."""

    def keep(self, moments: Moments, seconds: Mapping[str, float]) -> None:
        """Keep the sums, with the seconds that they took so far."""
