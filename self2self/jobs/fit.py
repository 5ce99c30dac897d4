"""`self2self fit`: an image to a fitted run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import FileFormatError, InputError, UsageError
from self2self.image_io import Image, Stack, image_hash, open_stack, read_image
from self2self.imaging.noise import Noise
from self2self.jobs.fit_config import FitOptions, configure, differences, occupied_error, resumable, run_folder, suited
from self2self.jobs.observer import Observer, tell_noise, tell_notes
from self2self.machine.system import peak_memory_bytes
from self2self.train.checkpoint import load_weights
from self2self.train.run_folder import Run, RunConfig

SAME_COMMAND = "The same command goes on."
"""What is told to a user who interrupts a fit of `denoise`, which has no --resume."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """A finished fit.

    Attributes:
        run: its folder.
        config: what was fitted and how.
        steps: optimiser steps in all.
        loss: of the last steps; None where none was taken.
        psnr, ssim: against the clean reference, if one was given.
        seconds: that this call took.
        noise: of the image, estimated before the fit.
        quality: last mean score of the image quality term, 0 to 100; None without it.
        quality_seconds: what the term added to a step.
        reused: whether it is an earlier fit, used again.
    """

    run: Run
    config: RunConfig
    steps: int
    loss: float | None
    psnr: float | None
    ssim: float | None
    seconds: float
    noise: Noise | None = None
    quality: float | None = None
    quality_seconds: float | None = None
    reused: bool = False

    def settings(self) -> str:
        """What the fit was made with, in a few words."""
        recipe = self.config.recipe
        text = f"p {recipe.input_drop_rate:g}"
        if recipe.rate_of_passes != recipe.input_drop_rate:
            text += f" ({recipe.rate_of_passes:g} in the passes)"
        if recipe.noisy_share:
            text += f", {100 * recipe.noisy_share:.0f} % given back"
        return f"{text}, {self.steps} steps"

    def to_json(self) -> dict[str, Any]:
        """What `fit --json` prints."""
        values: dict[str, Any] = {
            "run": str(self.run.folder),
            "image": self.config.image,
            "recipe": self.config.recipe.name,
            "init": self.config.start,
            "steps": self.steps,
            "drop_rate": self.config.recipe.input_drop_rate,
            "pass_drop_rate": self.config.recipe.rate_of_passes,
            "noisy_share": self.config.recipe.noisy_share,
            "loss": self.loss,
            "seed": self.config.seed,
            "range": self.config.image_range and list(self.config.image_range),
            "device": self.config.device,
            "quality_term": self._quality_json(),
            "seconds": {"fit": round(self.seconds, 3)},
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if self.noise is not None:
            values["noise"] = self.noise.to_json()
        if self.psnr is not None:
            values |= {"psnr": self.psnr, "ssim": self.ssim}
        return values

    def quality_text(self) -> str:
        """Whether the image quality term was used, for people."""
        if self.config.iqa is None:
            return "without the image quality term (--iqa)"
        text = f"with the image quality term, weights {self.config.iqa.sha256[:8]}"
        if self.quality is not None and self.quality_seconds is not None:
            text += f": score {self.quality:.1f} of 100, {1000 * self.quality_seconds:.0f} ms of each step"
        return text

    def _quality_json(self) -> dict[str, Any] | None:
        if self.config.iqa is None:
            return None
        return {
            "metric": "paq2piq",
            "weight": self.config.recipe.quality_weight,
            "weights_sha256": self.config.iqa.sha256,
            "published_weights": self.config.iqa.published,
            "score": self.quality,
            "seconds_per_step": self.quality_seconds,
        }


def fit_job(
    path: Path,
    options: FitOptions,
    *,
    resume: bool = False,
    force: bool = False,
    reference: Path | None = None,
    observer: Observer,
) -> FitResult:
    """`self2self fit`.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    options.check()
    with open_stack(path) as stack:
        image = read_fit_page(stack, options, observer)
    image, noise, whole_range = suited(image, options)
    clean = read_reference(reference, image) if reference else None
    tell_notes(image, observer)
    config = configure(image, options, noise, observer, whole_range=whole_range)
    run = run_folder(config, options)
    if resume:
        config = resumable(run, config, options)
    elif run.folder.exists() and not force and not run.is_unbegun():
        raise occupied_error(run)
    tell_noise(image, noise, config.recipe, observer)
    fitted = run_fit(run, config, image, resume=resume, reference=clean, observer=observer)
    return replace(fitted, noise=config.recipe.apply_assessment(noise))


def read_fit_page(stack: Stack, options: FitOptions, observer: Observer) -> Image:
    """The page to fit to: that of `--page`, or the first.

    Raises:
        UsageError, InputError: it is not there, or cannot be used.
    """
    if stack.pages > 1 and options.page is None:
        observer.note(f"{stack.path}: has {stack.pages} pages; fitting to page 1. To fit to another: --page N")
    return stack.read_page((options.page or 1) - 1)


