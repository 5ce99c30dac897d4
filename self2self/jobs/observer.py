"""Whom a job tells how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from self2self.runtime.ensemble.moments import Moments
    from self2self.train.session import FitReport


def _ignore(*_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Observer:
    """Callbacks of a job; each does nothing unless it is given.

    Attributes:
        note: something the user should know, one line.
        fit_step: after every training step.
        pass_run: after every run of the engine, with the number of passes that are expected in all.
        benchmark_step: before every step of a benchmark: what comes, steps done, steps in all.
        image_started: before every image of several: its path, its number, from 1, and how many there are.
        page_started: before every page of a stack: its number, from 1, and how many there are.
        build_step: while TensorRT builds an engine: the phase, its steps done and all its steps; from any thread.
    """

    note: Callable[[str], None] = _ignore
    fit_step: Callable[[FitReport], None] = _ignore
    pass_run: Callable[[Moments, int], None] = _ignore
    benchmark_step: Callable[[str, int, int], None] = _ignore
    image_started: Callable[[Path, int, int], None] = _ignore
    page_started: Callable[[int, int], None] = _ignore
    build_step: Callable[[str, int, int], None] = _ignore
