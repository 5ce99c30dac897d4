"""Measure the time of a fit, which can be interrupted and continued."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.product import Weights
from self2self.train.checkpoint import load_state, save_state
from self2self.train.fit import FitState, FloatArray, fit, new_state
from self2self.train.recipes import Recipe
from self2self.train.run_folder import Run

SEED = 0


@dataclass
class Stopwatch:
    """Wall-clock and processor seconds of the work between `start` and `pause`.

    Processor seconds are the sum over all threads. Unlike the wall clock, they depend little on the load of the
    machine: they estimate the time of a fit with one thread on a free core.
    """

    wall: float = 0.0
    processor: float = 0.0
    _began: tuple[float, float] = field(default=(0.0, 0.0), init=False)

    def start(self) -> None:
        """Start or continue counting."""
        self._began = time.perf_counter(), time.process_time()

    def pause(self) -> None:
        """Stop counting until the next `start`."""
        self.wall += time.perf_counter() - self._began[0]
        self.processor += time.process_time() - self._began[1]

    def seconds(self, prefix: str = "") -> dict[str, float]:
        """Return the seconds as fields of a result row, with `prefix` before their names."""
        return {f"{prefix}seconds": round(self.wall, 2), f"{prefix}cpu_seconds": round(self.processor, 2)}


def clocked_fit(
    pixels: FloatArray,
    recipe: Recipe,
    start: Weights | None,
    watch: Stopwatch,
    pause_steps: Collection[int] = (),
    on_pause: Callable[[FitState], None] | None = None,
    state_folder: Path | None = None,
    on_restored: Callable[[FitState], None] | None = None,
) -> FitState:
    """Fit `pixels` with seed 0 on the CPU.

    Args:
        pixels: float32 (C, H, W).
        recipe: settings of the fit.
        start: start weights; None for random weights.
        watch: stopwatch to which the seconds of the steps are added.
        pause_steps: steps after which the fit and the watch pause.
        on_pause: called in each pause with the state of the fit.
        state_folder: folder where each pause saves the state; an existing state there is continued.
        on_restored: called with the existing state before the fit continues from it.
    """
    state = new_state(recipe, pixels.shape[0], SEED, torch.device("cpu"), start)
    run = None if state_folder is None else Run(state_folder)
    if run is not None and run.state_path.is_file():
        load_state(run, state)
        if on_restored is not None:
            on_restored(state)

    def on_step(state: FitState) -> None:
        if state.step not in pause_steps:
            return
        watch.pause()
        if on_pause is not None:
            on_pause(state)
        if run is not None:
            run.folder.mkdir(parents=True, exist_ok=True)
            save_state(run, state)
        watch.start()

    watch.start()
    fit(pixels, recipe, state, seed=SEED, on_step=on_step)
    watch.pause()
    return state
