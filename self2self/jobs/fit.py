"""`self2self fit`: fit a network to an image, or reuse or continue an earlier fit in the same run folder."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from self2self.errors import FileFormatError, InputError, UsageError, typed
from self2self.image_io import Image, Stack, image_hash, open_stack, read_image
from self2self.imaging.missing import share_to_learn_from
from self2self.jobs.fit_config import FitOptions, configure, differences, occupied_error, resumable, run_folder
from self2self.jobs.noise_notes import note_file, note_noise
from self2self.jobs.observer import Observer
from self2self.jobs.page_neighbours import NeighbourPages, choose_neighbours
from self2self.jobs.prepared_image import PreparedImage, prepare
from self2self.jobs.results import FitResult
from self2self.train.checkpoint import load_weights, save_model
from self2self.train.run_folder import Run, RunConfig, elsewhere

ENOUGH_TO_LEARN = 0.05
"""Share of measured pixels outside areas of exactly one value with which a page is good enough for the fit."""

SAME_COMMAND_HINT = "The same command goes on."
"""Hint for a user who interrupts a command."""


def fit_job(
    path: Path,
    options: FitOptions,
    *,
    resume: bool = False,
    force: bool = False,
    reference: Path | None = None,
    observer: Observer,
) -> FitResult:
    """`self2self fit`: fit into a run folder.

    A finished fit with the same settings is used again, and an unfinished one is continued.

    Args:
        path: the noisy image or stack.
        options: options of the fit.
        resume: refuse to begin anew: there has to be a fit to continue.
        force: fit anew, whatever the folder holds.
        reference: clean image, for scores.
        observer: gets notes and progress.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    options.check()
    with open_stack(path, nodata=options.nodata, mosaic=options.mosaic) as stack:
        prepared, options = page_to_fit(stack, options, observer)
    clean = read_reference(reference, prepared.image) if reference else None
    note_file(prepared.image, observer)
    config = configure(prepared, options, observer)
    run = run_folder(prepared, options)
    if resume:
        config = resumable(run, config, options)
    with run.locked(wait=options.wait):
        if resume and run.is_fitted():
            return reused_fit(run, config)
        if not (resume or force or run.is_vacant()):
            if not (run.config_path.is_file() and config.same_fit(run.config())):
                raise occupied_error(run, config)
            if run.is_fitted():
                return reused_fit(run, config)
            if not run.state_path.is_file():
                raise occupied_error(run, config)
            observer.note(f"continuing the interrupted fit in {run.folder}.")
            resume = True
        note_noise(prepared, config, observer)
        fitted = run_fit(run, config, prepared, resume=resume, reference=clean, observer=observer)
    return replace(fitted, noise=prepared.assessed_as(config.page_noise).measured_noise)


def page_to_fit(stack: Stack, options: FitOptions, observer: Observer) -> tuple[PreparedImage, FitOptions]:
    """The page to fit to (`read_fit_page`), fused with its neighbours; and the options with their number.

    Raises:
        UsageError, InputError: the page does not exist or cannot be used.
    """
    index, image = read_fit_page(stack, options, observer)
    return fused_with_neighbours(stack, index, prepare(image, options.recipe), options, observer)


def fused_with_neighbours(
    stack: Stack, index: int, prepared: PreparedImage, options: FitOptions, observer: Observer
) -> tuple[PreparedImage, FitOptions]:
    """The page of a fit, fused with as many neighbours as the options ask for or as fit; and the options with that."""
    count = choose_neighbours(stack, index, prepared, options, observer)
    page = NeighbourPages(stack, count).for_model(index, prepared)
    return page.prepared, replace(options, neighbours=count)


def read_fit_page(stack: Stack, options: FitOptions, observer: Observer) -> tuple[int, Image]:
    """Read the page to fit to, and its index: the page of `--page`, or the first from which a fit can learn.

    Raises:
        UsageError, InputError: the page does not exist or cannot be used.
    """
    if stack.pages == 1 or options.page is not None:
        index = (options.page or 1) - 1
        return index, stack.read_page(index)
    index, page = _page_to_learn_from(stack)
    why = ", as there is hardly anything to learn from page 1" if index else ""
    observer.note(
        f"{stack.path}: has {stack.pages} pages; fitting to page {index + 1}{why}. To fit to another: "
        f"{typed('--page N')}"
    )
    return index, page


def _page_to_learn_from(stack: Stack) -> tuple[int, Image]:
    """The index and the image of the first page with enough to learn from, or of the page with most.

    Further pages are read only as long as those before them are empty or hold next to nothing.
    """
    chosen = 0, stack.read_page(0)
    most = share_to_learn_from(chosen[1].pixels, chosen[1].missing)
    for index in range(1, stack.pages):
        if most >= ENOUGH_TO_LEARN:
            break
        page = stack.read_page(index)
        share = share_to_learn_from(page.pixels, page.missing)
        if share > most:
            most, chosen = share, (index, page)
    return chosen


def read_fitted_image(config: RunConfig) -> Image:
    """Read the image that a run was fitted to.

    For a stack this is the fitted page, or the first page if the file has changed since the fit.

    Raises:
        InputError, ResourceError: the file does not exist any more or cannot be used.
    """
    with open_stack(config.image, whole_range=config.whole_range, nodata=config.nodata, mosaic=config.mosaic) as stack:
        for index in range(stack.pages if stack.pages > 1 else 0):
            page = stack.read_page(index)
            if image_hash(page) == config.image_sha256:
                return page
        return stack.read_page(0)


