"""From an image of any size and a model to a clean image: the wrapper that owns padding and range."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import numpy as np

from self2self.contract import Contract
from self2self.errors import EngineUnavailableError, InputError, ResourceError, UsageError
from self2self.masks import MaskMaker, check_seed
from self2self.padding import Padding
from self2self.runtime.device_ensemble import (
    DeviceEngine,
    choose_mask_source,
    free_device_bytes,
    largest_device_batch,
    run_device_ensemble,
)
from self2self.runtime.device_masks import DeviceMasks
from self2self.runtime.engine import Engine, FloatArray, get_engine
from self2self.runtime.ensemble import Ensemble, Moments, PassTooLarge, run_ensemble
from self2self.runtime.model import Model
from self2self.runtime.sampling import Passes, Sampling, device_sampling, sampling_for
from self2self.runtime.tiling import SMALLEST_TILE, Canvas, TilePlan, place_of, tile_sizes
from self2self.system import free_memory_bytes

BYTES_PER_MASK_ELEMENT = 12
"""Peak memory of a run for each mask element, the mask itself included, rounded up.

Measured as the growth of the resident set from 128x128 with eight passes to 512x512 with one:
ONNX Runtime 9.4 to 10.6 and PyTorch 8 to 14 for the wide and the narrow decoder. Nearly all of the
network's activations have masks; only a very narrow network needs more (PyTorch 18).
"""
MEMORY_SHARE = 0.25
"""How much of the free memory a batch may take; more passes a run gain little on a CPU."""
BUDGET_SHARE = 0.5
"""Default budget for everything, as a share of the free memory; the rest is for the other programs."""
BYTES_PER_VALUE = 100
"""Sums, masks of the image's own size and temporaries, for each value of a tile."""
ENGINE_BYTES = 250 * 10**6
"""Kept back for what the engine's library, the weights and fragmented memory take, whatever the size of the image.

With 150 MB, a run at 4096x4096 took 659 MB of 600 and one at 8192x8192 took 2.08 GB of 2.
"""
IMAGES_AT_ONCE = 4
"""Reading, denoising and writing hold up to so many float32 images, where the input is kept."""


@dataclass(frozen=True, slots=True)
class Denoised:
    """A finished image and how it was made.

    Attributes:
        image: float32 (C, H, W), clamped to the bounds.
        uncertainty: float32 (C, H, W), standard deviation over the passes; None if it was not asked for.
        engine: `--engine` name of what ran.
        provider: the provider that really ran.
        passes: number of passes; with tiles, their mean over the tiles.
        sampling: how they were drawn.
        batch: passes a run.
        seed: seed of the masks.
        seconds: time of ``prepare``, ``masks``, ``passes`` and ``reduce``.
        standard_error: of the mean; RMS over all values, in 8-bit grey levels. Where tiles overlap,
            that of a single tile, which is more than that of their blend.
        tile: (height, width) of the tiles; None if the image was not cut.
        tiles: number of tiles; 1 if the image was not cut.
        mask_source: ``"host"`` or ``"device"``: where the masks were made.
        fallback: why another engine ran than the one that was asked for; empty if none did.
    """

    image: FloatArray
    uncertainty: FloatArray | None
    engine: str
    provider: str
    passes: int
    sampling: Sampling
    batch: int
    seed: int
    seconds: dict[str, float]
    standard_error: float
    tile: tuple[int, int] | None = None
    tiles: int = 1
    mask_source: str = "host"
    fallback: str = ""

    @property
    def passes_per_second(self) -> float:
        """Passes a second, with masks and reduction."""
        return self.passes / max(1e-9, sum(self.seconds[key] for key in ("masks", "passes", "reduce")))


