"""Run the passes of an ensemble with masks made on the host.

Masks are made for one batch at a time, and predictions are added to running sums (`moments`) at once. So memory does
not grow with the number of passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from self2self.errors import FileFormatError, ResourceError, typed
from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation
from self2self.model.masks import PASSES_PER_BLOCK, MaskMaker
from self2self.runtime.engines.engine import Engine
from self2self.runtime.ensemble.moments import KeptSums, Moments, PassSums
from self2self.runtime.ensemble.pass_plan import PassPlan
from self2self.runtime.model import Model

TRIAL_BATCHES = (1, 2, 4, 8)
TRIAL_RUNS = 2
"""Number of runs of each trial batch size. The first run also allocates memory, so its time does not count."""
WORTHWHILE_GAIN = 0.03
"""Smallest share of the time that a larger batch has to save, because it takes more memory."""


@dataclass(frozen=True, slots=True)
class PassesResult:
    """Result of `run_ensemble`.

    Attributes:
        moments: sums over all passes.
        batch: chosen number of passes in one run of the engine, or the fastest so far if the passes ended before the
            trials; the last run may have had fewer passes.
        mask_seconds, pass_seconds, reduce_seconds: time for masks, passes and sums.
    """

    moments: PassSums
    batch: int
    mask_seconds: float
    pass_seconds: float
    reduce_seconds: float

    @property
    def seconds(self) -> dict[str, float]:
        """Time for ``masks``, ``passes`` and ``reduce`` (the sums)."""
        return {"masks": self.mask_seconds, "passes": self.pass_seconds, "reduce": self.reduce_seconds}


def run_ensemble(
    engine: Engine,
    maker: MaskMaker,
    pass_plan: PassPlan | int,
    *,
    batch: int | None = None,
    largest_batch: int = TRIAL_BATCHES[-1],
    on_progress: Callable[[PassSums], None] | None = None,
    tile: tuple[int, int] = (0, 1),
    kept: KeptSums | None = None,
) -> PassesResult:
    """Run passes from 0 on, as many as `pass_plan` says, and sum up their predictions.

    Args:
        engine: a prepared engine.
        maker: makes the masks; pass i has the same masks for every batch size.
        pass_plan: the tolerance is checked after every block of `PASSES_PER_BLOCK` passes, from `minimum_passes` on.
            With flips, each block sees the image in the next of the `MIRROR_ORIENTATIONS`. An int means that many
            passes over the image in its own orientation.
        batch: passes in one run of the engine; None chooses by measured speed among sizes up to `largest_batch`. The
            passes of these trials count for the result.
        largest_batch: largest batch that memory allows.
        on_progress: called after every run of the engine with the sums so far; an exception from it ends the loop.
        tile: number of the tile, from 0, and number of tiles, for `on_progress`.
        kept: keeps the sums, and gives those of an earlier run to go on from; None keeps nothing.

    Raises:
        PassTooLarge: not even one pass at a time fits into memory.
        FileFormatError: a prediction is not finite.
    """
    if isinstance(pass_plan, int):
        pass_plan = PassPlan(pass_plan, tolerance=None, balanced=maker.block > 1, flips=False)
    upright = engine.image
    moments = Moments(upright.shape[1:], maker.block, *tile)
    seconds = {"masks": 0.0, "passes": 0.0, "reduce": 0.0}
    if kept is not None and (earlier := kept.restored()) is not None:
        moments, seconds = earlier
    chooser = BatchChooser(largest_batch) if batch is None else BatchChooser(batch, fixed=True)
    orientation = following = 0
    while moments.count < pass_plan.passes and not _is_settled(moments, pass_plan):
        start = time.perf_counter()
        count = min(chooser.batch, pass_plan.passes - moments.count)
        if pass_plan.flips or pass_plan.tolerance is not None:
            # A run of the engine has one orientation, and the error is checked after whole blocks.
            count = min(count, PASSES_PER_BLOCK - moments.count % PASSES_PER_BLOCK)
        if pass_plan.flips:
            following = moments.count // PASSES_PER_BLOCK % MIRROR_ORIENTATIONS
        try:
            if following != orientation:
                engine.set_image(np.ascontiguousarray(oriented(upright, following)))
                orientation = following
            masks = maker.make(moments.count, count)
            masks_made = time.perf_counter()
            engine.first_pass = moments.count
            predictions = engine.run(masks)
        except MemoryError as error:
            chooser.shrink(error)
            engine.note(f"out of memory; going on with {chooser.batch} passes at a time.")
            continue
        ran = time.perf_counter()
        moments.add(undo_orientation(predictions, orientation), orientation)
        # Check every run, so that the user does not wait for a black image.
        if not moments.is_finite():
            raise not_finite_error(engine.model)
        reduced = time.perf_counter()
        seconds["masks"] += masks_made - start
        seconds["passes"] += ran - masks_made
        seconds["reduce"] += reduced - ran
        chooser.ran(count, reduced - start)
        if kept is not None and kept.due():
            kept.keep(moments, seconds)
        if on_progress is not None:
            on_progress(moments)
    if orientation:
        engine.set_image(upright)
    return PassesResult(
        moments=moments,
        batch=min(chooser.chosen, moments.count),
        mask_seconds=seconds["masks"],
        pass_seconds=seconds["passes"],
        reduce_seconds=seconds["reduce"],
    )


def not_finite_error(model: Model) -> FileFormatError:
    """The error for predictions that are not finite numbers."""
    precision = model.contract.precision
    if precision != "fp32":
        return FileFormatError(
            f"{model.path}: predicts numbers that are not finite: {precision} is too narrow for this image. "
            f"Use the float32 model: {typed('--precision fp32')}"
        )
    return FileFormatError(
        f"{model.path}: predicts numbers that are not finite, so its weights are damaged or the fit diverged. "
        "Fit again: self2self fit IMAGE --force"
    )


def minimum_passes(pass_plan: PassPlan) -> int:
    """Passes before the standard error is checked: a block in each orientation, and one to compare with the first."""
    return PASSES_PER_BLOCK * ((MIRROR_ORIENTATIONS if pass_plan.flips else 1) + 1)


def _is_settled(moments: Moments, pass_plan: PassPlan) -> bool:
    if pass_plan.tolerance is None or moments.count % PASSES_PER_BLOCK or moments.count < minimum_passes(pass_plan):
        return False
    return moments.standard_error() <= pass_plan.tolerance


def expected_passes(pass_plan: PassPlan, moments: PassSums) -> int:
    """Estimate from `moments` how many passes there will be in all.

    The square of the standard error is proportional to one over the number of passes.
    """
    if pass_plan.tolerance is None:
        return pass_plan.passes
    expected = minimum_passes(pass_plan)
    if moments.count >= expected:
        needed = moments.count * (moments.standard_error() / pass_plan.tolerance) ** 2
        expected = PASSES_PER_BLOCK * math.ceil(max(moments.count, min(needed, pass_plan.passes)) / PASSES_PER_BLOCK)
    return min(pass_plan.passes, expected)


class PassTooLarge(ResourceError):  # noqa: N818 - the caller may try a smaller tile
    """Memory is too short for a single pass."""


class BatchChooser:
    """Tries growing batch sizes, then stays with the fastest; the passes of these trials count for the result.

    Args:
        largest: the largest size to try.
        fixed: whether to use `largest` from the start, without trials.
        trials: batch sizes to try, in increasing order.
    """

    def __init__(self, largest: int, *, fixed: bool = False, trials: Sequence[int] = TRIAL_BATCHES) -> None:
        self.batch = largest if fixed else trials[0]
        self._trials = [] if fixed else [size for size in trials if size <= max(largest, self.batch)]
        self._runs = 0
        self._best_seconds = float("inf")
        self._best_batch = self.batch

    @property
    def chosen(self) -> int:
        """The batch size in use after the trials; during the trials, the fastest so far."""
        return self._best_batch if self._trials else self.batch

    @property
    def settled(self) -> bool:
        """Whether the trials are over."""
        return not self._trials

    def ran(self, count: int, seconds: float) -> None:
        """Record that a run of `count` passes took `seconds`."""
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
            # Larger batches would only take more memory.
            self._trials.clear()
        self.batch = self._trials[0] if self._trials else self._best_batch

    def shrink(self, error: MemoryError) -> None:
        """Halve the batch after it did not fit into memory.

        Raises:
            PassTooLarge: the batch was a single pass.
        """
        if self.batch == 1:
            raise PassTooLarge(
                "out of memory: a single pass does not fit. Close other programs or denoise a smaller image."
            ) from error
        self._trials.clear()
        self.batch //= 2