def run_fit(
    run: Run,
    config: RunConfig,
    prepared: PreparedImage,
    *,
    resume: bool,
    reference: NDArray[np.float32] | None = None,
    observer: Observer,
) -> FitResult:
    """Fit into `run` and report to `observer`."""
    from self2self.train.session import fit_run

    start = time.perf_counter()
    report = fit_run(
        run,
        config,
        prepared.pixels,
        missing=prepared.missing,
        resume=resume,
        reference=reference,
        black_and_white=prepared.image.black_and_white,
        on_report=observer.fit_step,
        on_preview=observer.preview,
        cancelled=observer.cancelled,
    )
    seconds = time.perf_counter() - start
    if report.diverged_step is not None:
        observer.note(
            f"the fit diverged after step {report.diverged_step} of {config.recipe.steps}, so its weights are those of "
            f"step {report.step}. Another {typed('--seed')} or fewer {typed('--steps')} may do better."
        )
    return FitResult(
        run=run,
        config=config,
        steps=report.step,
        loss=report.loss,
        psnr=report.psnr,
        ssim=report.ssim,
        seconds=seconds,
        quality=report.quality,
        quality_seconds=report.quality_seconds,
    )


def fit_or_reuse(
    run: Run, config: RunConfig, prepared: PreparedImage, observer: Observer, *, force: bool = False
) -> FitResult:
    """Reuse the finished fit of `config` in `run`, continue an unfinished one, or fit from the start.

    Args:
        run: the run folder.
        config: the requested configuration.
        prepared: the noisy image.
        observer: gets notes and progress.
        force: whether to replace a fit that has other settings or is damaged.

    Raises:
        UsageError: the folder holds something else, and `force` is off or cannot help.
        FileFormatError: the fit is damaged, and `force` is off.
    """
    fit_anew = partial(run_fit, run, config, prepared, resume=False, observer=observer)
    if run.is_vacant():
        return fit_anew()
    if not run.config_path.is_file():
        raise occupied_error(run, config)
    try:
        stored = run.config()
        if run.is_fitted():
            # Damaged weights are found here, before the export reads them.
            load_weights(run.model_path)
    except FileFormatError as error:
        if not force:
            raise
        observer.note(f"fitting anew: {error}")
        return fit_anew()
    if not config.same_fit(stored):
        if not force:
            raise UsageError(
                f"{run.folder}: holds a fit with other settings ({differences(stored, config)}). "
                f"Keep it and {elsewhere()}, or start anew with {typed('--force')}."
            )
        observer.note(f"replacing the fit in {run.folder} ({differences(stored, config)}).")
        return fit_anew()
    if run.is_fitted():
        observer.note(f"using the finished fit in {run.folder}.")
        return reused_fit(run, config)
    resume = run.state_path.is_file()
    if resume:
        observer.note(f"continuing the interrupted fit in {run.folder}.")
    try:
        return run_fit(run, config, prepared, resume=resume, observer=observer)
    except FileFormatError as error:
        if not force:
            raise
        observer.note(f"fitting anew: {error}")
        return fit_anew()


def reused_fit(run: Run, config: RunConfig) -> FitResult:
    """The result of a fit that an earlier command has finished in `run`, with the strength of `config`.

    Raises:
        FileFormatError: its weights are damaged.
        OutputError, ResourceError: the folder cannot be written.
    """
    _, _, contract = load_weights(run.model_path)
    # A process that was killed after its last step has left it.
    run.drop_state()
    if not math.isclose(contract.noisy_share, config.noisy_share, abs_tol=1e-9):
        _change_strength(run, config)
    return FitResult(run=run, config=config, steps=config.recipe.steps, loss=None, seconds=0.0, reused=True)


def _change_strength(run: Run, config: RunConfig) -> None:
    """Give the finished fit in `run` the strength of `config`, which leaves its weights as they are.

    The weights of the fit come last: if a kill leaves the old strength there, the same command begins again.
    """
    run.clear_exports()
    run.create(config)
    for path in (run.plain_path, run.model_path):
        if path.is_file():
            weights, recipe, contract = load_weights(path)
            save_model(path, weights, recipe, replace(contract, noisy_share=config.noisy_share))


def read_reference(path: Path, image: Image) -> NDArray[np.float32]:
    """Read the clean image of `--reference`, in the units of `image.pixels`.

    If the two files have different types, each may use the whole range of its own type, and the reference is rescaled.
    Otherwise the reference has to hold the units of the image. For example, the mean of many 12-bit frames, stored as
    floats, does.

    Raises:
        InputError: the reference cannot be read, has another size, or its units are not clear.
    """
    reference = read_image(path, mosaic=image.mosaic)
    if reference.pixels.shape != image.pixels.shape:
        raise InputError(
            f"{typed('--reference', path)}: is {_size(reference)}; expected {_size(image)}, as the image itself."
        )
    stored = reference.pixels.astype(np.float64) * reference.scale + reference.offset
    if reference.dtype != image.dtype and reference.white is not None:
        if image.white is None:
            raise InputError(
                f"{typed('--reference', path)}: has {reference.dtype} values of the type's whole range; the image has "
                f"{image.dtype} values from {image.offset:g} to {image.offset + image.scale:g}. Store it as "
                f"{image.dtype} or as floats in the image's units."
            )
        stored *= image.white / reference.white
    elif _holds_shares(reference, stored) and image.white is not None and image.white > 1 and image.range[1] > 1:
        # The image is too dark to show its white, but the floats can only be shares of white.
        stored *= image.white
    return ((stored - image.offset) / image.scale).astype(np.float32)


def _holds_shares(image: Image, stored: NDArray[np.float64]) -> bool:
    """Whether the stored values of `image` may be shares of white: floats from 0 to 1."""
    return image.dtype.kind == "f" and stored.min() >= 0 and stored.max() <= 1


def _size(image: Image) -> str:
    channels, height, width = image.pixels.shape
    return f"{height}x{width} with {channels} channel{'s' * (channels > 1)}"
