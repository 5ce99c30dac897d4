"""The ensemble: hundreds of stochastic passes, streamed.

Masks are made for one batch at a time and predictions are folded into sums at once, so memory
does not grow with the number of passes. Sums are float64: the mean of 500 float32 predictions
then does not depend on how they were grouped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from self2self.errors import FileFormatError, ResourceError
from self2self.masks import MaskMaker
from self2self.runtime.engine import Engine, FloatArray

TRIAL_BATCHES = (1, 2, 4, 8)
TRIAL_RUNS = 2
"""Runs of each trial batch size; the first of them also allocates and is not timed."""
WORTHWHILE_GAIN = 0.03
"""A larger batch takes more memory, so it has to save at least this share of the time."""


@dataclass(slots=True)
class Moments:
    """Running mean and variance of predictions.

    Args:
        shape: (C, H, W) of one prediction.
    """

    shape: tuple[int, ...]
    count: int = 0
    _sum: NDArray[np.float64] = field(init=False)
    _squares: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._sum = np.zeros(self.shape)
        self._squares = np.zeros(self.shape)

    def add(self, predictions: FloatArray) -> None:
        """Fold in predictions [N, C, H, W]."""
        for prediction in predictions:
            wide = prediction.astype(np.float64)
            self._sum += wide
            self._squares += np.square(wide, out=wide)
        self.count += len(predictions)

    def mean(self) -> FloatArray:
        """Mean over the passes, float32 (C, H, W)."""
        return (self._sum / self.count).astype(np.float32)

    def standard_deviation(self) -> FloatArray:
        """Unbiased standard deviation over the passes, float32 (C, H, W); zero for one pass."""
        if self.count < 2:
            return np.zeros(self.shape, np.float32)
        variance = (self._squares - np.square(self._sum) / self.count) / (self.count - 1)
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)

    def standard_error(self) -> float:
        """Standard error of the mean: RMS over all values, in 8-bit grey levels; NaN for one pass."""
        if self.count < 2:
            return math.nan
        variance = float(np.mean(np.square(self.standard_deviation().astype(np.float64))))
        return 255 * math.sqrt(variance / self.count)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Result of `run_ensemble`.

    Attributes:
        moments: of all passes.
        batch: passes a run, as chosen, or the fastest so far where the passes ended before the trials;
            the last run may have had fewer.
        mask_seconds, pass_seconds, reduce_seconds: time spent on each part.
    """

    moments: Moments
    batch: int
    mask_seconds: float
    pass_seconds: float
    reduce_seconds: float


def run_ensemble(
    engine: Engine,
    maker: MaskMaker,
    passes: int,
    *,
    batch: int | None = None,
    largest_batch: int = TRIAL_BATCHES[-1],
    on_progress: Callable[[Moments], None] | None = None,
) -> Ensemble:
    """Run passes 0 to `passes` - 1 and fold them together.

    Args:
        engine: prepared.
        maker: makes the masks; pass i has the same ones for every batch size.
        passes: how many.
        batch: passes a run; None chooses by measured speed among sizes up to `largest_batch`,
            with passes that count.
        largest_batch: the most that memory allows.
        on_progress: called after every run with what was reached; what it raises ends the loop.

    Raises:
        ResourceError: not even one pass at a time fits into memory.
        FileFormatError: a prediction is not finite.
    """
    moments = Moments(engine.image.shape[1:])
    seconds = {"masks": 0.0, "passes": 0.0, "reduce": 0.0}
    chooser = BatchChooser(largest_batch) if batch is None else BatchChooser(batch, fixed=True)
    while moments.count < passes:
        count = min(chooser.batch, passes - moments.count)
        start = time.perf_counter()
        try:
            masks = maker.make(moments.count, count)
            made = time.perf_counter()
            predictions = engine.run(masks)
        except MemoryError as error:
            chooser.shrink(error)
            continue
        ran = time.perf_counter()
        # A thousandth of a pass's time, and it saves the user from waiting for a black image.
        if not np.isfinite(predictions).all():
            raise FileFormatError(
                f"{engine.model.path}: predicts numbers that are not finite, so its weights are damaged or the fit "
                "diverged. Fit again: self2self fit IMAGE --force"
            )
        moments.add(predictions)
        reduced = time.perf_counter()
        seconds["masks"] += made - start
        seconds["passes"] += ran - made
        seconds["reduce"] += reduced - ran
        chooser.ran(count, reduced - start)
        if on_progress is not None:
            on_progress(moments)
    return Ensemble(moments, min(chooser.chosen, passes), seconds["masks"], seconds["passes"], seconds["reduce"])


class BatchChooser:
    """Tries growing batch sizes on passes that count, then stays with the fastest.

    Args:
        largest: the largest size to try.
        fixed: use `largest` from the start.
    """

    def __init__(self, largest: int, *, fixed: bool = False) -> None:
        self.batch = largest if fixed else TRIAL_BATCHES[0]
        self._trials = [] if fixed else [size for size in TRIAL_BATCHES if size <= max(largest, self.batch)]
        self._runs = 0
        self._best_seconds = float("inf")
        self._best_batch = self.batch

    @property
    def chosen(self) -> int:
        """The size to stay with, as far as is known."""
        return self._best_batch if self._trials else self.batch

    def ran(self, count: int, seconds: float) -> None:
        """Tell that a run of `count` passes took `seconds`."""
        if not self._trials or count != self.batch:
            return
        self._runs += 1
        if self._runs < TRIAL_RUNS:
            return
        self._runs = 0
        self._trials.pop(0)
        if seconds / count < (1 - WORTHWHILE_GAIN) * self._best_seconds:
            self._best_seconds, self._best_batch = seconds / count, count
        else:
            # Larger batches only take more memory from here on.
            self._trials.clear()
        self.batch = self._trials[0] if self._trials else self._best_batch

    def shrink(self, error: MemoryError) -> None:
        """Halve the batch after it did not fit.

        Raises:
            ResourceError: it was one already.
        """
        if self.batch == 1:
            raise ResourceError(
                "out of memory: a single pass does not fit. Close other programs or denoise a smaller image."
            ) from error
        self._trials.clear()
        self.batch //= 2
