"""`self2self infer` and `self2self denoise`: denoise images with an exported model, or with a fit of their own."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from self2self.errors import InterruptedRun
from self2self.image_io import Image, check_readable, open_stack, write_float_map, write_image
from self2self.jobs.fit import SAME_COMMAND_HINT, read_fit_page
from self2self.jobs.fit_config import FitOptions, check_nodata
from self2self.jobs.fitted_model import FittedModel, fit_model
from self2self.jobs.image_batch import ImageBatch
from self2self.jobs.inputs import Part
from self2self.jobs.job_key import denoise_identity, infer_identity
from self2self.jobs.noise_notes import note_file, note_little_removed, note_options_of_pages, note_residual
from self2self.jobs.observer import Observer
from self2self.jobs.output_options import OutputOptions
from self2self.jobs.page_neighbours import PageForModel, alone
from self2self.jobs.passes import run_passes
from self2self.jobs.prepared_image import prepare, prepare_for_model
from self2self.jobs.report import write_job_report
from self2self.jobs.results import DenoiseResult, EarlierResult, Result
from self2self.jobs.single_pass import SinglePass, allows_single_pass, with_cheapest_model
from self2self.jobs.stack import denoise_stack, infer_stack
from self2self.jobs.volumes.volume_job import Workers, denoise_volume, goes_by_blocks
from self2self.machine.system import check_group_at_start
from self2self.model.contract import Nodata
from self2self.runtime.ensemble.denoise import check_channels
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model, load_model


def infer_job(
    model_path: Path | Model,
    images: list[Path],
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    *,
    batch: ImageBatch | None = None,
    nodata: Nodata = None,
    of_series: bool = False,
    engine_holder: EngineHolder | None = None,
) -> list[Result]:
    """`self2self infer`: run the ensemble of one model over each image or page.

    One engine runs all images that have the same size after padding. It is prepared once.

    Args:
        model_path: an exported model; or a loaded one.
        images: image files; of several images, those whose result exists are skipped.
        options: options of the ensemble.
        outputs: where results go.
        observer: gets notes and progress.
        batch: records which images are skipped or fail; with `ImageBatch.on_error`, the other images are denoised even
            if one fails.
        nodata: stored value of missing pixels, as `FitOptions.nodata`; None for that of the fit.
        of_series: whether the images are known to be others than the one of the fit, so that no note says so.
        engine_holder: keeps the engine after the call; None for one that ends with it.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    options.check_values()
    check_group_at_start(fit=False)
    outputs.check(images)
    check_nodata(nodata)
    options.check_uncertainty(outputs.uncertainty is not None)
    options = replace(options, uncertainty=outputs.needs_uncertainty)
    loaded = model_path if isinstance(model_path, Model) else None
    path_of_model = model_path.path if isinstance(model_path, Model) else model_path
    if len(images) > 1:
        outputs = outputs.for_several()
    elif images:
        # A file that cannot be read gets a message of its own below.
        with suppress(OSError):
            outputs.for_job(infer_identity(images[0], path_of_model, options)).refuse_existing(images[0])
    options.check()
    batch = batch or ImageBatch(images, outputs)
    model = loaded or load_model(path_of_model)
    finished: list[Result] = []
    with nullcontext(engine_holder) if engine_holder is not None else EngineHolder() as engine_holder:
        for path in images:
            if batch.skips(path, observer):
                continue
            batch.begin(path, observer)
            with batch.attempt(path):
                result: Result = _infer_file(
                    model, path, options, outputs, observer, engine_holder, nodata, of_series=of_series
                )
                batch.finished(path, result)
                # Of many images, the pixels would fill the memory.
                finished.append(result.without_pixels() if len(images) > 1 else result)
    return finished


def _infer_file(
    model: Model,
    path: Path,
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    engine_holder: EngineHolder,
    nodata: Nodata,
    *,
    of_series: bool,
) -> Result:
    start = time.perf_counter()
    whole_range = model.contract.whole_range
    nodata = model.contract.nodata if nodata is None else nodata
    with open_stack(path, whole_range=whole_range, nodata=nodata, mosaic=model.contract.mosaic) as stack:
        outputs = outputs.for_job(infer_identity(path, model.path, options))
        if stack.pages > 1:
            return infer_stack(model, stack, options, outputs, observer, engine_holder)
        prepared = prepare_for_model(stack.read_page(0), whole_range=whole_range)
    page = alone(prepared, model.contract.neighbours)
    outputs.check_for(prepared.image)
    with outputs.alone(prepared.image):
        if (done := _earlier_result(outputs, prepared.image)) is not None:
            return done
        check_channels(model, prepared.pixels, f"{path}: ")
        note_file(prepared.image, observer)
        outputs.check_model(model)
        single_pass = SinglePass.of(model, observer) if allows_single_pass(model.contract, options) else None
        if single_pass is not None:
            model = single_pass.model_for(page.prepared.pixels, str(path), seed=options.seed)
        if not of_series and model.contract.image_sha256 not in ("", prepared.sha256):
            observer.note(
                f"{path} is not the image that {model.path} was fitted on; the result is best on that image. "
                "To fit to this one: self2self denoise IMAGE"
            )
        return _infer_image(model, page, options, outputs, observer, start=start, engine_holder=engine_holder)


