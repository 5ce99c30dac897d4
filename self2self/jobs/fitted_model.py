"""From a prepared image to an exported model: the fit, or the fit that an earlier run left, and its export."""

from __future__ import annotations

import time
from dataclasses import dataclass

from self2self.errors import FileFormatError
from self2self.jobs.export import export_job
from self2self.jobs.fit import fit_or_reuse
from self2self.jobs.fit_config import FitOptions, configure, run_folder
from self2self.jobs.noise_notes import note_noise
from self2self.jobs.observer import Observer
from self2self.jobs.prepared_image import PreparedImage
from self2self.jobs.results import FitResult
from self2self.runtime.model import Model, load_model


@dataclass(frozen=True, slots=True)
class FittedModel:
    """A model, the fit that it was exported from, and the time of the export.

    Attributes:
        model: exported and loaded.
        fit: its fit.
        export_seconds: of the export and of loading it.
    """

    model: Model
    fit: FitResult
    export_seconds: float


def fit_model(prepared: PreparedImage, fitting: FitOptions, observer: Observer, *, force: bool = False) -> FittedModel:
    """Fit to `prepared`, or take the finished fit, and export it.

    Args:
        prepared: the noisy image.
        fitting: options of the fit.
        observer: whom to tell.
        force: whether a fit with other settings is replaced.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    config = configure(prepared, fitting, observer)
    run = run_folder(config, fitting)
    note_noise(prepared, config.recipe, observer)
    fit = fit_or_reuse(run, config, prepared, observer, force=force)
    began = time.perf_counter()
    if not run.onnx_path.is_file() or not fit.reused:
        export_job(run, force=True)
    try:
        model = load_model(run.onnx_path)
    except FileFormatError as error:
        # Nothing is lost: the file is made from the weights.
        observer.note(f"exporting again: {error}")
        export_job(run, force=True)
        model = load_model(run.onnx_path)
    return FittedModel(model, fit, time.perf_counter() - began)
