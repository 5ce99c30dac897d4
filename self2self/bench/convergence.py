"""Measure the effect of more passes: distance of the mean of n passes from the final mean and the clean image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.metrics import from_black_to_white, psnr
from self2self.imaging.outliers import clip_to_range, remove_outliers, restore_outliers
from self2self.imaging.padding import Padding
from self2self.runtime.engines.engine import FloatArray
from self2self.runtime.engines.registry import engine_class
from self2self.runtime.ensemble.host_loop import run_ensemble
from self2self.runtime.ensemble.moments import PassSums
from self2self.runtime.ensemble.pass_plan import pass_plan_for
from self2self.runtime.model import Model

DECADE_STEPS = (1, 2, 3, 5, 7)
"""Points of the curve in each decade of passes."""


def recorded_passes(passes: int) -> list[int]:
    """Numbers of passes at which the mean is recorded: about evenly spaced on a logarithmic axis, up to `passes`."""
    decades = range(len(str(passes)))
    return sorted(
        {step * 10**decade for decade in decades for step in DECADE_STEPS if step * 10**decade < passes} | {passes}
    )


def convergence(
    model: Model,
    pixels: FloatArray,
    engine: str,
    passes: int,
    *,
    reference: FloatArray | None = None,
    black_and_white: tuple[float, float] = (0.0, 1.0),
    on_progress: Callable[[PassSums], None] = lambda moments: None,
) -> dict[str, Any]:
    """Run one ensemble and record its mean at `recorded_passes`; masks and flips are those of `infer`.

    Args:
        model: the model that was fitted to `pixels`.
        pixels: float32 (C, H, W), the noisy image.
        engine: `--engine` name.
        passes: number of passes of the ensemble.
        reference: clean image of the same shape, for PSNR.
        black_and_white: values of black and white in units of the pixels, for PSNR.
        on_progress: called after every pass.

    Returns:
        ``engine``; ``recipe``, ``height`` and ``width`` of the fit; ``balanced_masks`` and ``flips``, how the passes
        were drawn; ``passes``, the recorded numbers of passes; ``distance_grey_levels``, the RMS difference to the
        mean of all passes, in 8-bit grey levels (the last entry is 0 by definition and given as None); ``psnr`` of the
        clamped mean against `reference` (None without a reference; an entry is None where it is infinite).
    """
    contract = model.contract
    pixels = remove_outliers(pixels, impulses=contract.removes_impulses)
    padding = Padding.for_size(pixels.shape[1], pixels.shape[2], contract.size_multiple, contract.minimum_size)
    padded = np.ascontiguousarray(padding.pad(clip_to_range(pixels)), np.float32)[None]
    counts = set(recorded_passes(passes))
    means: dict[int, FloatArray] = {}

    def record(moments: PassSums) -> None:
        if moments.count in counts:
            means[moments.count] = np.empty(pixels.shape, np.float32)
            restore_outliers(padding.crop(moments.mean()), pixels, means[moments.count])
        on_progress(moments)

    pass_plan = pass_plan_for(contract.recipe, passes)
    with engine_class(engine)(model, padded) as running:
        maker = running.mask_maker(seed=0, balanced=pass_plan.balanced)
        # With a batch of 1, the callback sees every number of passes.
        run_ensemble(running, maker, pass_plan, batch=1, on_progress=record)
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
