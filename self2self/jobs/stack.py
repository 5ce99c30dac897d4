"""`self2self infer` and `self2self denoise` for stacks: one model for all pages, or one for each."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace

from self2self.image_io import Stack
from self2self.jobs.ensemble_options import EnsembleOptions
from self2self.jobs.fit import read_fit_page
from self2self.jobs.fit_config import FitOptions, configure, run_folder, suited
from self2self.jobs.infer import fit_model
from self2self.jobs.observer import Observer
from self2self.jobs.page_cache import file_hash
from self2self.jobs.page_fits import PageFits
from self2self.jobs.stack_pages import StackJob, StackResult
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.model import Model
from self2self.train.run_folder import RunConfig


def infer_stack(
    model: Model, stack: Stack, options: EnsembleOptions, observer: Observer, engine_holder: EngineHolder
) -> StackResult:
    """`self2self infer` for a stack: one model and one engine for all pages.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    job = StackJob(stack, options, observer, engine_holder)
    job.check()
    return _one_model(job, model, start)


def denoise_stack(stack: Stack, fitting: FitOptions, options: EnsembleOptions, observer: Observer) -> StackResult:
    """`self2self denoise` for a stack: one fit for all pages, or one for each.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    with EngineHolder() as engine_holder:
        job = StackJob(stack, options, observer, engine_holder)
        job.check()
        if fitting.fit_pages == "each":
            return _model_each(job, fitting, start)
        image, noise, whole_range = suited(read_fit_page(stack, fitting, observer), fitting)
        fitted, model, exported = fit_model(
            image, fitting, observer, noise, whole_range=whole_range, force=options.force
        )
        done = _one_model(job, model, start)
    return replace(done, fitted=fitted, fit_seconds=fitted.seconds, export_seconds=exported)


def _one_model(job: StackJob, model: Model, start: float) -> StackResult:
    kept = job.begin({"model": file_hash(model.path)})
    job.run(kept, lambda index, image: model)
    figures = job.write()
    fitted_on = model.contract.image_sha256
    if fitted_on and fitted_on not in {page.image_sha256 for page in figures}:
        job.observer.note(
            f"{model.path} was fitted on none of the pages of {job.stack.path}; the result is best on its own image. "
            "To fit to this stack: self2self denoise STACK"
        )
    return job.finished(figures, kept, start)


def _model_each(job: StackJob, fitting: FitOptions, start: float) -> StackResult:
    first, noise, whole_range = suited(job.stack.read_page(0), fitting)
    config = configure(first, fitting, noise, job.observer, whole_range=whole_range)
    fits = PageFits(fitting, run_folder(config, fitting), whole_range, job.observer, job.options.force)
    kept = job.begin({"fits": _config_hash(config)})
    if not kept:
        fits.clear()
    job.run(kept, fits.model_for, fits.done)
    done = job.finished(job.write(), kept, start)
    fits.clear()
    return replace(done, fitted=fits.fitted, fit_seconds=fits.fit_seconds, export_seconds=fits.export_seconds)


def _config_hash(config: RunConfig) -> str:
    values = asdict(replace(config, image="", device=""))
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