def denoise(
    model: Model,
    pixels: FloatArray,
    *,
    engine: str = "auto",
    passes: Passes | None = None,
    sampling: Sampling | None = None,
    batch: int | None = None,
    seed: int = 0,
    bounds: tuple[float, float] = (0.0, 1.0),
    on_progress: Callable[[Moments], None] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    memory: int | None = None,
    uncertainty: bool = True,
    may_overwrite: bool = False,
    prepared: Prepared | None = None,
    mask_source: str = "auto",
    allow_fallback: bool = False,
) -> Denoised:
    """Average stochastic passes of `model` over `pixels`.

    Args:
        model: from `load_model`.
        pixels: float32 (C, H, W), in the range that the model was fitted on (nominally [0, 1]),
            of any size from 8x8 up.
        engine: a key of `engine.ENGINES`, or ``"auto"``.
        passes: how many, or ``"auto"``; None leaves it to the model's recipe.
        sampling: how passes are drawn, in place of `passes`.
        batch: passes a run; None measures and chooses. It does not change the result.
        seed: of the masks; the same seed gives the same image.
        bounds: least and greatest value that the result may have.
        on_progress: called after every run of the engine.
        on_note: told what the user should know about the engine, one line at a time.
        memory: bytes that image, result and engine may take together; None for `BUDGET_SHARE` of what
            is free. An image that needs more is cut into tiles.
        uncertainty: whether to keep the standard deviation, which takes as much memory as the image.
        may_overwrite: `pixels` may become the result, where memory for a second image is short.
        prepared: what keeps the engine for the next image of the same size; None to close it.
        mask_source: ``"host"``, ``"device"`` or ``"auto"``, which is the device where the engine can use
            masks that were made there. The two make different masks, and the device draws passes as
            `device_sampling` says.
        allow_fallback: use ``"auto"``, and say so, if `engine` does not work here.

    Raises:
        UsageError: how to draw passes, `batch`, `memory`, `engine` or `mask_source` is wrong.
        InputError: the model was fitted on another number of channels.
        EngineUnavailableError: the engine does not work here.
        FileFormatError: the engine cannot load or run the file, or it predicts no finite numbers.
        ResourceError: memory ran out.
    """
    if allow_fallback and engine != "auto":
        again = partial(
            denoise,
            model,
            pixels,
            passes=passes,
            sampling=sampling,
            batch=batch,
            seed=seed,
            bounds=bounds,
            on_progress=on_progress,
            on_note=on_note,
            memory=memory,
            uncertainty=uncertainty,
            may_overwrite=may_overwrite,
            prepared=prepared,
        )
        try:
            return again(engine=engine, mask_source=mask_source)
        except EngineUnavailableError as error:
            on_note(f"{error} Falling back, as --allow-fallback says.")
            reason = str(error)
        # What was asked of the engine that is missing is not asked of the one that stands in.
        return replace(again(), fallback=reason)
    check_counts(batch, seed)
    if memory is not None and memory < 1:
        raise UsageError(f"--memory is {memory} bytes; expected more, for example --memory 2GB.")
    contract = model.contract
    sampling = sampling or sampling_for(contract.recipe, passes)
    if pixels.shape[0] != contract.channels:
        raise InputError(
            f"the image has {_channels(pixels.shape[0])} and {model.path} was fitted on "
            f"{_channels(contract.channels)}. Fit a model to this image: self2self denoise IMAGE"
        )
    chosen = get_engine(engine)
    source = choose_mask_source(mask_source, chosen)
    if source == "device":
        sampling = device_sampling(sampling)
    job = _Job(model, pixels, chosen, sampling, batch, seed, bounds, on_progress, on_note, memory, uncertainty)
    job.prepared, job.source = prepared, source
    budget = memory if memory is not None else int(BUDGET_SHARE * free_memory_bytes())
    in_place = may_overwrite and pixels.dtype == np.float32 and IMAGES_AT_ONCE * pixels.nbytes > budget
    held = pixels.nbytes * (1 + (not in_place) + uncertainty)
    largest = largest_tile(model, job.size, budget - held - ENGINE_BYTES)
    out = pixels if in_place else np.empty(pixels.shape, np.float32)
    sides = [largest] if model.size is not None else list(tile_sizes(largest))
    for side, smaller in zip(sides, [*sides[1:], None], strict=True):
        try:
            return job.run(TilePlan.cut(*job.size, side), out, budget - held - ENGINE_BYTES)
        except PassTooLarge as error:
            if smaller is None:
                raise
            if in_place and job.lines:
                raise ResourceError(
                    "out of memory, after part of the image was done. Give a smaller limit, for example "
                    f"--memory {budget // 2 // 10**6}MB."
                ) from error
            on_note(f"out of memory; going on with tiles of at most {smaller}x{smaller} pixels.")
    raise AssertionError("the last size raises or returns")


