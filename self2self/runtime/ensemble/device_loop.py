"""Run the ensemble on a GPU: masks, passes and sums stay there, and only the sums come back.

There are two sets of mask buffers and two streams: while the passes of one batch run, the masks of the next batch are
made. On a device without streams, such as the CPU in the tests, the same code runs in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from self2self.errors import first_line
from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation
from self2self.runtime.engines.engine import Engine
from self2self.runtime.ensemble.device_engine import TRIAL_BATCHES, DeviceEngine, choose_mask_source, masks_for
from self2self.runtime.ensemble.device_masks import DeviceMasks
from self2self.runtime.ensemble.host_loop import BatchChooser, PassesResult, not_finite_error, run_ensemble
from self2self.runtime.ensemble.moments import KeptSums, Moments
from self2self.runtime.ensemble.pass_plan import PassPlan

if TYPE_CHECKING:
    import torch

PASSES_PER_ROUND = 64
"""Passes after which the standard error is checked again; each check waits for the device. With flips, each orientation
has a quarter of these passes."""
PROGRESS_SECONDS = 0.25
"""Smallest time between two reports of progress; each report waits for the device and copies the sums."""


class DeviceMoments:
    """Sums of predictions and of their squares, float64 on the device.

    Args:
        shape: (C, H, W) of one prediction.
        device: PyTorch's name of the device.
        tile: number of the tile, from 0, and number of tiles.
    """

    def __init__(self, shape: tuple[int, ...], device: str, tile: tuple[int, int] = (0, 1)) -> None:
        import torch

        self.count = 0
        self._tile = tile
        self._sums = torch.zeros((2, *shape), dtype=torch.float64, device=device)

    def add(self, predictions: torch.Tensor, orientation: int = 0) -> None:
        """Add predictions [N, C, H, W] of the image in an orientation; the sums stay as they are if memory runs out."""
        wide = predictions.double()
        total = undo_orientation(wide.sum(dim=0), orientation)
        squares = undo_orientation(wide.square_().sum(dim=0), orientation)
        self._sums[0] += total
        self._sums[1] += squares
        self.count += len(predictions)

    def restore(self, moments: Moments) -> None:
        """Go on from the sums of `moments`, which came from `to_host`."""
        import torch

        _, sums = moments.stored()
        for target, source in zip(self._sums, (sums["sum 0"], sums["squares"]), strict=True):
            target.copy_(torch.from_numpy(source))
        self.count = moments.count

    def to_host(self) -> Moments:
        """Wait for the device and copy the sums."""
        sums = self._sums.cpu().numpy()
        return Moments.from_sums(sums[0], sums[1], self.count, *self._tile)


@cache
def _stream(name: str) -> Any:
    # PyTorch keeps freed memory for the stream that used it, so new streams for each tile would need new memory.
    import torch

    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


class Lanes:
    """A stream for masks and a stream for passes; on a device without streams, all methods do nothing.

    Args:
        device: PyTorch's name of the device.
    """

    def __init__(self, device: str) -> None:
        self._events: dict[tuple[str, int], Any] = {}
        self._streams: dict[str, Any] = {}
        if device != "cpu":
            import torch

            self._streams = {name: _stream(name) for name in ("masks", "passes")}
            # The default stream allocates the buffers, so their first use has to wait for it.
            for stream in self._streams.values():
                stream.wait_stream(torch.cuda.default_stream())

    def on(self, name: str, slot: int) -> AbstractContextManager[Any]:
        """Context in which work goes to stream `name`, after the other stream's work on the buffers `slot`."""
        if not self._streams:
            return nullcontext()
        import torch

        other = "passes" if name == "masks" else "masks"
        event = self._events.get((other, slot))
        if event is not None:
            self._streams[name].wait_event(event)
        return cast(AbstractContextManager[Any], torch.cuda.stream(self._streams[name]))

    def done(self, name: str, slot: int) -> None:
        """Mark the end of the work of stream `name` on the buffers `slot`."""
        if self._streams:
            self._events[name, slot] = self._streams[name].record_event()

    def finish(self) -> None:
        """Wait until both streams have done all their work."""
        for stream in self._streams.values():
            stream.synchronize()


