"""Run the ensemble over one prepared image, which is a file of its own or a page of a stack."""

from __future__ import annotations

import numpy as np

from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage
from self2self.runtime.ensemble.denoise import denoise
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import expected_passes
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.tile_loop import EnsembleResult
from self2self.runtime.model import Model


def run_passes(
    model: Model,
    prepared: PreparedImage,
    options: EnsembleOptions,
    observer: Observer,
    *,
    may_overwrite: bool,
    engine_holder: EngineHolder | None,
) -> EnsembleResult:
    """Run the ensemble over `prepared`; `may_overwrite` and `engine_holder` are as for `denoise`.

    Grey stored as colour stays grey: where all channels of the image are equal, the result has their mean.

    Raises:
        Self2SelfError: as for `denoise`.
    """
    _, height, width = prepared.pixels.shape
    plan = options.pass_plan_for(model.contract, height, width)
    first, *others = prepared.pixels
    is_grey = bool(others) and all(np.array_equal(first, channel) for channel in others)
    result = denoise(
        model,
        prepared.pixels,
        options,
        on_progress=lambda moments: observer.pass_run(moments, expected_passes(plan, moments)),
        on_note=observer.note,
        may_overwrite=may_overwrite,
        engine_holder=engine_holder,
        missing=prepared.missing,
    )
    if is_grey:
        result.image[:] = result.image.mean(axis=0)
    return result
