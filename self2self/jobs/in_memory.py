"""Denoise pages that are in memory, and keep the results there: what `denoise_job` and `infer_job` do for files.

Only the run folder of the fit is on disk, because a fit continues from there and the export reads it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.image_io import Stack
from self2self.imaging.noise import Noise
from self2self.jobs.fit import page_to_fit
from self2self.jobs.fit_config import FitOptions
from self2self.jobs.fitted_model import FittedModel, fit_model
from self2self.jobs.noise_notes import note_file, note_options_of_pages
from self2self.jobs.observer import Observer
from self2self.jobs.page_cache import PageRecord
from self2self.jobs.page_fits import PageFits
from self2self.jobs.page_neighbours import NeighbourPages
from self2self.jobs.pages import DenoisedPage, NoModel, OneModel, PageModels, denoise_page, fit_for_pages
from self2self.jobs.single_pass import SinglePass, allows_single_pass, worthwhile_single_pass
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model
from self2self.train.run_folder import RunConfig


@dataclass(frozen=True, slots=True)
class PagesResult:
    """Denoised pages.

    Attributes:
        values: (pages, H, W, C), in the type and the units of the noisy pages; alpha, if there is any, is the last
            channel, unchanged.
        deviations: float32 of the same shape, standard deviation over the passes in the same units; 0 for alpha and
            where nothing is measured. None if it was not asked for.
        pages: how each page was made.
        noise: the noise that the fit found, or that is measured in what was removed from the first page.
        noise_unit: stored units for one grey level of `noise`.
        seconds: total time.
    """

    values: NDArray[Any]
    deviations: NDArray[np.float32] | None
    pages: list[PageRecord]
    noise: Noise
    noise_unit: float
    seconds: float


def fit_in_memory(stack: Stack, fitting: FitOptions, observer: Observer) -> FittedModel:
    """Fit to `stack`, and export the model, and beside it its single pass where that is sooner than passes.

    Args:
        stack: the noisy pages.
        fitting: options of the fit; `run` is given.
        observer: gets notes and progress, and may cancel the job.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    fitting.check()
    prepared, fitting = page_to_fit(stack, fitting, observer)
    note_file(prepared.image, observer)
    fitted = fit_model(prepared, fitting, observer)
    if single_pass := worthwhile_single_pass(fitted, prepared.pixels, EnsembleOptions(uncertainty=False), observer):
        single_pass.make()
    return fitted


def denoise_in_memory(stack: Stack, fitting: FitOptions, options: EnsembleOptions, observer: Observer) -> PagesResult:
    """Fit to `stack`, and denoise all pages.

    Args:
        stack: the noisy pages.
        fitting: options of the fit; `run` is given.
        options: of the passes.
        observer: gets notes and progress, and may cancel the job.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    fitting.check()
    options.check()
    if all(stack.read_page(index).is_empty for index in range(stack.pages)):
        return _denoise_pages(stack, NoModel(), options, observer, start)
    if stack.pages == 1:
        note_options_of_pages(stack.path, fitting, observer)
    elif fitting.fit_pages == "each":
        fits, _ = PageFits.of(stack, fitting, observer)
        result = _denoise_pages(stack, fits, options, observer, start)
        fits.clear()
        return result
    fitted, models = fit_for_pages(stack, fitting, options, observer)
    stack.mosaic = fitted.model.contract.mosaic
    return _denoise_pages(stack, models, options, observer, start, fitted.fit.config)


def infer_in_memory(model: Model, stack: Stack, options: EnsembleOptions, observer: Observer) -> PagesResult:
    """Denoise all pages of `stack` with `model`, or with its single pass where `infer_job` does.

    Args:
        model: an exported model; its file, or the run folder that it lies in, has its single pass, if there is one.
        stack: the noisy pages, in the value range and of the mosaic of the model's contract.
        options: of the passes.
        observer: gets notes and progress, and may cancel the job.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    options.check()
    start = time.perf_counter()
    single_pass = SinglePass.of(model, observer) if allows_single_pass(model.contract, options) else None
    models = OneModel(model, single_pass, options.seed, crops=1 if stack.pages > 1 else None)
    return _denoise_pages(stack, models, options, observer, start)


def _denoise_pages(
    stack: Stack,
    models: PageModels,
    options: EnsembleOptions,
    observer: Observer,
    start: float,
    config: RunConfig | None = None,
) -> PagesResult:
    records = []
    pages = NeighbourPages(stack, models.neighbours)
    with EngineHolder() as engine_holder:
        for index in range(stack.pages):
            observer.page_started(index + 1, stack.pages)
            page = denoise_page(pages, index, models, options, observer, engine_holder)
            models.page_finished(index)
            alpha = page.prepared.image.alpha
            values, deviation = _with_alpha(page.values(), alpha), page.deviations()
            if index == 0:
                noise, noise_unit = _noise_of(page, config)
                all_values = np.empty((stack.pages, *values.shape), values.dtype)
                deviations = None if deviation is None else np.zeros(all_values.shape, np.float32)
            all_values[index] = values
            if deviations is not None and deviation is not None:
                deviations[index, ..., : deviation.shape[2]] = deviation
            records.append(page.record(index))
    return PagesResult(all_values, deviations, records, noise, noise_unit, time.perf_counter() - start)


def _noise_of(page: DenoisedPage, config: RunConfig | None) -> tuple[Noise, float]:
    """The noise that the fit found, or else that of what was removed, and its unit."""
    if config is not None and config.page_noise is not None and config.image_range is not None:
        low, high = config.image_range
        return config.page_noise, (high - low) / 255
    return page.residual.noise, page.prepared.image.scale / 255


def _with_alpha(values: NDArray[Any], alpha: NDArray[Any] | None) -> NDArray[Any]:
    return values if alpha is None else np.concatenate([values, alpha[..., None]], axis=2)
