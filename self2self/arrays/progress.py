"""The progress of a call of this room: for the user's own display, or as bars of tqdm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from self2self.errors import EngineUnavailableError
from self2self.runtime.ensemble.moments import passes_of_image

if TYPE_CHECKING:
    from self2self.runtime.ensemble.moments import PassSums
    from self2self.train.session import FitReport


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call of `denoise`, `fit` or `Model.predict` is.

    Attributes:
        phase: ``"fit"`` while the network learns, ``"denoise"`` while it predicts.
        done: steps of this fit, or passes over this page, that are done.
        total: how many there will be; of passes, an estimate.
        page: number of the page at work, from 1. One fit for all pages counts as page 1.
        pages: number of pages.
        part: number of the channel at work, from 1, of those that are fitted apart.
        parts: number of channels that are fitted apart; 1 where all are denoised together.
    """

    phase: Literal["fit", "denoise"]
    done: int
    total: int
    page: int = 1
    pages: int = 1
    part: int = 1
    parts: int = 1

    @property
    def where(self) -> str:
        """The phase, channel and page for people, such as ``"denoise page 2 of 3"``."""
        part = f" channel {self.part} of {self.parts}" if self.parts > 1 else ""
        page = f" page {self.page} of {self.pages}" if self.pages > 1 else ""
        return self.phase + part + page


ShowProgress = bool | Callable[[Progress], None]
"""Whether to show bars; or what is called with the progress after every step, in the thread of the call."""


class ProgressSteps:
    """The callbacks of an `Observer` that tell the progress.

    Args:
        show: is called with the progress.
    """

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self._at = Progress("fit", 0, 0)

    def part_started(self, number: int, parts: int) -> None:
        """The call goes on with channel `number`, from 1."""
        self._at = replace(self._at, page=1, pages=1, part=number, parts=parts)

    def page_started(self, number: int, pages: int) -> None:
        """The call goes on with page `number`, from 1."""
        self._at = replace(self._at, page=number, pages=pages)

    def fit_step(self, report: FitReport) -> None:
        """A step of the fit is done."""
        self._show(replace(self._at, phase="fit", done=report.step, total=report.steps))

    def pass_run(self, moments: PassSums, expected: int) -> None:
        """A run of the engine is done."""
        done, total = passes_of_image(moments, expected)
        self._show(replace(self._at, phase="denoise", done=done, total=max(done, total)))


class Bars:
    """Progress bars of tqdm, in a terminal or a notebook: one at a time, for the fit and for the passes."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise EngineUnavailableError(
                "progress=True: needs tqdm, which is not installed. Install it: pip install 'self2self[progress]'"
            ) from error
        self._make: Any = tqdm
        self._bar: Any = None
        self._name = ""

    def show(self, progress: Progress) -> None:
        """Bring the bar up to date, or begin the next."""
        if self._bar is None or progress.where != self._name:
            self.close()
            unit = " steps" if progress.phase == "fit" else " passes"
            self._name, self._bar = progress.where, self._make(total=progress.total, desc=progress.where, unit=unit)
        self._bar.total = progress.total
        self._bar.update(progress.done - self._bar.n)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
