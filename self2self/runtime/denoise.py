"""From an image of any size and a model to a clean image: the wrapper that owns padding and range."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from self2self.contract import Contract
from self2self.errors import InputError, UsageError
from self2self.masks import MaskMaker, check_seed
from self2self.padding import Padding
from self2self.runtime.engine import FloatArray, get_engine
from self2self.runtime.ensemble import Moments, run_ensemble
from self2self.runtime.model import Model
from self2self.runtime.sampling import Passes, Sampling, sampling_for
from self2self.system import free_memory_bytes

BYTES_PER_MASK_ELEMENT = 12
"""Peak memory of a run for each mask element, the mask itself included, rounded up.

Measured as the growth of the resident set from 128x128 with eight passes to 512x512 with one:
ONNX Runtime 9.4 to 10.6 and PyTorch 8 to 14 for the wide and the narrow decoder. Nearly all of the
network's activations have masks; only a very narrow network needs more (PyTorch 18).
"""
MEMORY_SHARE = 0.25
"""How much of the free memory a batch may take; more passes a run gain little on a CPU."""


@dataclass(frozen=True, slots=True)
class Denoised:
    """A finished image and how it was made.

    Attributes:
        image: float32 (C, H, W), clamped to the bounds.
        uncertainty: float32 (C, H, W), standard deviation over the passes.
        engine: `--engine` name of what ran.
        provider: the provider that really ran.
        passes: number of passes.
        sampling: how they were drawn.
        batch: passes a run.
        seed: seed of the masks.
        seconds: time of ``prepare``, ``masks``, ``passes`` and ``reduce``.
        standard_error: of the mean; RMS over all values, in 8-bit grey levels.
    """

    image: FloatArray
    uncertainty: FloatArray
    engine: str
    provider: str
    passes: int
    sampling: Sampling
    batch: int
    seed: int
    seconds: dict[str, float]
    standard_error: float

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

    Raises:
        UsageError: how to draw passes, `batch` or `engine` is wrong.
        InputError: the model was fitted on another number of channels.
        EngineUnavailableError: the engine does not work here.
        FileFormatError: the engine cannot load or run the file, or it predicts no finite numbers.
        ResourceError: memory ran out.
    """
    check_counts(batch, seed)
    contract = model.contract
    sampling = sampling or sampling_for(contract.recipe, passes)
    if pixels.shape[0] != contract.channels:
        raise InputError(
            f"the image has {_channels(pixels.shape[0])} and {model.path} was fitted on "
            f"{_channels(contract.channels)}. Fit a model to this image: self2self denoise IMAGE"
        )
    start = time.perf_counter()
    chosen = get_engine(engine)
    padding = Padding.for_size(pixels.shape[1], pixels.shape[2], contract.size_multiple, contract.minimum_size)
    padded = np.ascontiguousarray(padding.pad(pixels), np.float32)[None]
    axes = {"H": padded.shape[2], "W": padded.shape[3]}
    running = chosen(model, padded)
    running.note = on_note
    with running:
        prepared = time.perf_counter() - start
        result = run_ensemble(
            running,
            MaskMaker(contract.masks, axes, seed, balanced=sampling.balanced),
            sampling,
            batch=batch,
            largest_batch=largest_batch(contract, axes),
            on_progress=on_progress,
        )
        provider = running.provider()
    moments = result.moments
    return Denoised(
        image=np.clip(padding.crop(moments.mean()), *bounds),
        uncertainty=padding.crop(moments.standard_deviation()).copy(),
        engine=running.name,
        provider=provider,
        passes=moments.count,
        sampling=sampling,
        batch=result.batch,
        seed=seed,
        seconds={
            "prepare": prepared,
            "masks": result.mask_seconds,
            "passes": result.pass_seconds,
            "reduce": result.reduce_seconds,
        },
        standard_error=moments.standard_error(),
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


def largest_batch(contract: Contract, axes: dict[str, int]) -> int:
    """The largest batch that fits into `MEMORY_SHARE` of the free memory, and at least 1."""
    elements = sum(int(np.prod(mask.shape(axes))) for mask in contract.masks)
    return max(1, int(MEMORY_SHARE * free_memory_bytes() / (BYTES_PER_MASK_ELEMENT * elements)))
