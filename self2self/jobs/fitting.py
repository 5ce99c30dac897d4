"""`self2self fit`: options to a fitted run folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.diagnosis import Noise
from self2self.errors import FileFormatError, InputError, UsageError
from self2self.image_io import Image, Stack, image_hash, open_stack, read_image
from self2self.jobs.observer import Observer, noise_of, tell_noise, tell_notes
from self2self.masks import check_seed
from self2self.system import peak_memory_bytes
from self2self.train.checkpoint import Run, RunConfig, load_weights
from self2self.train.iqa_weights import IqaWeights, find_weights
from self2self.train.natural import has_natural_weights
from self2self.train.recipes import INITS, following, recipe_for

FIT_PAGES = ("first", "each")

SAME_COMMAND = "The same command goes on."
"""What is told to a user who interrupts a fit of `denoise`, which has no --resume."""


@dataclass(frozen=True, slots=True)
class FitOptions:
    """Options of a fit; None leaves a value to the recipe.

    Attributes:
        recipe: name of the recipe.
        init: ``scratch``, ``natural`` or a run folder.
        steps: optimiser steps.
        drop_rate: drop rate of the input.
        seed: of weights, masks and crops.
        device: ``auto``, ``cpu`` or ``cuda``.
        run: the run folder; None for the usual one of the image.
        iqa: whether to add the paper's image quality term; None means no, or what the fit to resume does.
        iqa_weights: its weights, which turns it on; None for the published ones.
        page: of a stack, from 1; None for the first, which is told.
        fit_pages: of a stack that is denoised: ``first`` for one fit for all pages, or ``each``.
    """

    recipe: str = "fast"
    init: str | None = None
    steps: int | None = None
    drop_rate: float | None = None
    seed: int = 0
    device: str = "auto"
    run: Path | None = None
    iqa: bool | None = None
    iqa_weights: Path | None = None
    page: int | None = None
    fit_pages: str = "first"

    def check(self) -> None:
        """Refuse wrong options before anything is read.

        Raises:
            UsageError: names the option.
        """
        recipe_for(self.recipe, self.init).with_options(self.steps, self.drop_rate)
        check_seed(self.seed)
        if self.iqa is False and self.iqa_weights is not None:
            raise UsageError("--iqa-weights turns the image quality term on and --no-iqa off; give one of them.")
        if self.page is not None and self.page < 1:
            raise UsageError(f"--page is {self.page}; pages count from 1.")
        if self.fit_pages not in FIT_PAGES:
            raise UsageError(f"--fit-pages is {self.fit_pages!r}; expected one of: {', '.join(FIT_PAGES)}.")
        if self.page is not None and self.fit_pages == "each":
            raise UsageError("--page names the page to fit and --fit-pages each fits all of them; give one of them.")

    @property
    def wants_iqa(self) -> bool:
        """Whether the image quality term is asked for."""
        return bool(self.iqa) or self.iqa_weights is not None


@dataclass(frozen=True, slots=True)
class Fitted:
    """A finished fit.

    Attributes:
        run: its folder.
        config: what was fitted and how.
        steps: optimiser steps in all.
        loss: of the last steps; None when an earlier fit was used again.
        psnr, ssim: against the clean reference, if one was given.
        seconds: that this call took.
        noise: of the image, estimated before the fit.
        quality: last mean score of the image quality term, 0 to 100; None without it.
        quality_seconds: what the term added to a step.
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

    def settings(self) -> str:
        """What the fit was made with, in a few words."""
        recipe = self.config.recipe
        text = f"p {recipe.input_drop_rate:g}"
        if recipe.rate_of_passes != recipe.input_drop_rate:
            text += f" ({recipe.rate_of_passes:g} in the passes)"
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
            "loss": self.loss,
            "seed": self.config.seed,
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


def configure(image: Image, options: FitOptions, noise: Noise, observer: Observer) -> RunConfig:
    """The configuration of a fit of `image`, whose noise is `noise`; options that the user gave win.

    Raises:
        UsageError, InputError, EngineUnavailableError: an option is wrong for this image or machine.
    """
    from self2self.train.fit import choose_device

    channels = image.pixels.shape[0]
    start = options.init or recipe_for(options.recipe).init
    if start == "natural" and not has_natural_weights(channels) and options.init is None:
        observer.note(f"there are no start weights for {channels} channels; fitting from scratch, which takes longer.")
        start = "scratch"
    recipe = recipe_for(options.recipe, start)
    if start not in INITS:
        run = Run(Path(start))
        earlier = run.config()
        if earlier.channels != channels:
            raise UsageError(f"--init {start} was fitted on {earlier.channels} channels; the image has {channels}.")
        recipe = following(recipe, earlier.recipe)
        if options.steps is None:
            observer.note(f"going on from {start} takes {recipe.steps} steps; --steps changes that.")
        start = str(run.folder.resolve())
    elif start == "natural" and not has_natural_weights(channels):
        raise UsageError(f"--init natural has no weights for {channels} channels. Use --init scratch.")
    recipe = recipe.for_noise(noise).with_options(options.steps, options.drop_rate)
    return RunConfig(
        image=str(image.path.resolve()),
        image_sha256=image_hash(image),
        channels=channels,
        recipe=recipe,
        seed=options.seed,
        start=start,
        device=str(choose_device(options.device)),
        iqa=iqa_weights(image, options, observer) if options.wants_iqa else None,
    )


def iqa_weights(image: Image, options: FitOptions, observer: Observer) -> IqaWeights:
    """The weights of the image quality term for `image`, fetched if need be.

    Raises:
        Self2SelfError: the term cannot be had, or not for this image.
    """
    from self2self.train.iqa import SMALLEST_SIDE, check_usable

    channels, *sides = image.pixels.shape
    check_usable(channels)
    if min(sides) < SMALLEST_SIDE:
        observer.note(f"{image.path}: is so small that the score of the image quality term means little.")
    return find_weights(options.iqa_weights, observer.note)


