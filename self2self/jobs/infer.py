"""`self2self infer` and `self2self denoise`: images to clean images."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from self2self.errors import FileFormatError, InterruptedRun
from self2self.image_io import Image, image_hash, open_stack, write_float_map, write_image
from self2self.imaging.noise import CORRELATED_NOTE, Noise, Residual, center_crop, has_noise, measure_residual
from self2self.imaging.outliers import remove_hot_pixels
from self2self.jobs.ensemble_options import EnsembleOptions
from self2self.jobs.export import export_job
from self2self.jobs.fit import SAME_COMMAND, FitResult, fit_or_reuse, read_fit_page
from self2self.jobs.fit_config import FitOptions, configure, run_folder, suited
from self2self.jobs.image_batch import ImageBatch
from self2self.jobs.observer import Observer, tell_noise, tell_notes
from self2self.machine.system import peak_memory_bytes
from self2self.runtime.ensemble.denoise import check_channels, denoise
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.host_loop import expected_passes
from self2self.runtime.ensemble.pass_plan import pass_plan_for
from self2self.runtime.ensemble.tile_loop import EnsembleResult
from self2self.runtime.model import Model, load_model

if TYPE_CHECKING:
    from self2self.jobs.stack_pages import StackResult


@dataclass(frozen=True, slots=True)
class DenoiseResult:
    """A written image.

    Attributes:
        source, output: files.
        uncertainty: the file of the standard deviation, or None.
        denoised: the result and how it was made.
        fitted: the fit, when the job made one.
        export_seconds: time of the export, when the job made one.
        seconds: in all.
        residual: what was removed: the image less the clamped, unrounded result.
        range: the values of the file that were 0 and 1 to the network, 255 grey levels apart.
        noise: of the image, estimated before the fit, when the job made one.
        report: the file of the HTML report, or None.
    """

    source: Path
    output: Path
    uncertainty: Path | None
    denoised: EnsembleResult
    fitted: FitResult | None
    export_seconds: float
    seconds: float
    residual: Residual
    range: tuple[float, float]
    noise: Noise | None = None
    report: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """What `infer --json` and `denoise --json` print for one image."""
        done = self.denoised
        seconds = {
            "fit": self.fitted.seconds if self.fitted else 0.0,
            "export": self.export_seconds,
            **done.seconds,
            "total": self.seconds,
        }
        values: dict[str, Any] = {
            "image": str(self.source),
            "output": str(self.output),
            "engine": done.engine,
            "provider": done.provider,
            "mask_source": done.mask_source,
            "fallback": done.fallback or None,
            "passes": done.passes,
            "tolerance": done.pass_plan.tolerance,
            "masks": "balanced" if done.pass_plan.balanced else "independent",
            "flips": done.pass_plan.flips,
            "batch": done.batch,
            "tile": None if done.tile is None else list(done.tile),
            "tiles": done.tiles,
            "seed": done.seed,
            "seconds": {key: round(value, 3) for key, value in seconds.items()},
            "passes_per_second": round(done.passes_per_second, 3),
            "peak_memory_bytes": peak_memory_bytes(),
            "standard_error": None if math.isnan(done.standard_error) else done.standard_error,
            "range": list(self.range),
            "residual": self.residual.to_json(),
        }
        if self.noise is not None:
            values["noise"] = self.noise.to_json()
        if self.uncertainty is not None:
            values["uncertainty"] = str(self.uncertainty)
        if self.report is not None:
            values["report"] = str(self.report)
        if self.fitted is not None:
            fit = self.fitted.to_json()
            keys = ("run", "recipe", "init", "steps", "drop_rate", "pass_drop_rate", "noisy_share", "loss", "device")
            values |= {key: fit[key] for key in (*keys, "quality_term")}
        return values


def infer_job(
    model_path: Path,
    images: list[Path],
    options: EnsembleOptions,
    observer: Observer,
    several: ImageBatch | None = None,
) -> list[DenoiseResult | StackResult]:
    """`self2self infer`: the ensemble of one model over each image or page; of several, those that are not done yet.

    Images of one size (after padding) are run by one engine, which is prepared once. With `several`
    that has `on_error`, an image that cannot be used stops no other.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    options.check(images)
    several = several or ImageBatch(images, options)
    model = load_model(model_path)
    finished: list[DenoiseResult | StackResult] = []
    with EngineHolder() as engine_holder:
        for path in images:
            if several.skips(path, observer):
                continue
            several.begin(path, observer)
            with several.attempt(path):
                finished.append(_infer_file(model, path, options, observer, engine_holder))
    return finished


def _infer_file(
    model: Model, path: Path, options: EnsembleOptions, observer: Observer, engine_holder: EngineHolder
) -> DenoiseResult | StackResult:
    start = time.perf_counter()
    with open_stack(path, whole_range=model.contract.whole_range) as stack:
        if stack.pages > 1:
            from self2self.jobs.stack import infer_stack

            return infer_stack(model, stack, options, observer, engine_holder)
        image = stack.read_page(0)
    options.check_for(image)
    check_channels(model, image.pixels)
    tell_notes(image, observer)
    if model.contract.image_sha256 not in ("", image_hash(image)):
        observer.note(
            f"{path} is not the image that {model.path} was fitted on; the result is best on that image. "
            "To fit to this one: self2self denoise IMAGE"
        )
    return infer_image(model, image, options, observer, start=start, engine_holder=engine_holder)


