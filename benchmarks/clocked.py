"""A fit whose time is measured, and that can be stopped and goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch

from self2self.train.checkpoint import load_state, save_state
from self2self.train.fit import FitState, FloatArray, fit, new_state
from self2self.train.recipes import Recipe
from self2self.train.run_folder import Run

SEED = 0
Weights = dict[str, torch.Tensor]


@dataclass
class Stopwatch:
    """Wall-clock and processor seconds of what runs while it is not held.

    Processor seconds are those of all threads together: on a busy machine they tell what the wall clock
    cannot, how long a fit takes that has one thread and a core of its own.
    """

    wall: float = 0.0
    processor: float = 0.0
    _began: tuple[float, float] = field(default=(0.0, 0.0), init=False)

    def start(self) -> None:
        """Go on."""
        self._began = time.perf_counter(), time.process_time()

    def hold(self) -> None:
        """Count nothing until the next `start`."""
        self.wall += time.perf_counter() - self._began[0]
        self.processor += time.process_time() - self._began[1]

    def seconds(self, prefix: str = "") -> dict[str, float]:
        """For a row of a result."""
        return {f"{prefix}seconds": round(self.wall, 2), f"{prefix}cpu_seconds": round(self.processor, 2)}


def clocked_fit(
    pixels: FloatArray,
    recipe: Recipe,
    start: Weights | None,
    watch: Stopwatch,
    marks: Collection[int] = (),
    on_mark: Callable[[FitState], None] | None = None,
    keep: Path | None = None,
    on_restored: Callable[[FitState], None] | None = None,
) -> FitState:
    """Fit `pixels` with seed 0 on the CPU.

    Args:
        pixels: float32 (C, H, W).
        recipe: its steps are taken.
        start: weights to start from; None for random ones.
        watch: gets the seconds of the steps alone.
        marks: steps after which the fit is looked at.
        on_mark: called at each mark, while the watch is held.
        keep: folder of the state at the last mark; if it has one, the fit goes on from there.
        on_restored: called before that, with the state that was found.
    """
    state = new_state(recipe, pixels.shape[0], SEED, torch.device("cpu"), start)
    run = None if keep is None else Run(keep)
    if run is not None and run.state_path.is_file():
        load_state(run, state)
        if on_restored is not None:
            on_restored(state)

    def on_step(state: FitState) -> None:
        if state.step not in marks:
            return
        watch.hold()
        if on_mark is not None:
            on_mark(state)
        if run is not None:
            run.folder.mkdir(parents=True, exist_ok=True)
            save_state(run, state)
        watch.start()

    watch.start()
    fit(pixels, recipe, state, seed=SEED, on_step=on_step)
    watch.hold()
    return state
