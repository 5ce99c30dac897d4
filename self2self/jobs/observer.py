"""Callbacks through which a job reports its progress and its notes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from self2self.errors import InterruptedRun

if TYPE_CHECKING:
    from self2self.runtime.ensemble.moments import PassSums
    from self2self.train.session import FitReport, OnPreview


def _ignore(*_: object) -> None:
    return None


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Observer:
    """Callbacks of a job; each does nothing unless it is given.

    Attributes:
        note: gets one line that the user should know.
        fit_step: called after every training step.
        passes_started: called before the passes over an image or a page with its height and width in pixels.
        pass_run: called after every run of the engine with the sums so far and the expected total number of passes.
        benchmark_step: called before every step of a benchmark with its name, the steps done and the total of steps.
        image_started: called before each of several images with its path, its number, from 1, and the number of images.
        page_started: called before every page of a stack with its number, from 1, and the number of pages.
        build_step: called from any thread while TensorRT builds an engine, with the phase, its steps done and the total
            of its steps.
        preview: gets the middle of the image, noisy and as the fit predicts it now, float32 (C, h, w) each, about every
            second; None leaves more of the time to the fit.
        cancelled: asked after every training step and every run of the engine, from the thread of the job; true ends
            the job with an `InterruptedRun`.
    """

    note: Callable[[str], None] = _ignore
    fit_step: Callable[[FitReport], None] = _ignore
    passes_started: Callable[[int, int], None] = _ignore
    pass_run: Callable[[PassSums, int], None] = _ignore
    benchmark_step: Callable[[str, int, int], None] = _ignore
    image_started: Callable[[Path, int, int], None] = _ignore
    page_started: Callable[[int, int], None] = _ignore
    build_step: Callable[[str, int, int], None] = _ignore
    preview: OnPreview | None = None
    cancelled: Callable[[], bool] = _never

    def calibration_step(self, step: int) -> None:
        """End the job after step `step` of a calibration if it is cancelled.

        Raises:
            InterruptedRun: the job is cancelled.
        """
        self.raise_if_cancelled(f"step {step} of the calibration")

    def raise_if_cancelled(self, where: str) -> None:
        """End the job if it is cancelled.

        Args:
            where: what has just been done, for the message, such as "pass 20".

        Raises:
            InterruptedRun: the job is cancelled.
        """
        if self.cancelled():
            raise InterruptedRun(f"cancelled after {where}.")
