"""Make an exported model for a prepared image: fit, or use the fit of an earlier command, and export it."""

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
        model: the exported model, loaded.
        fit: the fit from which it was exported.
        export_seconds: time for exporting and loading the model.
        calibration_seconds: time for making and checking the single pass of the fit (`jobs.single_pass`).
    """

    model: Model
    fit: FitResult
    export_seconds: float
    calibration_seconds: float = 0.0


def fit_model(prepared: PreparedImage, fitting: FitOptions, observer: Observer, *, force: bool = False) -> FittedModel:
    """Fit to `prepared`, or use the finished fit, and export it.

    Args:
        prepared: the noisy image.
        fitting: options of the fit.
        observer: gets notes and progress.
        force: whether to replace a fit that has other settings or is damaged.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    config = configure(prepared, fitting, observer)
    run = run_folder(prepared, fitting)
    note_noise(prepared, config, observer)
    with run.locked(wait=fitting.wait):
        fit = fit_or_reuse(run, config, prepared, observer, force=force)
        export_start = time.perf_counter()
        if not run.onnx_path.is_file() or not fit.reused:
            export_job(run, force=True)
        try:
            model = load_model(run.onnx_path)
        except FileFormatError as error:
            # A damaged file can be replaced, because the weights are still there.
            observer.note(f"exporting again: {error}")
            export_job(run, force=True)
            model = load_model(run.onnx_path)
    return FittedModel(model, fit, time.perf_counter() - export_start)
