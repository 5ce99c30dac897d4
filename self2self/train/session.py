"""A fit with everything around it: run folder, checkpoints, history, preview, Ctrl-C."""

from __future__ import annotations

import io
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from self2self.errors import InputError, InterruptedRun, ResourceError, pytorch_memory
from self2self.imaging.metrics import from_black_to_white, psnr, ssim
from self2self.imaging.noise import center_crop
from self2self.imaging.outliers import remove_hot_pixels, restore_outliers
from self2self.machine.files import atomic_write
from self2self.train.checkpoint import load_state, load_weights, save_model, save_state
from self2self.train.fit import FitState, FloatArray, fit, learning_rate, new_state
from self2self.train.iqa import IqaTerm
from self2self.train.prediction import predict
from self2self.train.recipes import INITS
from self2self.train.run_folder import ELSEWHERE, History, Run, RunConfig
from self2self.train.start_weights import start_weights_for_recipe

CHECKPOINT_SECONDS = 20.0
"""Time between checkpoints; a step in progress may add to it, and 30 s are promised."""
HISTORY_SECONDS = 1.0
PREVIEW_SECONDS = 10.0
PREVIEW_SHARE = 0.05
"""Previews and evaluations take at most this share of the time."""
PREVIEW_SIDE = 384


@dataclass(frozen=True, slots=True)
class FitReport:
    """How far a fit is.

    Attributes:
        step, steps: done and to do.
        loss: mean over the steps since the last report; None where none has been taken.
        seconds: since the fit was started or continued.
        psnr, ssim: against the clean reference, of a few passes; None where it was not measured.
        quality: mean score of the image quality term, 0 to 100, since the last report; None without the term.
        quality_seconds: what the term adds to a step, gradient included.
    """

    step: int
    steps: int
    loss: float | None
    seconds: float
    psnr: float | None = None
    ssim: float | None = None
    quality: float | None = None
    quality_seconds: float | None = None


def start_weights(config: RunConfig) -> dict[str, torch.Tensor] | None:
    """The weights that the fit starts from; None for random ones.

    Raises:
        InputError, FileFormatError: the run to start from cannot be read.
    """
    if config.start in INITS:
        return start_weights_for_recipe(config.recipe, config.channels)
    weights, _, _ = load_weights(Run(Path(config.start)).model_path)
    return weights


@contextmanager
def memory_of_fit() -> Iterator[None]:
    """Tell in one line that memory ran out, also beside the steps: for the network, what is learnt from, or a preview.

    Raises:
        ResourceError: it did.
    """
    try:
        with pytorch_memory():
            yield
    except MemoryError as error:
        raise ResourceError(
            "out of memory in the fit. Close other programs, or use --recipe fast, or --device cpu if it was the GPU's."
        ) from error


@memory_of_fit()
def fit_run(
    run: Run,
    config: RunConfig,
    pixels: FloatArray,
    *,
    resume: bool = False,
    reference: FloatArray | None = None,
    black_and_white: tuple[float, float] = (0.0, 1.0),
    on_report: Callable[[FitReport], None] | None = None,
    go_on: str = "Give the same command with --resume to go on.",
) -> FitReport:
    """Fit `pixels` into the run folder `run`.

    Args:
        run: the folder; made if needed. Without `resume`, what an earlier fit left is removed.
        config: image, recipe, seed, device.
        pixels: float32 (C, H, W).
        resume: go on from the folder's state.
        reference: clean image of the same shape, for the history alone.
        black_and_white: in units of the pixels, for its scores.
        on_report: called after every step.
        go_on: what a user who interrupts the fit is told to do, one sentence.

    Raises:
        InterruptedRun: Ctrl-C or SIGTERM; the state is saved.
        UsageError: another command is fitting into the folder.
        Self2SelfError: anything else that a user can cause; the last checkpoint is on disk.
    """
    device = torch.device(config.device)
    recipe = config.recipe
    if reference is not None and reference.shape != pixels.shape:
        raise InputError(
            f"--reference has shape {reference.shape}; the image has {pixels.shape}. They have to be equal."
        )
    start = None if resume else start_weights(config)
    quality = None if config.iqa is None else IqaTerm(config.iqa, device)
    state = new_state(recipe, config.channels, config.seed, device, start)
    with run.locked():
        history = History(run.history_path)
        if resume:
            load_state(run, state)
        else:
            # In this order: a kill in between leaves a fit that has not begun, never old weights beside new settings.
            run.clear()
            run.create(config)
        history.restart(state.step)
        reporter = Reporter(run, config, pixels, reference, black_and_white, history, on_report, quality)
        with interrupts() as interrupted:

            def on_step(state: FitState) -> None:
                reporter.step(state)
                if interrupted.is_set() and state.step < recipe.steps:
                    save_state(run, state)
                    raise InterruptedRun(
                        f"interrupted after step {state.step} of {recipe.steps}; it is saved in {run.folder}. {go_on}"
                    )

            fit(pixels, recipe, state, seed=config.seed, quality=quality, on_step=on_step)
            save_state(run, state)
            save_model(run.model_path, state.weights(), recipe, config.contract(state.step))
            report = reporter.finish(state)
            if interrupted.is_set():
                raise InterruptedRun(f"interrupted; the fit is finished and saved in {run.folder}. {go_on}")
        return report


