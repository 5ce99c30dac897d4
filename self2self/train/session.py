"""Runs a fit in its run folder: checkpoints, history, preview, and Ctrl-C between two steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from self2self.errors import InputError, InterruptedRun, ResourceError, pytorch_memory, typed
from self2self.imaging.metrics import from_black_to_white, psnr, ssim
from self2self.imaging.noise import center_crop
from self2self.imaging.outliers import remove_outliers, restore_outliers
from self2self.imaging.picture import PREVIEW_SIDE, picture_of, png_of
from self2self.machine.files import atomic_write
from self2self.train.checkpoint import load_state, load_weights, save_model, save_state, tensors_sha256
from self2self.train.fit import FitState, FloatArray, fit, learning_rate, new_state
from self2self.train.iqa import IqaTerm
from self2self.train.prediction import predict
from self2self.train.recipes import INITS
from self2self.train.run_folder import History, Run, RunConfig, elsewhere
from self2self.train.start_weights import pretrained_weights

CHECKPOINT_SECONDS = 20.0
"""Time between checkpoints. A step in progress may add to it; 30 s are promised."""
HISTORY_SECONDS = 1.0
"""Time between entries of the history."""
PREVIEW_SECONDS = 10.0
"""Shortest time between previews."""
PREVIEW_SHARE = 0.05
"""Largest share of the time that previews and their scores take."""
WATCHED_SECONDS, WATCHED_SHARE = 1.0, 0.2
"""The same while somebody looks at the previews."""
GO_ON = "The same command goes on."
"""Advice for a user who interrupts a fit."""

OnPreview = Callable[[FloatArray, FloatArray], None]


class Scores(NamedTuple):
    """Scores of a preview against the clean reference; None where they were not measured."""

    psnr: float | None = None
    ssim: float | None = None


@dataclass(frozen=True, slots=True)
class FitReport:
    """The progress of a fit.

    Attributes:
        step: number of steps taken.
        steps: number of steps of the whole fit.
        loss: mean over the steps since the last history entry; None before the first step.
        seconds: time since the fit was started or continued.
        psnr, ssim: scores of the mean of a few passes against the clean reference; None where they were not measured.
        quality: mean score of the image quality term, 0 to 100, since the last history entry; None without the term.
        quality_seconds: time that the term adds to a step, gradient included.
        diverged_step: the step after which the fit diverged, so that it ended with the weights of `step`; None if it
            did not.
    """

    step: int
    steps: int
    loss: float | None
    seconds: float
    psnr: float | None = None
    ssim: float | None = None
    quality: float | None = None
    quality_seconds: float | None = None
    diverged_step: int | None = None


def start_weights(config: RunConfig) -> dict[str, torch.Tensor] | None:
    """The weights that the fit starts from; None for random ones.

    Raises:
        InputError, FileFormatError: the run to start from cannot be read.
    """
    if config.start == "scratch":
        return None
    if config.start in INITS:
        return pretrained_weights(config.channels, told_level(config), single_pass=config.recipe.starts_for_single_pass)
    weights, _, _ = load_weights(Run(Path(config.start)).model_path)
    return weights


def told_level(config: RunConfig) -> float:
    """The noise level that start weights are told, in 8-bit grey levels."""
    return config.noise.told if config.noise else 0.0


def shipped_start_weights(config: RunConfig) -> dict[str, torch.Tensor] | None:
    """The start weights of the fit if they are those that ship with this version, else None."""
    start = start_weights(config) if config.start == "natural" else None
    return start if start is not None and config.start_sha256 == tensors_sha256(start) else None


@contextmanager
def fit_memory_errors() -> Iterator[None]:
    """Turn a lack of memory into one line, also outside the steps: for the network, the samples or a preview.

    Raises:
        ResourceError: memory ran out.
    """
    try:
        with pytorch_memory():
            yield
    except MemoryError as error:
        raise ResourceError(
            f"out of memory in the fit. Close other programs, or use {typed('--recipe fast')}, or "
            f"{typed('--device cpu')} if it was the GPU's."
        ) from error


@fit_memory_errors()
def fit_run(
    run: Run,
    config: RunConfig,
    pixels: FloatArray,
    *,
    missing: NDArray[np.bool_] | None = None,
    resume: bool = False,
    reference: FloatArray | None = None,
    black_and_white: tuple[float, float] = (0.0, 1.0),
    on_report: Callable[[FitReport], None] | None = None,
    on_preview: OnPreview | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> FitReport:
    """Fit `pixels` into the run folder `run`.

    Args:
        run: the folder, made if needed. Without `resume`, the files of an earlier fit are removed from it.
        config: image, recipe, seed, device.
        pixels: float32 (C, H, W).
        missing: bool (H, W), pixels that hold no measurement and are filled smoothly; None for none.
        resume: continue from the folder's state.
        reference: clean image of the same shape as `pixels`; it is used for scores alone.
        black_and_white: the values of black and white in units of the pixels, for the scores.
        on_report: called after every step.
        on_preview: gets the middle of the image as it is and as the fit predicts it now, float32 (C, h, w) each, at
            once and about every second; this makes a fit slower by up to a quarter, and changes no bit of it.
        cancelled: asked after every step; true ends the fit as Ctrl-C does.

    Raises:
        InputError: the reference has another shape than the image.
        InterruptedRun: Ctrl-C, SIGTERM or `cancelled`; the state is saved.
        BusyError: another command is fitting into the folder.
        Self2SelfError: anything else that a user can cause; the last checkpoint is on disk.
    """
    device = torch.device(config.device)
    recipe = config.recipe
    if reference is not None and reference.shape != pixels.shape:
        raise InputError(
            f"{typed('--reference')} has shape {reference.shape}; the image has {pixels.shape}. They have to be equal."
        )
    start = None if resume else start_weights(config)
    quality = None if config.iqa is None else IqaTerm(config.iqa, device)
    state = new_state(recipe, config.channels, config.seed, device, start)
    with run.locked():
        history = History(run.history_path)
        if resume:
            load_state(run, state)
        else:
            # The order matters: a kill in between leaves a fit that has not begun, never old weights with new settings.
            run.clear()
        # A fit that goes on may have another strength.
        run.create(config)
        history.restart(state.step)
        reporter = Reporter(
            run, config, pixels, missing, reference, black_and_white, history, on_report, quality, on_preview
        )
        with interrupts() as interrupted:

            def on_step(state: FitState) -> None:
                reporter.step(state)
                if (interrupted.is_set() or cancelled()) and state.step < recipe.steps:
                    save_state(run, state)
                    raise InterruptedRun(
                        f"interrupted after step {state.step} of {recipe.steps}; it is saved in {run.folder}. {GO_ON}"
                    )

            fit(pixels, recipe, state, seed=config.seed, missing=missing, quality=quality, on_step=on_step)
            save_state(run, state)
            run.clear_plain()
            report = replace(reporter.finish(state), diverged_step=state.diverged_step)
            # The weights are written last: a fit that has them has everything else, too.
            save_model(run.model_path, state.weights(), recipe, config.contract(state.step))
            run.drop_state()
            if interrupted.is_set():
                raise InterruptedRun(f"interrupted; the fit is finished and saved in {run.folder}. {GO_ON}")
        return report


class Reporter:
    """Writes history, previews and checkpoints while a fit runs."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        pixels: FloatArray,
        missing: NDArray[np.bool_] | None,
        reference: FloatArray | None,
        black_and_white: tuple[float, float],
        history: History,
        on_report: Callable[[FitReport], None] | None,
        quality: IqaTerm | None = None,
        on_preview: OnPreview | None = None,
    ) -> None:
        self._run = run
        self._config = config
        self._pixels = pixels
        self._missing = missing
        self._reference = reference
        self._black_and_white = black_and_white
        self._history = history
        self._on_report = on_report
        self._quality = quality
        self._on_preview = on_preview
        self._losses: list[float] = []
        self._start = self._last_checkpoint = self._last_preview = time.monotonic()
        self._preview_period, self._preview_share = PREVIEW_SECONDS, PREVIEW_SHARE
        if on_preview is not None:
            self._preview_period, self._preview_share = WATCHED_SECONDS, WATCHED_SHARE
            self._last_preview = -math.inf
        # The first step is always written, so that a curve has a beginning.
        self._last_entry = -math.inf
        self._preview_seconds = 0.0

    def step(self, state: FitState) -> None:
        """Write what is due after a step: preview, history entry, checkpoint; then call `on_report`."""
        now = time.monotonic()
        self._losses.append(state.loss)
        scores = Scores()
        if now - self._last_preview > max(self._preview_period, self._preview_seconds / self._preview_share):
            scores = self._preview(state)
        # `finish` writes the entry of the last step, with its scores.
        last = state.step == self._config.recipe.steps
        if not last and (scores.psnr is not None or now - self._last_entry > HISTORY_SECONDS):
            self._write_entry(state, scores)
        if now - self._last_checkpoint > CHECKPOINT_SECONDS:
            save_state(self._run, state)
            self._last_checkpoint = time.monotonic()
        if self._on_report is not None:
            self._on_report(self._report(state, Scores()))

    def finish(self, state: FitState) -> FitReport:
        """Write the last preview and history entry; a run that was killed after them writes the entry only once."""
        scores = self._preview(state)
        if any(entry.get("step") == state.step for entry in self._history.read()):
            return self._report(state, scores)
        return self._write_entry(state, scores)

    def _report(self, state: FitState, scores: Scores) -> FitReport:
        loss = float(np.mean(self._losses)) if self._losses else None if math.isnan(state.loss) else state.loss
        seconds = time.monotonic() - self._start
        return FitReport(state.step, self._config.recipe.steps, loss, seconds, scores.psnr, scores.ssim)

    def _write_entry(self, state: FitState, scores: Scores) -> FitReport:
        """Append an entry to the history, and start the means of the next one."""
        report = self._report(state, scores)
        if self._quality is not None:
            self._quality.summarise()
            report = replace(report, quality=self._quality.score, quality_seconds=self._quality.step_seconds)
        entry: dict[str, float | None] = {
            "step": report.step,
            "loss": report.loss,
            "learning_rate": learning_rate(self._config.recipe, max(0, state.step - 1)),
            "seconds": round(report.seconds, 3),
        }
        if report.psnr is not None:
            entry |= {"psnr": report.psnr, "ssim": report.ssim}
        if report.quality is not None:
            entry |= {"quality": report.quality, "quality_seconds": report.quality_seconds}
        self._history.append(entry)
        self._losses.clear()
        self._last_entry = time.monotonic()
        return report

    def _preview(self, state: FitState) -> Scores:
        """Write the preview of the image's middle; returns its scores where there is a reference."""
        start = time.monotonic()
        noisy = remove_outliers(center_crop(self._pixels, PREVIEW_SIDE), impulses=self._config.recipe.removes_impulses)
        preview = np.empty_like(noisy)
        restore_outliers(predict(state.weights(), noisy, self._config.recipe), noisy, preview)
        preview += np.float32(self._config.noisy_share) * (noisy - preview)
        if self._on_preview is not None:
            self._on_preview(noisy, preview)
        atomic_write(self._run.preview_path, png_of(picture_of(preview)), elsewhere())
        self._last_preview = time.monotonic()
        self._preview_seconds = self._last_preview - start
        if self._reference is None:
            return Scores()
        result, clean = (
            from_black_to_white(pixels, self._black_and_white)
            for pixels in (preview, center_crop(self._reference, PREVIEW_SIDE))
        )
        if self._missing is not None:
            # SSIM compares windows, which would hold pixels without a clean value.
            measured = np.logical_not(center_crop(self._missing, PREVIEW_SIDE))
            return Scores(psnr(result[:, measured], clean[:, measured]) if measured.any() else None)
        # SSIM needs sides of at least 11 pixels.
        return Scores(psnr(result, clean), ssim(result, clean) if min(clean.shape[1:]) >= 11 else None)


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that they never end a step halfway.

    A second signal raises KeyboardInterrupt at once. Outside the main thread signals cannot be
    caught, and the event is never set. A handler of a program that Python is embedded in stays.
    """
    event = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Python cannot put back a handler that it has not set.
    if not in_main_thread or None in map(signal.getsignal, signals):
        yield event
        return

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, handle) for number in signals}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
