"""`self2self infer` and `self2self denoise` for stacks: one model for all pages, or a model for each page."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace

from self2self.image_io import Stack
from self2self.jobs.fit_config import FitOptions, configure
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.page_fits import PageFits
from self2self.jobs.pages import OneModel, fit_for_pages
from self2self.jobs.results import EarlierResult, StackResult
from self2self.jobs.single_pass import SinglePass, allows_single_pass
from self2self.jobs.stack_pages import StackJob
from self2self.machine.marks import file_sha256
from self2self.runtime.ensemble.denoise import check_channels
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model
from self2self.train.run_folder import RunConfig


def infer_stack(
    model: Model,
    stack: Stack,
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    engine_holder: EngineHolder,
) -> StackResult | EarlierResult:
    """`self2self infer` for a stack: one model and one engine for all pages.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    outputs.check_model(model)
    job = StackJob(stack, options, outputs, observer, engine_holder)
    # Pages of a stack have the same number of channels, so nothing is kept on disk for a wrong model.
    first = job.check()
    check_channels(model, first.pixels, f"{stack.path}: ")
    with job.alone(first):
        if (done := job.earlier_result(first)) is not None:
            return done
        single_pass = SinglePass.of(model, observer) if allows_single_pass(model.contract, job.options) else None
        return _run_one_model(job, OneModel(model, single_pass, options.seed), start)


def denoise_stack(
    stack: Stack, fitting: FitOptions, options: EnsembleOptions, outputs: OutputOptions, observer: Observer
) -> StackResult | EarlierResult:
    """`self2self denoise` for a stack: one fit for all pages, or a fit for each page.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    with EngineHolder() as engine_holder:
        job = StackJob(stack, options, outputs, observer, engine_holder)
        first = job.check()
        with job.alone(first):
            if (done := job.earlier_result(first)) is not None:
                return done
            if fitting.fit_pages == "each":
                return _run_model_each(job, fitting, start)
            fitted, models = fit_for_pages(stack, fitting, job.options, job.observer, force=outputs.force)
            result = _run_one_model(job, models, start)
    return replace(result, fit=fitted.fit, fit_seconds=fitted.fit.seconds, export_seconds=fitted.export_seconds)


def _run_one_model(job: StackJob, models: OneModel, start: float) -> StackResult:
    """Run one model over all pages, or its single pass over those pages on which that is as good."""
    model = models.model
    job.stack.mosaic = model.contract.mosaic
    ways = {"model": file_sha256(model.path)} | ({} if models.single_pass is None else {"way": "single pass"})
    kept = job.begin(ways)
    job.run(kept, models)
    records = job.write()
    job.finish()
    fitted_on = model.contract.image_sha256
    if fitted_on and fitted_on not in {page.image_sha256 for page in records}:
        job.observer.note(
            f"{model.path} was fitted on none of the pages of {job.stack.path}; the result is best on its own image. "
            "To fit to this stack: self2self denoise STACK"
        )
    return job.result(records, len(kept), start)


def _run_model_each(job: StackJob, fitting: FitOptions, start: float) -> StackResult:
    fits, first = PageFits.of(job.stack, fitting, job.observer, force=job.outputs.force)
    config = configure(first, fits.fitting, job.observer)
    kept = job.begin({"fits": _config_hash(config)})
    if not kept:
        fits.clear()
    job.run(kept, fits)
    result = job.result(job.write(), len(kept), start)
    # The pages go last: as long as they are there, a repeated command does what is left.
    fits.clear()
    job.finish()
    return replace(result, fit=fits.first_fit, fit_seconds=fits.fit_seconds, export_seconds=fits.export_seconds)


def _config_hash(config: RunConfig) -> str:
    values = asdict(replace(config, image="", device=""))
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
