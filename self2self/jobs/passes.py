"""Run the ensemble over one prepared image, which is a file of its own or a page of a stack."""

from __future__ import annotations

import numpy as np

from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import expected_passes
from self2self.runtime.ensemble.kept_passes import KeptPasses
from self2self.runtime.ensemble.moments import PassSums
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import PassPlan
from self2self.runtime.ensemble.tile_loop import EnsembleResult
from self2self.runtime.ensemble.tiles import PartOfImage
from self2self.runtime.model import Model
from self2self.train.run_folder import Run


def _unchanged(prepared: PreparedImage, options: EnsembleOptions) -> EnsembleResult:
    """The pixels of `prepared`, after no pass."""
    return EnsembleResult(
        image=prepared.pixels,
        uncertainty=np.zeros_like(prepared.pixels) if options.uncertainty else None,
        engine="none",
        provider="no engine",
        passes=0,
        pass_plan=PassPlan(passes=0, tolerance=None, balanced=False, flips=False),
        batch=0,
        seed=options.seed,
        seconds=dict.fromkeys(("prepare", "masks", "passes", "reduce"), 0.0),
        standard_error=0.0,
    )


def run_passes(
    model: Model | None,
    prepared: PreparedImage,
    options: EnsembleOptions,
    observer: Observer,
    *,
    may_overwrite: bool,
    engine_holder: EngineHolder | None,
    kept: KeptPasses | None = None,
    part: PartOfImage | None = None,
) -> EnsembleResult:
    """Run the ensemble over `prepared`; `may_overwrite` and what follows it are as for `denoise_pixels`.

    Without a model, the image holds nothing to denoise (`Image.is_empty`), and its own pixels are the result. Grey
    stored as colour stays grey: where all channels of the image are equal, the result has their mean.

    Raises:
        InterruptedRun: the observer cancels the job.
        Self2SelfError: as for `denoise_pixels`.
    """
    if model is None:
        return _unchanged(prepared, options)

    def on_progress(moments: PassSums) -> None:
        observer.pass_run(moments, expected_passes(plan, moments))
        observer.raise_if_cancelled(f"pass {moments.count}")

    height, width = prepared.pixels.shape[1:] if part is None else (part.height, part.width)
    observer.passes_started(height, width)
    plan = options.pass_plan_for(model.contract, height, width)
    first, *others = prepared.pixels
    is_grey = bool(others) and all(np.array_equal(first, channel) for channel in others)
    with Run(model.path.parent).in_use():
        result = denoise_pixels(
            model,
            prepared.pixels,
            options,
            on_progress=on_progress,
            on_note=observer.note,
            may_overwrite=may_overwrite,
            engine_holder=engine_holder,
            missing=prepared.missing,
            kept=kept,
            part=part,
        )
    if is_grey:
        result.image[:] = result.image.mean(axis=0)
    return result