def read_fitted_image(config: RunConfig) -> Image:
    """The image that a run was fitted to; of a stack the page, or the first if the file has changed since.

    Raises:
        InputError, ResourceError: it is not there any more, or cannot be used.
    """
    with open_stack(config.image, whole_range=config.whole_range) as stack:
        for index in range(stack.pages if stack.pages > 1 else 0):
            page = stack.read_page(index)
            if image_hash(page) == config.image_sha256:
                return page
        return stack.read_page(0)


def run_fit(
    run: Run,
    config: RunConfig,
    image: Image,
    *,
    resume: bool,
    reference: NDArray[np.float32] | None = None,
    observer: Observer,
    go_on: str = "Give the same command with --resume to go on.",
) -> FitResult:
    """Fit into `run` and tell the observer; `go_on` is what a user who interrupts it is told to do."""
    from self2self.train.session import fit_run

    start = time.perf_counter()
    report = fit_run(
        run,
        config,
        image.pixels,
        resume=resume,
        reference=reference,
        black_and_white=image.black_and_white,
        on_report=observer.fitted,
        go_on=go_on,
    )
    seconds = time.perf_counter() - start
    return FitResult(
        run,
        config,
        report.step,
        report.loss,
        report.psnr,
        report.ssim,
        seconds,
        quality=report.quality,
        quality_seconds=report.quality_seconds,
    )


def fit_or_reuse(run: Run, config: RunConfig, image: Image, observer: Observer, *, force: bool = False) -> FitResult:
    """The fit of `config` in `run`, with as little work as possible.

    Args:
        run: its folder.
        config: what is asked for.
        image: the noisy image.
        observer: whom to tell.
        force: replace a fit with other settings, or one that is damaged.

    Raises:
        UsageError: the folder holds something else.
        FileFormatError: the fit is damaged.
    """
    anew = partial(run_fit, run, config, image, resume=False, observer=observer, go_on=SAME_COMMAND)
    if run.is_unbegun():
        return anew()
    if not run.config_path.is_file():
        if run.folder.exists() and (not run.folder.is_dir() or any(run.folder.iterdir())):
            raise occupied_error(run)
        return anew()
    try:
        stored = run.config()
        if run.is_fitted():
            # Before the export, which reads it if the model is not there.
            load_weights(run.model_path)
    except FileFormatError as error:
        if not force:
            raise
        observer.note(f"fitting anew: {error}")
        return anew()
    if not config.same_fit(stored):
        if not force:
            raise UsageError(
                f"{run.folder}: holds a fit with other settings ({differences(stored, config)}). "
                f"Keep it: self2self denoise {image.path} --run RUN, or replace it with --force."
            )
        observer.note(f"replacing the fit in {run.folder} ({differences(stored, config)}).")
        return anew()
    if run.is_fitted():
        observer.note(f"using the finished fit in {run.folder}.")
        return FitResult(run, config, config.recipe.steps, None, None, None, 0.0, reused=True)
    resume = run.state_path.is_file()
    if resume:
        observer.note(f"continuing the interrupted fit in {run.folder}.")
    try:
        return run_fit(run, config, image, resume=resume, observer=observer, go_on=SAME_COMMAND)
    except FileFormatError as error:
        if not force:
            raise
        observer.note(f"fitting anew: {error}")
        return anew()


def read_reference(path: Path, image: Image) -> NDArray[np.float32]:
    """The clean image for `--reference`, in the same units as `image.pixels`.

    Of another type, both may use the ranges of their types; else it has to hold the same units, as the mean of many
    frames with 12 bits does in floats.

    Raises:
        InputError: it cannot be read, has another size, or nobody can tell what its values mean.
    """
    reference = read_image(path)
    if reference.pixels.shape != image.pixels.shape:
        raise InputError(f"--reference {path}: is {_size(reference)}; expected {_size(image)}, as the image itself.")
    stored = reference.pixels.astype(np.float64) * reference.scale + reference.offset
    if reference.dtype != image.dtype and reference.white is not None:
        if image.white is None:
            raise InputError(
                f"--reference {path}: has {reference.dtype} values of the type's whole range; the image has "
                f"{image.dtype} values from {image.offset:g} to {image.offset + image.scale:g}. Store it as "
                f"{image.dtype} or as floats in the image's units."
            )
        stored *= image.white / reference.white
    elif _holds_shares(reference, stored) and image.white is not None and image.white > 1 and image.range[1] > 1:
        # Dark, but nothing else than shares of white.
        stored *= image.white
    return ((stored - image.offset) / image.scale).astype(np.float32)


def _holds_shares(image: Image, stored: NDArray[np.float64]) -> bool:
    return image.dtype.kind == "f" and stored.min() >= 0 and stored.max() <= 1


def _size(image: Image) -> str:
    channels, height, width = image.pixels.shape
    return f"{height}x{width} with {channels} channel{'s' * (channels > 1)}"
