"""Run a plain model over a tile: one pass without masks for each mirrored view, and their mean."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from self2self.imaging.orientation import oriented, undo_orientation
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.ensemble.host_loop import PassesResult, PassTooLarge, not_finite_error
from self2self.runtime.ensemble.moments import PassSums


class PlainMean:
    """The running mean of deterministic passes, which have no standard deviation; a `PassSums`.

    Args:
        shape: (C, H, W) of a prediction.
        tile: number of the tile, from 0.
        tiles: number of tiles of the image.
    """

    def __init__(self, shape: tuple[int, ...], tile: int, tiles: int) -> None:
        self.count = 0
        self.tile = tile
        self.tiles = tiles
        self._sum = np.zeros(shape, np.float32)

    def add(self, prediction: FloatArray) -> None:
        """Add a prediction, float32 (C, H, W)."""
        self._sum += prediction
        self.count += 1

    def mean(self) -> FloatArray:
        """As `PassSums.mean`."""
        return self._sum / np.float32(self.count)

    def standard_deviation(self) -> FloatArray:
        """Always zero."""
        return np.zeros_like(self._sum)

    def standard_error(self) -> float:
        """Always NaN."""
        return math.nan


def run_plain(
    engine: Engine,
    mirrorings: Sequence[int],
    *,
    on_progress: Callable[[PassSums], None] | None = None,
    tile: tuple[int, int] = (0, 1),
) -> PassesResult:
    """Average the predictions of a plain model over mirrored views of the engine's image.

    Args:
        engine: a prepared engine of a plain model.
        mirrorings: orientations of the views, from 0 to 3.
        on_progress: called after every pass; an exception from it ends the loop.
        tile: number of the tile, from 0, and number of tiles, for `on_progress`.

    Raises:
        PassTooLarge: the pass does not fit into memory.
        FileFormatError: a prediction is not finite.
    """
    upright = engine.image
    mean = PlainMean(upright.shape[1:], *tile)
    pass_seconds = reduce_seconds = 0.0
    for number, mirroring in enumerate(mirrorings):
        engine.first_pass = number
        start = time.perf_counter()
        try:
            if mirroring:
                engine.set_image(np.ascontiguousarray(oriented(upright, mirroring)))
            (prediction,) = engine.run({})
        except MemoryError as error:
            raise PassTooLarge(
                "out of memory: the network does not fit. Close other programs or denoise a smaller image."
            ) from error
        ran = time.perf_counter()
        if not math.isfinite(float(prediction.sum(dtype=np.float64))):
            raise not_finite_error(engine.model)
        mean.add(undo_orientation(prediction, mirroring))
        pass_seconds += ran - start
        reduce_seconds += time.perf_counter() - ran
        if on_progress is not None:
            on_progress(mean)
    if any(mirrorings):
        engine.set_image(upright)
    return PassesResult(mean, batch=1, mask_seconds=0.0, pass_seconds=pass_seconds, reduce_seconds=reduce_seconds)