def denoise_job(
    path: str | os.PathLike[str],
    fitting: FitOptions | None = None,
    options: EnsembleOptions | None = None,
    outputs: OutputOptions | None = None,
    observer: Observer | None = None,
    *,
    part: Part | None = None,
    workers: Workers | None = None,
) -> Result:
    """`self2self denoise` for one image, stack or volume: fit, export and infer.

    A finished fit with the same settings is used again, and an unfinished one is continued. Both give the same bits as
    a new fit.

    Args:
        path: the noisy image, stack or volume (`image_io.volumes`).
        fitting: options of the fit.
        options: options of the ensemble.
        outputs: where results go; beside the input by default.
        observer: gets notes and progress; by default they are ignored.
        part: of a volume, the blocks that this call makes; None for all.
        workers: who denoises the blocks of a volume; None for this process.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    path, fitting, options = Path(path), fitting or FitOptions(), options or EnsembleOptions()
    outputs, observer = outputs or OutputOptions(), observer or Observer()
    fitting.check()
    options.check_values()
    check_group_at_start(fit=True)
    if goes_by_blocks(path, fitting, outputs):
        return denoise_volume(path, fitting, options, outputs, observer, part=part, workers=workers)
    fitting.refuse_axes(path)
    outputs.check([path])
    options.check_uncertainty(outputs.uncertainty is not None)
    options = replace(options, uncertainty=outputs.needs_uncertainty)
    # Before the engines are looked for, which takes seconds.
    check_readable(path)
    # A file that cannot be read to its end gets a message of its own below.
    with suppress(OSError):
        outputs = outputs.for_job(denoise_identity(path, fitting, options))
        outputs.refuse_existing(path)
    options.check()
    with open_stack(path, nodata=fitting.nodata, mosaic=fitting.mosaic) as stack:
        if stack.pages > 1:
            return denoise_stack(stack, fitting, options, outputs, observer)
        _, image = read_fit_page(stack, fitting, observer)
    note_options_of_pages(path, fitting, observer)
    outputs.check_for(image)
    with outputs.alone(image):
        return _denoise_image(image, fitting, options, outputs, observer, start)


def _denoise_image(
    image: Image,
    fitting: FitOptions,
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    start: float,
) -> Result:
    """Fit to an image whose outputs were checked, and run the passes."""
    if (done := _earlier_result(outputs, image)) is not None:
        return done
    note_file(image, observer)
    if image.is_empty:
        return _infer_image(
            None, PageForModel(prepare_for_model(image, whole_range=False)), options, outputs, observer, start=start
        )
    prepared = prepare(image, fitting.recipe)
    fitted = fit_model(prepared, fitting, observer, force=outputs.force)
    fitted = with_cheapest_model(fitted, prepared.pixels, options, observer)
    prepared = prepared.assessed_as(fitted.fit.config.noise or prepared.measured_noise)
    try:
        return _infer_image(
            fitted.model, PageForModel(prepared), options, outputs, observer, start=start, fitted=fitted
        )
    except KeyboardInterrupt:
        folder = fitted.fit.run.folder
        raise InterruptedRun(f"interrupted; the fit is kept in {folder}. {SAME_COMMAND_HINT}") from None


def _earlier_result(outputs: OutputOptions, image: Image) -> EarlierResult | None:
    """What an earlier run of the same job has written, if nothing of it is left to do; else None."""
    mark = outputs.finished(image)
    if mark is None:
        return None
    outputs.remove_kept(image)
    return EarlierResult(image.path, outputs.output_for(image), mark.result or {})


def _infer_image(
    model: Model | None,
    page: PageForModel,
    options: EnsembleOptions,
    outputs: OutputOptions,
    observer: Observer,
    *,
    start: float,
    fitted: FittedModel | None = None,
    engine_holder: EngineHolder | None = None,
) -> DenoiseResult:
    """Run the ensemble over `page` and write the result.

    If memory for a second image is short, the pixels of the page become the result. Without a model, they are it.
    """
    prepared = page.page
    image, noise = prepared.image, prepared.noise
    center = prepared.center()
    kept = outputs.kept_passes(image, observer.note)
    ensemble = run_passes(
        model,
        page.prepared,
        options,
        observer,
        # A report shows both the noisy image and the result.
        may_overwrite=outputs.report is None,
        engine_holder=engine_holder,
        kept=kept,
    )
    ensemble = page.restored(ensemble)
    output = outputs.output_for(image)
    residual = center.residual(ensemble.image)
    if residual.correlated and center.has_noise and not (noise is not None and noise.correlated):
        note_residual(f"{image.path}: in what was removed,", image, residual, observer)
    if fitted is not None:
        note_little_removed(image.path, fitted.fit.config, residual.standard_deviation, observer)
    result = DenoiseResult(
        source=image.path,
        output=output,
        uncertainty=outputs.uncertainty,
        ensemble=ensemble,
        fit=None if fitted is None else fitted.fit,
        export_seconds=0.0 if fitted is None else fitted.export_seconds,
        calibration_seconds=0.0 if fitted is None else fitted.calibration_seconds,
        seconds=time.perf_counter() - start,
        residual=residual,
        range=image.range,
        noise=noise,
        report=outputs.report,
    )
    if not outputs.has(output, "image"):
        mark = outputs.mark("image", result.to_json())
        write_image(output, ensemble.image, image, force=outputs.force, mark=mark)
    deviations = None if outputs.uncertainty is None else ensemble.uncertainty
    if outputs.uncertainty and deviations is not None and not outputs.has(outputs.uncertainty, "uncertainty"):
        mark = outputs.mark("uncertainty")
        write_float_map(outputs.uncertainty, deviations, image, force=outputs.force, mark=mark)
    result = replace(result, seconds=time.perf_counter() - start)
    if outputs.report is not None and not outputs.has(outputs.report, "report"):
        history = None
        if model is not None and model.contract.image_sha256 == prepared.sha256:
            history = model.path.parent / "history.jsonl"
        write_job_report(outputs.report, result, image, history, outputs.mark("report"))
    if kept is not None:
        kept.remove()
    return result
