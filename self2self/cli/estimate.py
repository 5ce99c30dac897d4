"""Tell once, before most of the time is gone, how long a phase of a command will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from self2self.jobs import Observer
    from self2self.runtime.ensemble.moments import PassSums
    from self2self.train.session import FitReport

MEASURED_SECONDS = 3.0
"""Time of a phase after which its speed is known well enough."""
LONG_SECONDS = 30.0
"""What is over sooner needs no estimate."""


@dataclass(slots=True)
class _Phase:
    """A phase of a command: when it began, how much was done then and last, and whether its estimate was told."""

    start: float
    done: int
    last: int
    told: bool = False


class Estimate:
    """Estimates from the measured speed of the steps, the passes, the pages and the images.

    Args:
        note: gets one line for each phase that takes long.
        clock: returns seconds.
    """

    def __init__(self, note: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._note = note
        self._clock = clock
        self._phases: dict[str, _Phase] = {}

    def watching(self, observer: Observer) -> Observer:
        """A copy of `observer` whose callbacks are watched."""
        from self2self.runtime.ensemble.moments import passes_of_image

        def fit_step(report: FitReport) -> None:
            self.progress("the fit", report.step, report.steps)
            observer.fit_step(report)

        def pass_run(moments: PassSums, passes: int) -> None:
            self.progress("the passes", *passes_of_image(moments, passes))
            observer.pass_run(moments, passes)

        def page_started(page: int, pages: int) -> None:
            self.progress("the pages", page - 1, pages)
            observer.page_started(page, pages)

        def image_started(path: Path, number: int, images: int) -> None:
            self.progress("the images", number - 1, images)
            observer.image_started(path, number, images)

        return replace(
            observer, fit_step=fit_step, pass_run=pass_run, page_started=page_started, image_started=image_started
        )

    def progress(self, what: str, done: int, total: int) -> None:
        """Record that `done` of `total` parts of a phase are done; the first call is its beginning.

        Where no more is done than before, the phase has begun again, as for the next page of a stack.
        """
        now = self._clock()
        phase = self._phases.setdefault(what, _Phase(now, done, done))
        if done <= phase.last:
            phase.start, phase.done = now, done
        phase.last = done
        elapsed = now - phase.start
        if phase.told or done <= phase.done or elapsed < MEASURED_SECONDS:
            return
        phase.told = True
        left = (total - done) * elapsed / (done - phase.done)
        if left >= LONG_SECONDS:
            self._note(f"{what} will take {in_words(left)} more.")


def in_words(seconds: float) -> str:
    """A time as people say it: ``about 40 seconds``, ``about 4 minutes``, ``about 2.5 hours``."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} seconds"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3600:.1f} hours"