class Prepared:
    """Keeps an engine from one image, or tile, to the next of the same size; use it as a context manager."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def engine_for(self, kind: type[Engine], model: Model, image: FloatArray, on_note: Callable[[str], None]) -> Engine:
        """An engine of class `kind` that is prepared for `image`, float32 [1, C, H, W].

        Raises:
            Self2SelfError: as for `Engine` and its `prepare`.
        """
        kept = self._engine
        if kept is not None and type(kept) is kind and kept.model is model and kept.image.shape == image.shape:
            kept.set_image(image)
        else:
            # Before the next is made: two of them may not fit into memory.
            self.close()
            made = kind(model, image)
            made.note = on_note
            self._engine = kept = made.__enter__()
        kept.note = on_note
        return kept

    def close(self) -> None:
        """Release the engine; safe to call twice."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(slots=True)
class _Job:
    """What `denoise` was asked for, for one plan of tiles after the other.

    Attributes:
        lines: of the output that are finished.
    """

    model: Model
    pixels: FloatArray
    engine: type[Engine]
    sampling: Sampling
    batch: int | None
    seed: int
    bounds: tuple[float, float]
    on_progress: Callable[[Moments], None] | None
    on_note: Callable[[str], None]
    memory: int | None
    uncertainty: bool
    prepared: Prepared | None = None
    source: str = "host"
    lines: int = 0

    @property
    def padding(self) -> Padding:
        contract = self.model.contract
        _, height, width = self.pixels.shape
        return Padding.for_size(height, width, contract.size_multiple, contract.minimum_size)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width with padding."""
        _, height, width = self.pixels.shape
        padding = self.padding
        return height + padding.top + padding.bottom, width + padding.left + padding.right

    def run(self, plan: TilePlan, out: FloatArray, room: int) -> Denoised:
        """All passes of one tile, then of the next, blended into `out`."""
        contract = self.model.contract
        start = time.perf_counter()
        # Indices are padded instead of pixels, so that no second image is held.
        rows, columns = self.padding.pad_indices(self.pixels.shape[1], self.pixels.shape[2])
        deviation = np.empty(self.pixels.shape, np.float32) if self.uncertainty else None
        image_canvas = Canvas(plan, self.padding, out, self.bounds)
        deviation_canvas = None if deviation is None else Canvas(plan, self.padding, deviation)
        most = largest_batch(contract, plan.axes, room)
        batch = self.batch if self.batch is None or self.memory is None else min(self.batch, most)
        maker = MaskMaker(contract.masks, plan.axes, self.seed, balanced=self.sampling.balanced)
        seconds = dict.fromkeys(("prepare", "masks", "passes", "reduce"), 0.0)
        variance, passes = 0.0, 0
        with ExitStack() as stack:
            prepared = self.prepared or stack.enter_context(Prepared())
            for index, (row, column) in enumerate(np.ndindex(len(plan.rows.starts), len(plan.columns.starts))):
                top, left = plan.rows.starts[row], plan.columns.starts[column]
                lines = rows[top : top + plan.rows.tile, None]
                tile = np.ascontiguousarray(
                    self.pixels[:, lines, columns[left : left + plan.columns.tile]], np.float32
                )[None]
                running = prepared.engine_for(self.engine, self.model, tile, self.on_note)
                if index == 0:
                    seconds["prepare"] = time.perf_counter() - start
                maker.place = place_of(top, left)
                if self.source == "device":
                    result = self._run_on_device(running, plan.axes, maker.place, batch)
                else:
                    result = run_ensemble(
                        running,
                        maker,
                        self.sampling,
                        batch=batch,
                        largest_batch=most,
                        on_progress=self.on_progress,
                        tile=(index, plan.count),
                    )
                # What the first tile found out by trials holds for the others, and so does what fitted.
                batch = result.batch
                image_canvas.add(row, column, result.moments.mean())
                values = result.moments.standard_deviation()
                if deviation_canvas is not None:
                    deviation_canvas.add(row, column, values)
                share = float(np.sum(plan.weights(row, column))) / math.prod(self.size)
                variance += share * result.moments.standard_error() ** 2
                passes += result.moments.count
                self.lines = image_canvas.lines
                for key, spent in result.seconds.items():
                    seconds[key] += spent
            provider = running.provider()
        return Denoised(
            image=out,
            uncertainty=deviation,
            engine=running.name,
            provider=provider,
            passes=round(passes / plan.count),
            sampling=self.sampling,
            batch=result.batch,
            seed=self.seed,
            seconds=seconds,
            standard_error=math.sqrt(variance),
            tile=(plan.rows.tile, plan.columns.tile) if plan.count > 1 else None,
            tiles=plan.count,
            mask_source=self.source,
        )

    def _run_on_device(self, running: Engine, axes: dict[str, int], place: int, batch: int | None) -> Ensemble:
        if not isinstance(running, DeviceEngine):
            raise TypeError(f"{running.name} takes no masks on a device")
        contract = running.model.contract
        return run_device_ensemble(
            running,
            DeviceMasks(contract.masks, axes, self.seed, running.device, place),
            self.sampling.passes,
            batch=batch,
            largest_batch=largest_device_batch(contract, axes, free_device_bytes(running.device)),
            on_progress=self.on_progress,
            on_note=self.on_note,
        )


def check_counts(batch: int | None, seed: int) -> None:
    """Check what `denoise` is told, before anything slow happens.

    Raises:
        UsageError: a number is out of its range.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"--batch is {batch}; expected at least 1, or auto.")
    check_seed(seed)