class Reporter:
    """Writes history, previews and checkpoints while a fit runs."""

    def __init__(
        self,
        run: Run,
        config: RunConfig,
        pixels: FloatArray,
        reference: FloatArray | None,
        black_and_white: tuple[float, float],
        history: History,
        on_report: Callable[[FitReport], None] | None,
        quality: IqaTerm | None = None,
    ) -> None:
        self._run = run
        self._config = config
        self._pixels = pixels
        self._reference = reference
        self._ends = black_and_white
        self._history = history
        self._on_report = on_report
        self._quality = quality
        self._losses: list[float] = []
        self._start = self._checkpointed = self._looked = time.monotonic()
        # The first step is always written, so that a curve has a beginning.
        self._written = -math.inf
        self._look_seconds = 0.0

    def step(self, state: FitState) -> None:
        """Do what is due after a step."""
        now = time.monotonic()
        self._losses.append(state.loss)
        scores: tuple[float | None, float | None] = (None, None)
        if now - self._looked > max(PREVIEW_SECONDS, self._look_seconds / PREVIEW_SHARE):
            scores = self._look(state)
        # `finish` writes the last step, with its scores.
        last = state.step == self._config.recipe.steps
        if not last and (scores[0] is not None or now - self._written > HISTORY_SECONDS):
            self._write(state, scores)
        if now - self._checkpointed > CHECKPOINT_SECONDS:
            save_state(self._run, state)
            self._checkpointed = time.monotonic()
        if self._on_report is not None:
            self._on_report(self._report(state, (None, None)))

    def finish(self, state: FitState) -> FitReport:
        """Last preview and history entry."""
        return self._write(state, self._look(state))

    def _report(self, state: FitState, scores: tuple[float | None, float | None]) -> FitReport:
        loss = float(np.mean(self._losses)) if self._losses else None if math.isnan(state.loss) else state.loss
        seconds = time.monotonic() - self._start
        return FitReport(state.step, self._config.recipe.steps, loss, seconds, *scores)

    def _write(self, state: FitState, scores: tuple[float | None, float | None]) -> FitReport:
        report = self._report(state, scores)
        if self._quality is not None:
            self._quality.look()
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
        self._written = time.monotonic()
        return report

    def _look(self, state: FitState) -> tuple[float | None, float | None]:
        """Write the preview; the scores when there is a reference."""
        start = time.monotonic()
        noisy = remove_hot_pixels(center_crop(self._pixels, PREVIEW_SIDE))
        clean = np.empty_like(noisy)
        restore_outliers(predict(state.weights(), noisy, self._config.recipe), noisy, clean)
        atomic_write(self._run.preview_path, encode_preview(clean), ELSEWHERE)
        self._looked = time.monotonic()
        self._look_seconds = self._looked - start
        if self._reference is None:
            return None, None
        found, wanted = (
            from_black_to_white(pixels, self._ends) for pixels in (clean, center_crop(self._reference, PREVIEW_SIDE))
        )
        return psnr(found, wanted), ssim(found, wanted) if min(wanted.shape[1:]) >= 11 else None


def encode_preview(pixels: FloatArray) -> bytes:
    """float32 (C, H, W) to an 8-bit PNG; what is beyond [0, 1], such as stars, is shown as its ends."""
    from PIL import Image

    levels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    if levels.shape[0] == 1:
        picture = Image.fromarray(levels[0])
    elif levels.shape[0] == 3:
        picture = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    else:
        picture = Image.merge("CMYK", [Image.fromarray(plane) for plane in levels]).convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that a step is never cut in half.

    A second Ctrl-C raises KeyboardInterrupt at once. Outside the main thread signals cannot be
    caught, and the event is never set.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