def run_device_ensemble(
    engine: DeviceEngine,
    maker: DeviceMasks,
    pass_plan: PassPlan | int,
    *,
    batch: int | None = None,
    largest_batch: int = TRIAL_BATCHES[-1],
    on_progress: Callable[[Moments], None] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    tile: tuple[int, int] = (0, 1),
    kept: KeptSums | None = None,
) -> PassesResult:
    """Run passes from 0 on, as many as `pass_plan` says, and sum up their predictions, all on the engine's device.

    While batch sizes are tried, masks and passes run one after the other and have separate times. After that, masks are
    made while passes run, and the time of both counts as time of the passes.

    Args:
        engine: a prepared engine.
        maker: makes the masks on the engine's device.
        pass_plan: the tolerance is checked after every `PASSES_PER_ROUND` passes. With flips, each orientation has one
            turn if the number of passes is known, and otherwise one turn in each round; turns differ by one pass at
            most. An int means that many passes over the image in its own orientation.
        batch: passes in one run of the engine; None chooses by measured speed among sizes up to `largest_batch`.
        largest_batch: largest batch that memory allows.
        on_progress: called several times a second with the sums so far; an exception from it ends the loop.
        on_note: called when a batch did not fit.
        tile: number of the tile, from 0, and number of tiles, for `on_progress`.
        kept: as for `run_ensemble`. Sums in float64 depend on the batch in their last bits.

    Raises:
        ResourceError: not even one pass at a time fits into memory.
        FileFormatError: a prediction is not finite.
    """
    if isinstance(pass_plan, int):
        pass_plan = PassPlan(pass_plan, tolerance=None, balanced=False, flips=False)
    loop = _DeviceLoop(engine, maker, pass_plan, batch, largest_batch, tile, kept)
    return loop.run(on_progress, on_note)


