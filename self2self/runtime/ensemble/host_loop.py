"""The ensemble: hundreds of stochastic passes, streamed.

Masks are made for one batch at a time and predictions are folded into sums (`moments`) at once, so
memory does not grow with the number of passes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from self2self.errors import FileFormatError, ResourceError
from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation
from self2self.model.masks import PASSES_PER_BLOCK, MaskMaker
from self2self.runtime.engines.engine import Engine
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.pass_plan import PassPlan
from self2self.runtime.model import Model

TRIAL_BATCHES = (1, 2, 4, 8)
TRIAL_RUNS = 2
"""Runs of each trial batch size; the first of them also allocates and is not timed."""
WORTHWHILE_GAIN = 0.03
"""A larger batch takes more memory, so it has to save at least this share of the time."""


@dataclass(frozen=True, slots=True)
class PassesResult:
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

    @property
    def seconds(self) -> dict[str, float]:
        """Time spent on ``masks``, ``passes`` and ``reduce``."""
        return {"masks": self.mask_seconds, "passes": self.pass_seconds, "reduce": self.reduce_seconds}


def run_ensemble(
    engine: Engine,
    maker: MaskMaker,
    pass_plan: PassPlan | int,
    *,
    batch: int | None = None,
    largest_batch: int = TRIAL_BATCHES[-1],
    on_progress: Callable[[Moments], None] | None = None,
    tile: tuple[int, int] = (0, 1),
) -> PassesResult:
    """Run passes from 0 on, as many as `pass_plan` wants, and fold them together.

    Args:
        engine: prepared.
        maker: makes the masks; pass i has the same ones for every batch size.
        pass_plan: the tolerance is checked after every block of `PASSES_PER_BLOCK` passes, from `fewest_passes` on.
            With flips, each block sees the image in the next of the `MIRROR_ORIENTATIONS`. A number is that many
            passes over the image as it is.
        batch: passes a run; None chooses by measured speed among sizes up to `largest_batch`,
            with passes that count.
        largest_batch: the most that memory allows.
        on_progress: called after every run with what was reached; what it raises ends the loop.
        tile: which tile of the image this is, and of how many, for `on_progress`.

    Raises:
        PassTooLarge: not even one pass at a time fits into memory.
        FileFormatError: a prediction is not finite.
    """
    if isinstance(pass_plan, int):
        pass_plan = PassPlan(pass_plan, tolerance=None, balanced=maker.block > 1, flips=False)
    upright = engine.image
    moments = Moments(upright.shape[1:], maker.block, *tile)
    seconds = {"masks": 0.0, "passes": 0.0, "reduce": 0.0}
    chooser = BatchChooser(largest_batch) if batch is None else BatchChooser(batch, fixed=True)
    orientation = following = 0
    while moments.count < pass_plan.passes and not _is_settled(moments, pass_plan):
        start = time.perf_counter()
        count = min(chooser.batch, pass_plan.passes - moments.count)
        if pass_plan.flips:
            # A run has one image, so it does not go beyond the block.
            count = min(count, PASSES_PER_BLOCK - moments.count % PASSES_PER_BLOCK)
            following = moments.count // PASSES_PER_BLOCK % MIRROR_ORIENTATIONS
        try:
            if following != orientation:
                engine.set_image(np.ascontiguousarray(oriented(upright, following)))
                orientation = following
            masks = maker.make(moments.count, count)
            made = time.perf_counter()
            engine.first_pass = moments.count
            predictions = engine.run(masks)
        except MemoryError as error:
            chooser.shrink(error)
            engine.note(f"out of memory; going on with {chooser.batch} passes at a time.")
            continue
        ran = time.perf_counter()
        moments.add(undo_orientation(predictions, orientation), orientation)
        # At once, which saves the user from waiting for a black image.
        if not moments.is_finite():
            raise not_finite_error(engine.model)
        reduced = time.perf_counter()
        seconds["masks"] += made - start
        seconds["passes"] += ran - made
        seconds["reduce"] += reduced - ran
        chooser.ran(count, reduced - start)
        if on_progress is not None:
            on_progress(moments)
    if orientation:
        engine.set_image(upright)
    return PassesResult(
        moments, min(chooser.chosen, moments.count), seconds["masks"], seconds["passes"], seconds["reduce"]
    )


def not_finite_error(model: Model) -> FileFormatError:
    """The error for predictions that are not finite numbers."""
    precision = model.contract.precision
    if precision != "fp32":
        return FileFormatError(
            f"{model.path}: predicts numbers that are not finite: {precision} is too narrow for this image. "
            "Use the float32 model: --precision fp32"
        )
    return FileFormatError(
        f"{model.path}: predicts numbers that are not finite, so its weights are damaged or the fit diverged. "
        "Fit again: self2self fit IMAGE --force"
    )


def fewest_passes(pass_plan: PassPlan) -> int:
    """Passes before the standard error is known: one block in each orientation, and one to compare with the first."""
    return PASSES_PER_BLOCK * ((MIRROR_ORIENTATIONS if pass_plan.flips else 1) + 1)


def _is_settled(moments: Moments, pass_plan: PassPlan) -> bool:
    if pass_plan.tolerance is None or moments.count % PASSES_PER_BLOCK or moments.count < fewest_passes(pass_plan):
        return False
    return moments.standard_error() <= pass_plan.tolerance


def expected_passes(pass_plan: PassPlan, moments: Moments) -> int:
    """How many passes there will be in all, as far as `moments` tell.

    The square of the standard error falls as one over the number of passes.
    """
    if pass_plan.tolerance is None:
        return pass_plan.passes
    expected = fewest_passes(pass_plan)
    if moments.count >= expected:
        needed = moments.count * (moments.standard_error() / pass_plan.tolerance) ** 2
        expected = PASSES_PER_BLOCK * math.ceil(max(moments.count, min(needed, pass_plan.passes)) / PASSES_PER_BLOCK)
    return min(pass_plan.passes, expected)


class PassTooLarge(ResourceError):  # noqa: N818 - the caller may have a smaller tile to try
    """Memory does not hold a single pass."""


class BatchChooser:
    """Tries growing batch sizes on passes that count, then stays with the fastest.

    Args:
        largest: the largest size to try.
        fixed: use `largest` from the start.
        trials: the sizes to try, growing.
    """

    def __init__(self, largest: int, *, fixed: bool = False, trials: Sequence[int] = TRIAL_BATCHES) -> None:
        self.batch = largest if fixed else trials[0]
        self._trials = [] if fixed else [size for size in trials if size <= max(largest, self.batch)]
        self._runs = 0
        self._best_seconds = float("inf")
        self._best_batch = self.batch

    @property
    def chosen(self) -> int:
        """The size to stay with, as far as is known."""
        return self._best_batch if self._trials else self.batch

    @property
    def settled(self) -> bool:
        """Whether the trials are over."""
        return not self._trials

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
            PassTooLarge: it was one already.
        """
        if self.batch == 1:
            raise PassTooLarge(
                "out of memory: a single pass does not fit. Close other programs or denoise a smaller image."
            ) from error
        self._trials.clear()
        self.batch //= 2