def infer_image(
    model: Model,
    image: Image,
    options: EnsembleOptions,
    observer: Observer,
    *,
    start: float,
    fitted: FitResult | None = None,
    export_seconds: float = 0.0,
    engine_holder: EngineHolder | None = None,
    noise: Noise | None = None,
) -> DenoiseResult:
    """Run the ensemble over `image` and write the result.

    Where memory for a second image is short, `image.pixels` becomes the result.
    """
    noisy = remove_hot_pixels(center_crop(image.pixels).copy(), in_place=True)
    denoised = run_passes(
        model,
        image,
        options,
        observer,
        uncertainty=options.uncertainty is not None or options.report is not None,
        # A report shows both.
        may_overwrite=options.report is None,
        engine_holder=engine_holder,
    )
    output = options.output_for(image)
    write_image(output, denoised.image, image, force=options.force)
    if options.uncertainty is not None and denoised.uncertainty is not None:
        write_float_map(options.uncertainty, denoised.uncertainty, image, force=options.force)
    residual = measure_residual(noisy, center_crop(denoised.image))
    if residual.correlated and has_noise(noisy) and not (noise is not None and noise.correlated):
        observer.note(f"{image.path}: in what was removed, {CORRELATED_NOTE.format(residual.noise.correlation)}")
    seconds = time.perf_counter() - start
    finished = DenoiseResult(
        image.path,
        output,
        options.uncertainty,
        denoised,
        fitted,
        export_seconds,
        seconds,
        residual,
        image.range,
        noise,
        options.report,
    )
    if options.report is not None:
        # Here, because it needs what this module makes.
        from self2self.jobs.report import write_job_report

        same = model.contract.image_sha256 == image_hash(image)
        write_job_report(options.report, finished, image, model.path.parent / "history.jsonl" if same else None)
    return finished


def run_passes(
    model: Model,
    image: Image,
    options: EnsembleOptions,
    observer: Observer,
    *,
    uncertainty: bool,
    may_overwrite: bool,
    engine_holder: EngineHolder | None,
) -> EnsembleResult:
    """Run the ensemble over `image`; see `denoise` for the last three.

    Raises:
        Self2SelfError: as for `denoise`.
    """
    pass_plan = pass_plan_for(model.contract.recipe, options.passes, options.tolerance, options.balanced, options.flips)
    return denoise(
        model,
        image.pixels,
        engine=options.engine,
        pass_plan=pass_plan,
        batch=options.batch,
        seed=options.seed,
        on_progress=lambda moments: observer.passed(moments, expected_passes(pass_plan, moments)),
        on_note=observer.note,
        memory=options.memory,
        uncertainty=uncertainty,
        may_overwrite=may_overwrite,
        engine_holder=engine_holder,
        mask_source=options.mask_source,
        allow_fallback=options.allow_fallback,
    )


def denoise_job(
    path: str | os.PathLike[str], fitting: FitOptions, options: EnsembleOptions, observer: Observer | None = None
) -> DenoiseResult | StackResult:
    """`self2self denoise` for one image or stack: fit, export and infer.

    A finished fit with the same settings is used again, and an unfinished one is continued,
    because both give the same bits as a new fit.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    start = time.perf_counter()
    path, observer = Path(path), observer or Observer()
    fitting.check()
    options.check([path])
    with open_stack(path) as stack:
        if stack.pages > 1:
            from self2self.jobs.stack import denoise_stack

            return denoise_stack(stack, fitting, options, observer)
        image = read_fit_page(stack, fitting, observer)
    options.check_for(image)
    tell_notes(image, observer)
    image, noise, whole_range = suited(image, fitting)
    fitted, model, exported = fit_model(image, fitting, observer, noise, whole_range=whole_range, force=options.force)
    noise = fitted.config.recipe.apply_assessment(noise)
    try:
        return infer_image(
            model, image, options, observer, start=start, fitted=fitted, export_seconds=exported, noise=noise
        )
    except KeyboardInterrupt:
        raise InterruptedRun(f"interrupted; the fit is kept in {fitted.run.folder}. {SAME_COMMAND}") from None


def fit_model(
    image: Image, fitting: FitOptions, observer: Observer, noise: Noise, *, whole_range: bool, force: bool = False
) -> tuple[FitResult, Model, float]:
    """Fit to `image`, or take what is fitted, and export it: the fit, the model and the seconds of the export.

    Image, noise and `whole_range` are what `suited` makes of an image. With `force`, a fit with other settings is
    replaced.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    config = configure(image, fitting, noise, observer, whole_range=whole_range)
    run = run_folder(config, fitting)
    tell_noise(image, noise, config.recipe, observer)
    fitted = fit_or_reuse(run, config, image, observer, force=force)
    began = time.perf_counter()
    if not run.onnx_path.is_file() or not fitted.reused:
        export_job(run, force=True)
    try:
        model = load_model(run.onnx_path)
    except FileFormatError as error:
        # Nothing is lost: it is made from the weights.
        observer.note(f"exporting again: {error}")
        export_job(run, force=True)
        model = load_model(run.onnx_path)
    return fitted, model, time.perf_counter() - began
