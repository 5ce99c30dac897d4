"""What all calls of this room share: their turn on the processors, cancelling, progress, notes, and the run folder."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from self2self.arrays.progress import Bars, ProgressSteps, ShowProgress
from self2self.errors import InterruptedRun, UsageError, as_argument, speaking, words
from self2self.jobs.observer import Observer
from self2self.machine.files import scratch_folder
from self2self.machine.system import torch_spins

if TYPE_CHECKING:
    from self2self.jobs.fit_config import FitOptions
    from self2self.runtime.ensemble.options import EnsembleOptions

Options = TypeVar("Options", "FitOptions", "EnsembleOptions")

_turn = threading.Lock()
_POLL_SECONDS = 0.05

ARGUMENTS = {"axes", "channel_axis", "engine", "neighbours", "nodata", "passes", "run", "seed", "sigma", "strength"}
"""Arguments of `denoise` that stand for options of the command."""
SPIN_WARNING = (
    "PyTorch was loaded before self2self, so its threads spin while they wait, which can triple the processor time of "
    "a fit. Import self2self first, or start Python with GOMP_SPINCOUNT=10000."
)


def as_array_argument(option: str, value: str) -> str:
    """As `errors.as_argument`, where `denoise` and `fit` differ from `FitOptions` and `EnsembleOptions`."""
    from self2self.jobs.fit_config import FitOptions
    from self2self.runtime.ensemble.options import EnsembleOptions

    if option == "--force":
        # They never replace a fit.
        return "another folder"
    argument = as_argument(option, value)
    name = argument.partition("=")[0]
    # Their own sigma is in the units of the array.
    if name not in ARGUMENTS or (name == "sigma" and value):
        for options in (FitOptions, EnsembleOptions):
            if name in {known.name for known in fields(options)}:
                return f"{options.__name__}({argument})"
    return argument


@dataclass(slots=True)
class Call:
    """One call of `denoise`, `fit` or `Model.predict`.

    Attributes:
        cancel: the event that ends the call; None for none.
        progress: whether to show bars, or the function that gets the progress.
        notes: lines that the user should know, each once.
    """

    cancel: threading.Event | None = None
    progress: ShowProgress = False
    notes: list[str] = field(default_factory=list)
    _steps: ProgressSteps | None = None

    @contextmanager
    def observed(self) -> Iterator[Observer]:
        """Wait for the turn of this call, and yield the observer of its jobs.

        Each call uses all processors, and PyTorch's number of threads belongs to the whole process. So calls from
        several threads take turns, and each has the bits and nearly the time that it has alone.

        Raises:
            InterruptedRun: the call is cancelled.
            EngineUnavailableError: bars are asked for, and tqdm is missing.
        """
        stack = ExitStack()
        bars = Bars() if self.progress is True else None
        show = bars.show if bars is not None else self.progress or None
        while not _turn.acquire(timeout=_POLL_SECONDS):
            if self._is_cancelled():
                raise InterruptedRun("cancelled before its turn; another call is at work.")
        try:
            _warn_of_spinning()
            stack.enter_context(speaking(as_array_argument if words() is as_argument else words()))
            observer = Observer(note=self._note, cancelled=self._is_cancelled)
            if callable(show):
                self._steps = steps = ProgressSteps(show)
                observer = replace(
                    observer, fit_step=steps.fit_step, pass_run=steps.pass_run, page_started=steps.page_started
                )
            yield observer
        finally:
            stack.close()
            _turn.release()
            if bars is not None:
                bars.close()

    def part_started(self, number: int, parts: int) -> None:
        """Say that the call goes on with channel `number`, from 1, of `parts` that are fitted apart."""
        if self._steps is not None:
            self._steps.part_started(number, parts)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _is_cancelled(self) -> bool:
        return self.cancel is not None and self.cancel.is_set()


def with_given(options: Options, **values: Any) -> Options:
    """A copy of `options` with those of the arguments that the user gave: the ones that are not None.

    Raises:
        UsageError: `options` are none, or an argument has a wrong type.
    """
    if not is_dataclass(options) or isinstance(options, type):
        raise UsageError(
            f"options are of type {type(options).__name__}; expected self2self.FitOptions(...) for the fit, and "
            "self2self.EnsembleOptions(...) for the passes."
        )
    return replace(options, **{name: value for name, value in values.items() if value is not None})


@contextmanager
def run_folder_for(run: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The run folder of a call: `run`, or a temporary one that is removed in the end.

    A fit keeps its state, and an engine reads its model, in files; none of them outlives the call unless it is asked
    for.

    Raises:
        InterruptedRun: the call is cancelled.
    """
    if run is not None:
        yield Path(run)
        return
    with scratch_folder() as folder:
        try:
            yield folder / "run"
        except InterruptedRun:
            raise InterruptedRun("cancelled; nothing is kept. To go on later, give a folder: run=...") from None


def _warn_of_spinning() -> None:
    if torch_spins():
        warnings.warn(SPIN_WARNING, RuntimeWarning, stacklevel=5)
