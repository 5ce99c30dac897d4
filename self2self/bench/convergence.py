"""What more passes bring: how far the mean of n passes is from the end, and from the clean image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.metrics import from_black_to_white, psnr
from self2self.imaging.outliers import clip_to_range, remove_hot_pixels, restore_outliers
from self2self.imaging.padding import Padding
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.ensemble.host_loop import run_ensemble
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.pass_plan import pass_plan_for
from self2self.runtime.model import Model

CURVE_PASSES = (1, 2, 3, 5, 7)
"""Passes to look at, in every decade."""


def looks(passes: int) -> list[int]:
    """Numbers of passes to look at, evenly spread over a logarithmic axis, up to `passes` itself."""
    decades = range(len(str(passes)))
    return sorted(
        {step * 10**decade for decade in decades for step in CURVE_PASSES if step * 10**decade < passes} | {passes}
    )


def convergence(
    model: Model,
    pixels: FloatArray,
    engine: str,
    passes: int,
    *,
    reference: FloatArray | None = None,
    black_and_white: tuple[float, float] = (0.0, 1.0),
    on_progress: Callable[[Moments], None] = lambda moments: None,
) -> dict[str, Any]:
    """Run one ensemble, whose passes are drawn as `infer` draws them, and look at its mean on the way.

    Args:
        model: fitted to `pixels`.
        pixels: float32 (C, H, W).
        engine: `--engine` name.
        passes: how many in all.
        reference: clean image of the same shape, for PSNR.
        black_and_white: in units of the pixels, for the same.
        on_progress: called after every pass.

    Returns:
        ``recipe``, ``height`` and ``width``, what was fitted; ``balanced_masks`` and ``flips``, how passes
        were drawn; ``passes`` looked at;
        ``distance_grey_levels``, RMS difference to the mean of all passes, in 8-bit grey levels (its last
        entry is 0 by definition and left out as None); ``psnr``, against `reference`, of the clamped mean
        (None without one, and where it is infinite).
    """
    contract = model.contract
    pixels = remove_hot_pixels(pixels)
    padding = Padding.for_size(pixels.shape[1], pixels.shape[2], contract.size_multiple, contract.minimum_size)
    padded = np.ascontiguousarray(padding.pad(clip_to_range(pixels)), np.float32)[None]
    counts = set(looks(passes))
    means: dict[int, FloatArray] = {}

    def look(moments: Moments) -> None:
        if moments.count in counts:
            means[moments.count] = np.empty(pixels.shape, np.float32)
            restore_outliers(padding.crop(moments.mean()), pixels, means[moments.count])
        on_progress(moments)

    pass_plan = pass_plan_for(contract.recipe, passes)
    with engine_class(engine)(model, padded) as running:
        maker = running.mask_maker(seed=0, balanced=pass_plan.balanced)
        # One pass at a time, so that every number of passes is met.
        run_ensemble(running, maker, pass_plan, batch=1, on_progress=look)
    final = means[passes]
    scores = None
    if reference is not None:
        clean = from_black_to_white(reference, black_and_white)
        scores = [_finite(psnr(from_black_to_white(mean, black_and_white), clean)) for mean in means.values()]
    return {
        "engine": engine,
        "recipe": contract.recipe,
        "height": pixels.shape[1],
        "width": pixels.shape[2],
        "balanced_masks": pass_plan.balanced,
        "flips": pass_plan.flips,
        "passes": list(means),
        "distance_grey_levels": [None if n == passes else _distance(mean, final) for n, mean in means.items()],
        "psnr": scores,
    }


def _finite(value: float) -> float | None:
    # JSON has no infinity.
    return value if math.isfinite(value) else None


def _distance(mean: NDArray[np.float32], final: NDArray[np.float32]) -> float:
    return 255 * float(np.sqrt(np.mean(np.square(mean.astype(np.float64) - final))))