class _DeviceLoop:
    """The state of `run_device_ensemble`: mask buffers, sums, orientation of the image, and batch size."""

    def __init__(
        self,
        engine: DeviceEngine,
        maker: DeviceMasks,
        pass_plan: PassPlan,
        batch: int | None,
        largest_batch: int,
        tile: tuple[int, int],
        kept: KeptSums | None,
    ) -> None:
        self._engine = engine
        self._kept = kept
        self._maker = maker
        self._passes, self._tolerance = pass_plan.passes, pass_plan.tolerance
        self._turns = MIRROR_ORIENTATIONS if pass_plan.flips else 1
        self._cycle = pass_plan.passes if pass_plan.tolerance is None else min(PASSES_PER_ROUND, pass_plan.passes)
        """Number of passes in which each orientation has one turn."""
        self._upright = engine.image
        self._orientation = 0
        self._moments = DeviceMoments(engine.image.shape[1:], engine.device, tile)
        self._lanes = Lanes(engine.device)
        self._seconds = {"masks": 0.0, "passes": 0.0, "reduce": 0.0}
        limit = engine.largest_device_batch()
        if batch is None:
            largest = min(limit, largest_batch, -(-self._cycle // self._turns))
            self._chooser = BatchChooser(largest, trials=TRIAL_BATCHES)
        else:
            self._chooser = BatchChooser(min(limit, batch), fixed=True)
        self._buffers: list[dict[str, torch.Tensor]] = []
        """Two sets of mask buffers: passes read one while the other is filled."""
        self._capacity = self._slot = 0
        self._masks_made: tuple[int, int] | None = None
        """First pass and number of passes of the masks in the buffers `_slot`; None for no masks."""
        if kept is not None and (earlier := kept.restored()) is not None:
            moments, self._seconds = earlier
            self._moments.restore(moments)

    def run(self, on_progress: Callable[[Moments], None] | None, on_note: Callable[[str], None]) -> PassesResult:
        """Run all passes; see `run_device_ensemble`."""
        import torch

        reported = time.perf_counter()
        while self._moments.count < self._passes:
            start = time.perf_counter()
            turn, count = self._next_run(self._moments.count)
            self._exchange_image(turn)
            try:
                ran = self._run_batch(count, start)
            except (MemoryError, torch.OutOfMemoryError) as error:
                self._free_memory(error)
                on_note(f"a batch of {count} does not fit into the GPU's memory; going on with {self._chooser.batch}.")
                continue
            self._chooser.ran(count, ran - start)
            due = self._tolerance is not None and self._moments.count % PASSES_PER_ROUND == 0
            last = self._moments.count >= self._passes
            keeps = self._kept is not None and self._kept.due()
            if due or keeps or (on_progress is not None and (ran - reported >= PROGRESS_SECONDS or last)):
                reached = self._checked_moments()
                if keeps and self._kept is not None:
                    self._kept.keep(reached, self._seconds)
                if on_progress is not None:
                    on_progress(reached)
                reported = time.perf_counter()
                self._seconds["passes"] += reported - ran
                if due and self._tolerance is not None and reached.standard_error() <= self._tolerance:
                    break
        return self._finish()

    def _next_run(self, first: int) -> tuple[int, int]:
        """Orientation and number of passes of the run that begins with pass `first`."""
        begin = first - first % self._cycle
        length = min(self._cycle, self._passes - begin)
        turn = (first - begin) * self._turns // length
        # Turns differ by one pass at most, even if the turns do not divide the passes. The first turn is upright.
        end = begin - (-length * (turn + 1) // self._turns)
        return turn, min(self._chooser.batch, end - first)

    def _exchange_image(self, turn: int) -> None:
        if turn != self._orientation:
            self._orientation = turn
            # Passes that still run read the current image.
            self._lanes.finish()
            self._engine.set_image(np.ascontiguousarray(oriented(self._upright, turn)))

    def _run_batch(self, count: int, start: float) -> float:
        """Run the engine once, begun at `start`, and make the masks of the next run; return the time after both.

        Except while batch sizes are tried, the device may still work on them at that time.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch does not fit.
        """
        first, lanes = self._moments.count, self._lanes
        # While batch sizes are tried, nothing else runs at the same time, so that the measured time is that of the run.
        alone = not self._chooser.settled
        if count > self._capacity:
            lanes.finish()
            self._buffers, self._capacity, self._masks_made = [], 0, None
            self._buffers = [self._maker.allocate(count), self._maker.allocate(count)]
            self._capacity = count
        if self._masks_made != (first, count):
            self._make_masks(first, count, self._slot)
        if alone:
            lanes.finish()
        ready = time.perf_counter()
        following = first + count
        if not alone and following < self._passes:
            self._masks_made = (following, self._next_run(following)[1])
            self._make_masks(*self._masks_made, 1 - self._slot)
        with lanes.on("passes", self._slot):
            masks = {name: buffer[:count] for name, buffer in self._buffers[self._slot].items()}
            self._moments.add(self._engine.run_on_device(masks), self._orientation)
        lanes.done("passes", self._slot)
        if alone:
            lanes.finish()
        self._slot = 1 - self._slot
        ran = time.perf_counter()
        self._seconds["masks"] += ready - start
        self._seconds["passes"] += ran - ready
        return ran

    def _make_masks(self, first: int, count: int, slot: int) -> None:
        with self._lanes.on("masks", slot):
            self._maker.fill(self._buffers[slot], first, count)
        self._lanes.done("masks", slot)

    def _free_memory(self, error: Exception) -> None:
        """Drop the mask buffers and choose a smaller batch after `error`.

        Raises:
            PassTooLarge: not even one pass at a time fits.
        """
        import torch

        self._lanes.finish()
        self._buffers, self._capacity, self._masks_made = [], 0, None
        self._chooser.shrink(error if isinstance(error, MemoryError) else MemoryError(first_line(error)))
        if self._engine.device != "cpu":
            torch.cuda.empty_cache()

    def _finish(self) -> PassesResult:
        start = time.perf_counter()
        self._lanes.finish()
        finished = time.perf_counter()
        self._seconds["passes"] += finished - start
        total = self._checked_moments()
        self._seconds["reduce"] = time.perf_counter() - finished
        if self._orientation:
            self._engine.set_image(self._upright)
        return PassesResult(
            moments=total,
            batch=min(self._chooser.chosen, total.count),
            mask_seconds=self._seconds["masks"],
            pass_seconds=self._seconds["passes"],
            reduce_seconds=self._seconds["reduce"],
        )

    def _checked_moments(self) -> Moments:
        """Copy the sums so far to the host and check them.

        Raises:
            FileFormatError: a prediction was not finite.
        """
        self._lanes.finish()
        host = self._moments.to_host()
        # A sum is finite only if all its terms are finite.
        if not host.is_finite():
            raise not_finite_error(self._engine.model)
        return host


def ensemble_on(engine: Engine, seed: int) -> Callable[[int, int], PassesResult]:
    """A function that runs plain ensembles on `engine` as `denoise_pixels` does: with device masks if it takes them.

    Args:
        engine: a prepared engine.
        seed: seed of the masks.

    Returns:
        Function of the number of passes and the batch size.
    """
    if choose_mask_source("auto", type(engine)) == "device":
        on_device = cast(DeviceEngine, engine)
        device_maker = masks_for(on_device, seed)
        return lambda passes, batch: run_device_ensemble(on_device, device_maker, passes, batch=batch)
    maker = engine.mask_maker(seed)
    return lambda passes, batch: run_ensemble(engine, maker, passes, batch=batch)
