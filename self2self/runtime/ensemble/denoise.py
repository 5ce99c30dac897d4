"""Denoise an image of any size with a model: check it, choose engine and tiles, run the passes.

Where the memory budget does not hold the whole image, the image is cut into tiles. Tiles that do not fit after all are
halved until they fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from self2self.errors import EngineUnavailableError, InputError, ResourceError, typed
from self2self.imaging.outliers import remove_outliers
from self2self.machine.system import check_group, free_memory_bytes
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.device_engine import choose_mask_source
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import PassTooLarge
from self2self.runtime.ensemble.kept_passes import KeptPasses
from self2self.runtime.ensemble.moments import PassSums
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.tile_loop import EnsembleResult, TileLoop
from self2self.runtime.ensemble.tiles import PartOfImage, TilePlan, largest_tile, tile_bytes, tile_sizes
from self2self.runtime.model import Model

DEFAULTS = EnsembleOptions()

BUDGET_SHARE = 0.5
"""Default memory budget of a run, as a share of the free memory; the rest is for other programs."""
RESERVED_BYTES = 250 * 10**6
"""Bytes of the budget that are reserved for the engine's library, the weights and fragmented memory.

They do not depend on the size of the image. With 150 MB in reserve, a run at 4096x4096 took 659 MB of a budget of 600,
and one at 8192x8192 took 2.08 GB of 2.
"""
LEAST_PASS_BYTES = 80 * 10**6
"""What passes take in small tiles once their engine is loaded, besides a copy of the image when it is written. Runs
over 2048x2048 pixels (50 MB) were killed with up to 103 MB left in their control group, and ended well with 180."""
LARGEST_PLAIN_TILE = 1024
"""Largest side of the tiles of a plain model. Its passes are few, so larger ones would save a tenth of the time, but
take a gigabyte, and show no progress."""
MAXIMUM_IMAGES_HELD = 4
"""Largest number of float32 images that reading, denoising and writing hold at a time, if the input is kept."""


def denoise_pixels(
    model: Model,
    pixels: FloatArray,
    options: EnsembleOptions = DEFAULTS,
    *,
    on_progress: Callable[[PassSums], None] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    may_overwrite: bool = False,
    engine_holder: EngineHolder | None = None,
    missing: NDArray[np.bool_] | None = None,
    kept: KeptPasses | None = None,
    part: PartOfImage | None = None,
) -> EnsembleResult:
    """Average stochastic passes of `model` over `pixels`, or the mirrored views of a plain model.

    Args:
        model: from `load_model`.
        pixels: float32 (C, H, W), of any size, in [0, 1] except for outliers such as hot pixels
            (`imaging.outliers`).
        options: how passes are drawn, and which engine runs them. `on_note` gets a note if even the smallest tiles need
            more memory than the options allow.
        on_progress: called after every run of the engine.
        on_note: gets what the user should know about the engine, one line at a time.
        may_overwrite: whether `pixels` may become the result if memory for a second image is short.
        engine_holder: keeps the engine for the next image of the same size; None closes the engine at the end. If
            `pixels` becomes the result, the engine is closed in either case.
        missing: bool (H, W), where nothing was measured and `pixels` are filled (`Image.missing`), so that what is
            restored does not depend on them; None for nowhere.
        kept: keeps the passes so far on disk, and gives those of an earlier run to go on from. The caller removes it
            once the result is written. None keeps nothing.
        part: which part of a larger image `pixels` are; None for an image by itself.

    Raises:
        UsageError: an option is wrong.
        InputError: the model was fitted to an image with another number of channels.
        EngineUnavailableError: the engine does not work here.
        FileFormatError: the engine cannot load or run the file, or a prediction is not finite.
        ResourceError: memory ran out.
    """
    options.check_values()
    check_pixels(pixels)
    check_channels(model, pixels)
    pixels = remove_outliers(pixels, impulses=model.contract.removes_impulses, in_place=may_overwrite)

    plain_pixels = pixels[0].size if model.contract.plain else None

    def run(options: EnsembleOptions) -> EnsembleResult:
        engine = get_engine(options.engine, plain_pixels=plain_pixels)
        loop = TileLoop(
            model,
            pixels,
            engine,
            replace(options, mask_source=choose_mask_source(options.mask_source, engine)),
            on_progress=on_progress,
            on_note=on_note,
            engine_holder=engine_holder,
            missing=missing,
            kept=kept,
            part=part,
        )
        return _run_within(loop, may_overwrite)

    try:
        return run(options)
    except EngineUnavailableError as error:
        if not options.allow_fallback or options.engine == "auto":
            raise
        other = get_engine("auto", plain_pixels=plain_pixels).name
        on_note(f"{error} Falling back to {other}, as {typed('--allow-fallback')} says.")
        reason = str(error)
    # The other engine may not support the requested mask source.
    return replace(run(replace(options, engine="auto", mask_source="auto")), fallback=reason)


def check_pixels(pixels: FloatArray) -> None:
    """Refuse an array that is no image for a network.

    Raises:
        InputError: its type, shape or values are wrong; says what is expected.
    """
    if pixels.ndim != 3 or not pixels.size:
        raise InputError(
            f"pixels have the shape {pixels.shape}; expected (channels, height, width), with at least one pixel."
        )
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"pixels are {pixels.dtype}; expected floats, with most values in [0, 1] (read_image).")
    # A sum is finite only if all its terms are; it needs no second array.
    if not np.isfinite(np.sum(pixels, dtype=np.float64)):
        raise InputError("pixels have values that are not finite. Replace them, for example by numpy.nan_to_num.")


def check_channels(model: Model, pixels: FloatArray, where: str = "") -> None:
    """Refuse `pixels` (C, H, W) whose number of channels is not that of `model`.

    Args:
        model: the model.
        pixels: the image.
        where: what the message begins with, such as the name of a file.

    Raises:
        InputError: names both numbers.
    """
    if pixels.shape[0] != model.contract.channels:
        raise InputError(
            f"{where}the image has {_channels(pixels.shape[0])} and {model.path} was fitted on "
            f"{_channels(model.contract.channels)}. Fit a model to this image: self2self denoise IMAGE"
        )


def _run_within(loop: TileLoop, may_overwrite: bool) -> EnsembleResult:
    """Run `loop` on the whole image or in the largest tiles of the budget; halve tiles that do not fit after all."""
    model, pixels, memory = loop.model, loop.pixels, loop.options.memory
    budget = memory if memory is not None else int(BUDGET_SHARE * free_memory_bytes())
    in_place = may_overwrite and pixels.dtype == np.float32 and MAXIMUM_IMAGES_HELD * pixels.nbytes > budget
    image_bytes = pixels.nbytes * (1 + (not in_place) + loop.options.uncertainty)
    room = budget - image_bytes - RESERVED_BYTES
    largest = largest_tile(model, loop.size, room, loop.engine.pass_bytes)
    check_group(pixels.nbytes + LEAST_PASS_BYTES, "passes over this image")
    excess = tile_bytes(model, loop.size, largest, loop.engine.pass_bytes) - room
    if memory is not None and excess > 0:
        loop.on_note(
            f"{typed('--memory')} allows {memory / 1e6:.0f} MB, and this takes about {(memory + excess) / 1e6:.0f}, "
            "in the "
            "smallest tiles that the model takes; going on."
        )
    if model.contract.plain:
        largest = min(largest, LARGEST_PLAIN_TILE)
    # Less memory than in an earlier run asks for smaller tiles, but more memory is no reason to lose its passes.
    if loop.kept is not None and (side := loop.kept.begin(loop.identity)) is not None:
        largest = min(largest, side)
    out = pixels if in_place else np.empty(pixels.shape, np.float32)
    sides = [largest] if model.size is not None else list(tile_sizes(largest))
    for side, smaller in zip(sides, [*sides[1:], None], strict=True):
        try:
            result = loop.run(TilePlan.cut(*loop.size, side), out, room)
            if in_place and loop.engine_holder is not None:
                # Writing the image takes as much memory again, and the engine may still hold that of its largest layer.
                loop.engine_holder.close()
            return result
        except PassTooLarge as error:
            if smaller is None:
                raise
            if in_place and loop.finished_lines:
                raise ResourceError(
                    "out of memory, after part of the image was done. Give a smaller limit, for example "
                    f"{typed('--memory', f'{budget // 2 // 10**6}MB')}."
                ) from error
            loop.on_note(f"out of memory; going on with tiles of at most {smaller}x{smaller} pixels.")
    raise AssertionError("the last size raises or returns")


def _channels(count: int) -> str:
    return {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (CMYK)"}.get(count, f"{count} channels")
