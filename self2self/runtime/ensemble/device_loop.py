"""The ensemble on a GPU: masks, passes and sums stay there, and the finished image comes back.

Two sets of mask buffers and two streams: while the passes of one batch run, the masks of the next
are made. On a device without streams, as the CPU in the tests, the same code runs in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast, runtime_checkable

import numpy as np

from self2self.errors import EngineUnavailableError, UsageError, first_line
from self2self.imaging.orientation import MIRROR_ORIENTATIONS, oriented, undo_orientation
from self2self.machine.system import free_memory_bytes
from self2self.model.contract import Contract
from self2self.runtime.engines.engine import Engine, FloatArray
from self2self.runtime.engines.profiles import BATCHES
from self2self.runtime.engines.torch_cuda.nvrtc import compiled
from self2self.runtime.ensemble.device_masks import KERNELS, DeviceMasks
from self2self.runtime.ensemble.host_loop import BatchChooser, PassesResult, not_finite_error, run_ensemble
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.pass_plan import PassPlan
from self2self.runtime.memory_budget import DEVICE_SHARE, fitting_passes, pass_bytes
from self2self.runtime.model import Model

if TYPE_CHECKING:
    import torch

MASK_SOURCES = ("auto", "host", "device")
TRIAL_BATCHES = tuple(1 << power for power in range(BATCHES[2].bit_length()))
ROUND = 64
"""Passes between two looks at the standard error, each of which waits for the device; with flips, a quarter of them in
each orientation."""
PROGRESS_SECONDS = 0.25
"""Between two looks at the sums, each of which waits for the device."""


@runtime_checkable
class DeviceEngine(Protocol):
    """What an engine that takes masks on the device has besides those of `Engine`."""

    device: ClassVar[str]
    channels_last_masks: ClassVar[bool]
    model: Model
    image: FloatArray

    def run_on_device(self, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Predictions, float32 [N, C, H, W] on the device; the next call may overwrite them.

        The work is ordered after what PyTorch's current stream holds, and that stream after it.

        Raises:
            MemoryError, torch.OutOfMemoryError: the batch did not fit.
            FileFormatError: the graph cannot be run.
        """

    def largest_device_batch(self) -> int:
        """The most passes of one call."""

    def set_image(self, image: FloatArray) -> None:
        """As `Engine` says; nothing is running."""


def choose_mask_source(wanted: str, engine: type[Engine]) -> str:
    """``"host"`` or ``"device"`` for `--mask-source` and an engine that works here.

    Raises:
        UsageError: there is no such source, or the engine cannot take masks on a device.
    """
    if wanted not in MASK_SOURCES:
        raise UsageError(f"--mask-source is {wanted!r}; expected one of: {', '.join(MASK_SOURCES)}.")
    able = hasattr(engine, "run_on_device") and _torch_reaches(getattr(engine, "device", ""))
    if wanted == "device" and not able:
        reason = "PyTorch cannot use CUDA here" if hasattr(engine, "run_on_device") else "it runs on the CPU"
        raise UsageError(f"--mask-source device does not work with engine {engine.name}: {reason}. Use host.")
    return "device" if able and wanted != "host" else "host"


def _torch_reaches(device: str) -> bool:
    try:
        import torch
    except (ImportError, OSError):
        return False
    return device == "cpu" or bool(torch.cuda.is_available())


def masks_for(engine: DeviceEngine, seed: int, place: int = 0) -> DeviceMasks:
    """What makes masks for the image of `engine`, in the memory order that it takes.

    Args:
        engine: prepared or not.
        seed: of all passes.
        place: of the tile, as for `masks.MaskMaker`.
    """
    axes = dict(zip("HW", engine.image.shape[2:], strict=True))
    kernels = None
    if engine.device != "cpu":
        with suppress(EngineUnavailableError):
            kernels = compiled(KERNELS)
    specs = engine.model.contract.masks
    return DeviceMasks(specs, axes, seed, engine.device, place, engine.channels_last_masks, kernels)


def largest_device_batch(contract: Contract, axes: Mapping[str, int], free_bytes: int) -> int:
    """The largest batch worth trying with `free_bytes` of device memory."""
    return min(TRIAL_BATCHES[-1], fitting_passes(pass_bytes(contract, axes), DEVICE_SHARE * free_bytes))


