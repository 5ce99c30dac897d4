"""Running sums over the passes of an ensemble: their mean, their spread, and the standard error of the mean.

Sums are float64: the mean of 500 float32 predictions then does not depend on how they were grouped. They are added up
slab by slab, so that what is widened to float64 stays in the cache and takes no memory of an image's size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.orientation import MIRROR_ORIENTATIONS
from self2self.model.masks import PASSES_PER_BLOCK
from self2self.runtime.engines.engine import FloatArray

Sums = NDArray[np.float64]

SLAB_VALUES = 2**16
"""Values that are added at a time, about: half a megabyte in float64."""


class Moments:
    """Running mean and variance of predictions, and the standard error of their mean.

    Passes with balanced masks depend on each other within a block, and passes over a mirrored image
    have a mean of their own. So every orientation weighs the same, once each has had `PASSES_PER_BLOCK` passes, and
    the standard error comes from the means of whole blocks, each compared with the other blocks of its
    orientation: mean and error of a stratified sample (Cochran, Sampling Techniques, 1977, sections 5.2
    and 5.3), whose strata are taken to vary alike.

    Args:
        shape: (C, H, W) of one prediction.
        block: passes whose masks depend on each other; 1 if none do.
        tile, tiles: which tile of the image this is, and of how many.

    Attributes:
        count: passes so far.
    """

    def __init__(self, shape: tuple[int, ...], block: int = 1, tile: int = 0, tiles: int = 1) -> None:
        self.shape = shape
        self.block = block
        self.tile = tile
        self.tiles = tiles
        self.count = 0
        self._squares: Sums = np.zeros(shape)
        self._block_sum: Sums | None = np.zeros(shape) if block > 1 else None
        """Of the block that is not yet whole; a pass that is a block of its own goes into `_sums` at once."""
        self._in_block = 0
        self._sums: dict[int, Sums] = {}
        """Of whole blocks, by orientation."""
        self._blocks: dict[int, int] = {}
        self._passes: dict[int, int] = {}
        """By orientation, with those of the block that is not yet whole."""
        self._orientation = 0
        """Of the last pass."""
        self._block_squares = 0.0
        """Sum of the squares of whole blocks' sums."""
        self._finite = True

    @classmethod
    def from_sums(cls, total: Sums, squares: Sums, count: int, tile: int = 0, tiles: int = 1) -> Moments:
        """Moments of independent passes whose sums, float64 (C, H, W), were made elsewhere."""
        moments = cls(total.shape, tile=tile, tiles=tiles)
        moments.count = count
        moments._squares = squares
        moments._sums, moments._blocks, moments._passes = {0: total}, {0: count}, {0: count}
        moments._block_squares = float(squares.sum())
        moments._finite = math.isfinite(moments._block_squares)
        return moments

    def is_finite(self) -> bool:
        """Whether all predictions were finite numbers."""
        return self._finite

    def add(self, predictions: FloatArray, orientation: int = 0) -> None:
        """Fold in predictions [N, C, H, W]; a block has one orientation."""
        for prediction in predictions:
            sums = self._sums_of(orientation) if self._block_sum is None else self._block_sum
            total = 0.0
            for rows in self._slabs():
                wide = prediction[:, rows].astype(np.float64)
                sums[:, rows] += wide
                self._squares[:, rows] += np.square(wide, out=wide)
                # Squares of float32 cannot overflow a sum in float64.
                total += float(wide.sum())
            self._finite &= math.isfinite(total)
            self._in_block += 1
            if self._in_block == self.block:
                self._finish_block(orientation, total)
        self.count += len(predictions)
        self._passes[orientation] = self._passes.get(orientation, 0) + len(predictions)
        self._orientation = orientation

    def _finish_block(self, orientation: int, squares: float) -> None:
        """Count a block; `squares` are those of its last pass."""
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
        """Rows of the parts that cover an image."""
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
        """Sums over all passes, in parts with their orientation."""
        last = [] if self._block_sum is None else [(self._orientation, self._block_sum)]
        return [*self._sums.items(), *last]

    def _weights(self) -> dict[int, float]:
        """What a pass counts for in the mean, by its orientation."""
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
        """Unbiased variance over the passes, part by part; nothing for one pass."""
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

        Before an orientation has two whole blocks, that of as many independent passes, which is larger.
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
    # Not vdot: the threads of its library go on spinning for tens of milliseconds, which the engine's next pass lacks.
    return float(np.einsum("chw,chw->", values, values))
