"""From an image of any size and a model to a clean image: the wrapper that owns padding and range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from self2self.errors import EngineUnavailableError, InputError, ResourceError, UsageError
from self2self.imaging.outliers import remove_hot_pixels
from self2self.machine.system import free_memory_bytes
from self2self.model.masks import check_seed
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.device_loop import choose_mask_source
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import PassTooLarge
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.pass_plan import Passes, PassPlan, device_pass_plan, is_published_recipe, pass_plan_for
from self2self.runtime.ensemble.tile_loop import EnsembleResult, TileLoop
from self2self.runtime.ensemble.tiles import TilePlan, largest_tile, tile_bytes, tile_sizes
from self2self.runtime.model import Model

BUDGET_SHARE = 0.5
"""Default budget for everything, as a share of the free memory; the rest is for the other programs."""
ENGINE_BYTES = 250 * 10**6
"""Kept back for what the engine's library, the weights and fragmented memory take, whatever the size of the image.

With 150 MB, a run at 4096x4096 took 659 MB of 600 and one at 8192x8192 took 2.08 GB of 2.
"""
IMAGES_AT_ONCE = 4
"""Reading, denoising and writing hold up to so many float32 images, where the input is kept."""


def denoise(
    model: Model,
    pixels: FloatArray,
    *,
    engine: str = "auto",
    passes: Passes | None = None,
    pass_plan: PassPlan | None = None,
    batch: int | None = None,
    seed: int = 0,
    on_progress: Callable[[Moments], None] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    memory: int | None = None,
    uncertainty: bool = True,
    may_overwrite: bool = False,
    engine_holder: EngineHolder | None = None,
    mask_source: str = "auto",
    allow_fallback: bool = False,
    restore: bool | None = None,
) -> EnsembleResult:
    """Average stochastic passes of `model` over `pixels`.

    Args:
        model: from `load_model`.
        pixels: float32 (C, H, W), of any size from 8x8 up, in [0, 1] but for extremes such as hot
            pixels (`extremes`).
        engine: a key of `engine.ENGINES`, or ``"auto"``.
        passes: how many, or ``"auto"``; None leaves it to the model's recipe.
        pass_plan: how passes are drawn, in place of `passes`.
        batch: passes a run; None measures and chooses. It does not change the result.
        seed: of the masks; the same seed gives the same image.
        on_progress: called after every run of the engine.
        on_note: told what the user should know about the engine, one line at a time.
        memory: bytes that image, result and engine may take together; None for `BUDGET_SHARE` of what
            is free. An image that needs more is cut into tiles; `on_note` is told where the smallest need more.
        uncertainty: whether to keep the standard deviation, which takes as much memory as the image.
        may_overwrite: `pixels` may become the result, where memory for a second image is short.
        engine_holder: what keeps the engine for the next image of the same size; None to close it. Where `pixels`
            becomes the result, the engine is closed all the same.
        mask_source: ``"host"``, ``"device"`` or ``"auto"``, which is the device where the engine can use
            masks that were made there. The two make different masks, and the device draws passes as
            `device_pass_plan` says.
        allow_fallback: use ``"auto"``, and say so, if `engine` does not work here.
        restore: whether the result gets back what passes lose of the image: texture (`Contract.noisy_share`), local
            means (`local_means`) and, unless it takes the memory of `pixels`, fine detail (`lost_detail`). None leaves
            it to the model's recipe.

    Raises:
        UsageError: how to draw passes, `batch`, `memory`, `engine` or `mask_source` is wrong.
        InputError: the model was fitted on another number of channels.
        EngineUnavailableError: the engine does not work here.
        FileFormatError: the engine cannot load or run the file, or it predicts no finite numbers.
        ResourceError: memory ran out.
    """
    check_counts(batch, seed)
    if memory is not None and memory < 1:
        raise UsageError(f"--memory is {memory} bytes; expected more, for example --memory 2GB.")
    check_channels(model, pixels)
    contract = model.contract
    drawn = pass_plan or pass_plan_for(contract.recipe, passes)
    pixels = remove_hot_pixels(pixels, in_place=may_overwrite)

    def run_on(name: str, source_name: str) -> EnsembleResult:
        chosen = get_engine(name)
        source = choose_mask_source(source_name, chosen)
        job = TileLoop(
            model,
            pixels,
            chosen,
            device_pass_plan(drawn) if source == "device" else drawn,
            batch,
            seed,
            on_progress=on_progress,
            on_note=on_note,
            # Where the user gives a budget, it holds for the batch that the user gives, too.
            may_cap_batch=memory is not None,
            uncertainty=uncertainty,
            engine_holder=engine_holder,
            mask_source=source,
            restore=not is_published_recipe(contract.recipe) if restore is None else restore,
        )
        return _run_within(job, memory, may_overwrite)

    try:
        return run_on(engine, mask_source)
    except EngineUnavailableError as error:
        if not allow_fallback or engine == "auto":
            raise
        on_note(f"{error} Falling back to {get_engine('auto').name}, as --allow-fallback says.")
        reason = str(error)
    # What was asked of the engine that is missing is not asked of the one that stands in.
    return replace(run_on("auto", "auto"), fallback=reason)


def check_channels(model: Model, pixels: FloatArray) -> None:
    """Refuse `pixels` (C, H, W) of another number of channels than those `model` was fitted on.

    Raises:
        InputError: says both.
    """
    if pixels.shape[0] != model.contract.channels:
        raise InputError(
            f"the image has {_channels(pixels.shape[0])} and {model.path} was fitted on "
            f"{_channels(model.contract.channels)}. Fit a model to this image: self2self denoise IMAGE"
        )


def _run_within(job: TileLoop, memory: int | None, may_overwrite: bool) -> EnsembleResult:
    """Run `job` whole, or in the largest tiles that the budget allows, and in smaller ones if those do not fit."""
    model, pixels = job.model, job.pixels
    budget = memory if memory is not None else int(BUDGET_SHARE * free_memory_bytes())
    in_place = may_overwrite and pixels.dtype == np.float32 and IMAGES_AT_ONCE * pixels.nbytes > budget
    held = pixels.nbytes * (1 + (not in_place) + job.uncertainty)
    room = budget - held - ENGINE_BYTES
    largest = largest_tile(model, job.size, room, job.engine.pass_bytes)
    beyond = tile_bytes(model, job.size, largest, job.engine.pass_bytes) - room
    if memory is not None and beyond > 0:
        job.on_note(
            f"--memory allows {memory / 1e6:.0f} MB, and this takes about {(memory + beyond) / 1e6:.0f}, in the "
            "smallest tiles that the model takes; going on."
        )
    out = pixels if in_place else np.empty(pixels.shape, np.float32)
    sides = [largest] if model.size is not None else list(tile_sizes(largest))
    for side, smaller in zip(sides, [*sides[1:], None], strict=True):
        try:
            done = job.run(TilePlan.cut(*job.size, side), out, room)
            if in_place and job.engine_holder is not None:
                # Writing the image takes as much again, and the engine may hold all that its largest layer took.
                job.engine_holder.close()
            return done
        except PassTooLarge as error:
            if smaller is None:
                raise
            if in_place and job.lines:
                raise ResourceError(
                    "out of memory, after part of the image was done. Give a smaller limit, for example "
                    f"--memory {budget // 2 // 10**6}MB."
                ) from error
            job.on_note(f"out of memory; going on with tiles of at most {smaller}x{smaller} pixels.")
    raise AssertionError("the last size raises or returns")


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