def run_folder(config: RunConfig, options: FitOptions) -> Run:
    """The folder of a fit: the one asked for, or the usual one of the image."""
    if options.run is not None:
        return Run(options.run)
    return Run.for_image(Path(config.image), config.image_sha256)


def fit_job(
    path: Path,
    options: FitOptions,
    *,
    resume: bool = False,
    force: bool = False,
    reference: Path | None = None,
    observer: Observer,
) -> Fitted:
    """`self2self fit`.

    Raises:
        Self2SelfError: anything that a user can cause.
    """
    options.check()
    with open_stack(path) as stack:
        image = read_fit_page(stack, options, observer)
    clean = read_reference(reference, image) if reference else None
    tell_notes(image, observer)
    noise = noise_of(image)
    config = configure(image, options, noise, observer)
    run = run_folder(config, options)
    if resume:
        config = resumable(run, config, options)
    elif run.folder.exists() and not force:
        raise occupied(run)
    tell_noise(image, noise, observer)
    fitted = run_fit(run, config, image, resume=resume, reference=clean, observer=observer)
    return replace(fitted, noise=noise)


def read_fit_page(stack: Stack, options: FitOptions, observer: Observer) -> Image:
    """The page to fit to: that of `--page`, or the first.

    Raises:
        UsageError, InputError: it is not there, or cannot be used.
    """
    if stack.pages > 1 and options.page is None:
        observer.note(f"{stack.path}: has {stack.pages} pages; fitting to page 1. To fit to another: --page N")
    return stack.read_page((options.page or 1) - 1)


def occupied(run: Run) -> UsageError:
    """The refusal to fit into a folder that is there."""
    if not run.config_path.is_file():
        if any(run.folder.iterdir()):
            return UsageError(f"{run.folder}: is not empty and not a run folder. Choose another with -o.")
        return UsageError(f"{run.folder}: exists already. Fit into it with --force, or choose another with -o.")
    advice = "start anew with --force, or choose another folder with -o"
    if run.is_fitted():
        return UsageError(f"{run.folder}: holds a finished fit. Use it (self2self infer), {advice}.")
    return UsageError(f"{run.folder}: holds an unfinished fit. Go on with --resume, {advice}.")


def resumable(run: Run, config: RunConfig, options: FitOptions) -> RunConfig:
    """The configuration to continue `run` with; where `options` leave the quality term open, the run decides.

    Raises:
        InputError: there is nothing to continue.
        UsageError: the folder belongs to a fit with other settings.
    """
    stored = run.config()
    if options.iqa is None and options.iqa_weights is None:
        config = replace(config, iqa=stored.iqa)
    if not config.same_fit(stored):
        raise UsageError(
            f"{run.folder}: was fitted with other settings ({differences(stored, config)}). "
            "Give the same options to resume, or start anew with --force."
        )
    return replace(stored, image=config.image, device=config.device, iqa=config.iqa)


def differences(stored: RunConfig, asked: RunConfig) -> str:
    """Which settings of a stored fit are not those that are asked for, in a few words."""
    ours, theirs = _settings(stored), _settings(asked)
    # A recipe of another version differs in what nobody can ask for.
    return "; ".join(
        f"{name} {ours[name]}, asked for {theirs[name]}" for name in ours if ours[name] != theirs[name]
    ) or ("its recipe is of another version")


def _settings(config: RunConfig) -> dict[str, str]:
    recipe = config.recipe
    return {
        "image": config.image_sha256[:8],
        "recipe": recipe.name,
        "steps": str(recipe.steps),
        "drop rate": f"{recipe.input_drop_rate:g}",
        "init": config.start,
        "seed": str(config.seed),
        "image quality term": config.iqa.sha256[:8] if config.iqa else "off",
    }


def run_fit(
    run: Run,
    config: RunConfig,
    image: Image,
    *,
    resume: bool,
    reference: NDArray[np.float32] | None = None,
    observer: Observer,
    go_on: str = "Give the same command with --resume to go on.",
) -> Fitted:
    """Fit into `run` and tell the observer; `go_on` is what a user who interrupts it is told to do."""
    from self2self.train.session import fit_run

    start = time.perf_counter()
    report = fit_run(
        run, config, image.pixels, resume=resume, reference=reference, on_report=observer.fitted, go_on=go_on
    )
    seconds = time.perf_counter() - start
    return Fitted(
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


def fit_or_reuse(run: Run, config: RunConfig, image: Image, observer: Observer, *, force: bool = False) -> Fitted:
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
    if not run.config_path.is_file():
        if run.folder.is_dir() and any(run.folder.iterdir()):
            raise occupied(run)
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
                "Keep it by choosing another folder with --run, or replace it with --force."
            )
        observer.note(f"replacing the fit in {run.folder} ({differences(stored, config)}).")
        return anew()
    if run.is_fitted():
        observer.note(f"using the finished fit in {run.folder}.")
        return Fitted(run, config, config.recipe.steps, None, None, None, 0.0)
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

    Raises:
        InputError: it cannot be read or has another size.
    """
    reference = read_image(path)
    if reference.pixels.shape != image.pixels.shape:
        raise InputError(f"--reference {path}: is {_size(reference)}; expected {_size(image)}, as the image itself.")
    if reference.dtype != image.dtype:
        return reference.pixels
    stored = reference.pixels.astype(np.float64) * reference.scale + reference.offset
    return ((stored - image.offset) / image.scale).astype(np.float32)


def _size(image: Image) -> str:
    channels, height, width = image.pixels.shape
    return f"{height}x{width} with {channels} channel{'s' * (channels > 1)}"