def free_device_bytes(device: str) -> int:
    """Free memory of the GPU, or of the host for ``"cpu"``."""
    if device == "cpu":
        return free_memory_bytes()
    import torch

    return int(torch.cuda.mem_get_info()[0])


class DeviceMoments:
    """Sums of predictions and of their squares, float64 on the device.

    Args:
        shape: (C, H, W) of one prediction.
        device: of PyTorch.
        tile: which tile of the image this is, and of how many.
    """

    def __init__(self, shape: tuple[int, ...], device: str, tile: tuple[int, int] = (0, 1)) -> None:
        import torch

        self.count = 0
        self._tile = tile
        self._sums = torch.zeros((2, *shape), dtype=torch.float64, device=device)

    def add(self, predictions: torch.Tensor, orientation: int = 0) -> None:
        """Fold in predictions [N, C, H, W] of an image in an orientation; nothing is changed if memory runs out."""
        wide = predictions.double()
        total = undo_orientation(wide.sum(dim=0), orientation)
        squares = undo_orientation(wide.square_().sum(dim=0), orientation)
        self._sums[0] += total
        self._sums[1] += squares
        self.count += len(predictions)

    def to_host(self) -> Moments:
        """Wait for the device and copy the sums."""
        sums = self._sums.cpu().numpy()
        return Moments.from_sums(sums[0], sums[1], self.count, *self._tile)


@cache
def _stream(name: str) -> Any:
    # PyTorch keeps freed memory for the stream that it was taken on, so new ones for each tile would take it anew.
    import torch

    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