def _channels(count: int) -> str:
    return {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (CMYK)"}.get(count, f"{count} channels")


def largest_batch(contract: Contract, axes: dict[str, int], room: int | None = None) -> int:
    """The largest batch that fits into `MEMORY_SHARE` of the free memory and into `room` bytes, and at least 1."""
    elements = sum(int(np.prod(mask.shape(axes))) for mask in contract.masks)
    available = MEMORY_SHARE * free_memory_bytes()
    if room is not None:
        available = min(available, room)
    return max(1, int(available / (BYTES_PER_MASK_ELEMENT * elements)))


def largest_tile(model: Model, size: tuple[int, int], room: int) -> int:
    """Side of the largest square tile of which one pass fits into `room` bytes, and at least `SMALLEST_TILE`.

    Args:
        model: what runs; one that is fixed to a size cannot be given tiles.
        size: height and width of the padded image; where it fits as a whole, its longer side.
        room: bytes for the engine, its masks and the sums.
    """
    contract = model.contract
    unit = contract.size_multiple
    elements = sum(int(np.prod(mask.shape({"H": unit, "W": unit}))) for mask in contract.masks)
    pixel_bytes = BYTES_PER_MASK_ELEMENT * elements / unit**2 + BYTES_PER_VALUE * contract.channels
    if model.size is not None or pixel_bytes * math.prod(size) <= room:
        return max(size)
    # Two canvases hold a row of tiles each, and a copy of it while they move on to the next.
    line_bytes = 2 * 2 * 4 * contract.channels * size[1]
    side = int((math.sqrt(line_bytes**2 + 4 * pixel_bytes * max(0, room)) - line_bytes) / (2 * pixel_bytes))
    return int(max(SMALLEST_TILE, side // unit * unit))