class Lanes:
    """A stream for masks and one for passes, on a device that has streams.

    Args:
        device: of PyTorch.
    """

    def __init__(self, device: str) -> None:
        self._events: dict[tuple[str, int], Any] = {}
        self._streams: dict[str, Any] = {}
        if device != "cpu":
            import torch

            self._streams = {name: _stream(name) for name in ("masks", "passes")}
            # The buffers' first use follows what the default stream did to make them.
            for stream in self._streams.values():
                stream.wait_stream(torch.cuda.default_stream())

    def on(self, name: str, slot: int) -> AbstractContextManager[Any]:
        """Work on stream `name`, after the other stream has let go of the buffers `slot`."""
        if not self._streams:
            return nullcontext()
        import torch

        other = "passes" if name == "masks" else "masks"
        event = self._events.get((other, slot))
        if event is not None:
            self._streams[name].wait_event(event)
        return cast(AbstractContextManager[Any], torch.cuda.stream(self._streams[name]))

    def done(self, name: str, slot: int) -> None:
        """Stream `name` has been given all its work on the buffers `slot`."""
        if self._streams:
            self._events[name, slot] = self._streams[name].record_event()

    def finish(self) -> None:
        """Wait for all work."""
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
) -> PassesResult:
    """Run passes from 0 on, as many as `pass_plan` wants, and fold them together, all on the engine's device.

    While batch sizes are tried, each part is waited for and timed. After that masks are made beside
    the passes, and the time of both is told as that of the passes.

    Args:
        engine: prepared.
        maker: makes the masks on the engine's device.
        pass_plan: a tolerance is looked at after each `ROUND` passes; with flips, each orientation takes its turn, once
            where the number of passes is known and once a round where it is not, and turns differ by one pass at
            most. A number is that many passes over the image as it is.
        batch: passes a run; None chooses by measured speed among sizes up to `largest_batch`.
        largest_batch: the most that memory allows.
        on_progress: called some times a second with what was reached; what it raises ends the loop.
        on_note: told when a batch did not fit.
        tile: which tile of the image this is, and of how many, for `on_progress`.

    Raises:
        ResourceError: not even one pass at a time fits into memory.
        FileFormatError: a prediction is not finite.
    """
    import torch

    if isinstance(pass_plan, int):
        pass_plan = PassPlan(pass_plan, tolerance=None, balanced=False, flips=False)
    passes, tolerance = pass_plan.passes, pass_plan.tolerance
    turns = MIRROR_ORIENTATIONS if pass_plan.flips else 1
    # Passes in which each orientation has its turn once.
    cycle = passes if tolerance is None else min(ROUND, passes)
    upright = engine.image
    moments, lanes = DeviceMoments(upright.shape[1:], engine.device, tile), Lanes(engine.device)
    seconds = {"masks": 0.0, "passes": 0.0, "reduce": 0.0}
    limit = engine.largest_device_batch()
    if batch is None:
        chooser = BatchChooser(min(limit, largest_batch, -(-cycle // turns)), trials=TRIAL_BATCHES)
    else:
        chooser = BatchChooser(min(limit, batch), fixed=True)
    slots: list[dict[str, torch.Tensor]] = []
    capacity = slot = orientation = 0
    made: tuple[int, int] | None = None
    looked = time.perf_counter()

    def make(first: int, count: int, target: int) -> None:
        with lanes.on("masks", target):
            maker.fill(slots[target], first, count)
        lanes.done("masks", target)

    def next_run(first: int) -> tuple[int, int]:
        """Orientation and passes of the run that begins with pass `first`."""
        begin = first - first % cycle
        length = min(cycle, passes - begin)
        turn = (first - begin) * turns // length
        # Turns differ by one pass at most, also where these are no multiple of them, and the first one is upright.
        end = begin - (-length * (turn + 1) // turns)
        return turn, min(chooser.batch, end - first)

    while moments.count < passes:
        first = moments.count
        turn, count = next_run(first)
        alone = not chooser.settled
        start = time.perf_counter()
        if turn != orientation:
            orientation = turn
            # What runs still reads the image that is exchanged.
            lanes.finish()
            engine.set_image(np.ascontiguousarray(oriented(upright, orientation)))
        try:
            if count > capacity:
                lanes.finish()
                slots, capacity, made = [], 0, None
                slots = [maker.allocate(count), maker.allocate(count)]
                capacity = count
            if made != (first, count):
                make(first, count, slot)
            if alone:
                lanes.finish()
            ready = time.perf_counter()
            following = first + count
            if not alone and following < passes:
                made = (following, next_run(following)[1])
                make(*made, 1 - slot)
            with lanes.on("passes", slot):
                predictions = engine.run_on_device({name: buffer[:count] for name, buffer in slots[slot].items()})
                moments.add(predictions, orientation)
            lanes.done("passes", slot)
            if alone:
                lanes.finish()
        except (MemoryError, torch.OutOfMemoryError) as error:
            lanes.finish()
            slots, capacity, made = [], 0, None
            chooser.shrink(error if isinstance(error, MemoryError) else MemoryError(first_line(error)))
            if engine.device != "cpu":
                torch.cuda.empty_cache()
            on_note(f"a batch of {count} does not fit into the GPU's memory; going on with {chooser.batch}.")
            continue
        slot = 1 - slot
        ran = time.perf_counter()
        seconds["masks"] += ready - start
        seconds["passes"] += ran - ready
        chooser.ran(count, ran - start)
        due = tolerance is not None and moments.count % ROUND == 0
        if due or (on_progress is not None and (ran - looked >= PROGRESS_SECONDS or moments.count >= passes)):
            reached = _checked(moments, lanes, engine)
            if on_progress is not None:
                on_progress(reached)
            looked = time.perf_counter()
            seconds["passes"] += looked - ran
            if due and tolerance is not None and reached.standard_error() <= tolerance:
                break
    start = time.perf_counter()
    lanes.finish()
    finished = time.perf_counter()
    seconds["passes"] += finished - start
    total = _checked(moments, lanes, engine)
    seconds["reduce"] = time.perf_counter() - finished
    if orientation:
        engine.set_image(upright)
    return PassesResult(total, min(chooser.chosen, total.count), seconds["masks"], seconds["passes"], seconds["reduce"])


def ensemble_on(engine: Engine, seed: int) -> Callable[[int, int], PassesResult]:
    """Plain ensembles as `denoise` runs them on `engine`: with masks of the device where it takes those.

    Args:
        engine: prepared.
        seed: of the masks.

    Returns:
        what runs so many passes, so many at a time.
    """
    if choose_mask_source("auto", type(engine)) == "device":
        on_device = cast(DeviceEngine, engine)
        device_maker = masks_for(on_device, seed)
        return lambda passes, batch: run_device_ensemble(on_device, device_maker, passes, batch=batch)
    maker = engine.mask_maker(seed)
    return lambda passes, batch: run_ensemble(engine, maker, passes, batch=batch)


def _checked(moments: DeviceMoments, lanes: Lanes, engine: DeviceEngine) -> Moments:
    lanes.finish()
    host = moments.to_host()
    # A sum is finite only if all that went into it is.
    if not host.is_finite():
        raise not_finite_error(engine.model)
    return host
