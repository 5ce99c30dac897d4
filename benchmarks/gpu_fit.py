"""Time of a fit's step on a GPU, as a CUDA graph and operator by operator.

    python -m benchmarks.gpu_fit -o benchmarks/results/gpu-fit.json

Each recipe fits an image of 256x256; in each round every recipe takes its steps in both ways, in turn. Times are of
whole steps, examples, masks and averages of weights included, once the graph is there. Without a GPU: one line and exit
code 4.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.gpu import require_cuda
from benchmarks.results_file import write_result
from self2self.bench.cases import rotated
from self2self.bench.environment import environment, shown_command
from self2self.bench.measure import spread
from self2self.errors import EngineUnavailableError
from self2self.train import fit as fitting
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.start_weights import start_weights_for_recipe
from self2self.train.steps import GraphStepRunner, StepRunner, step_runner_for

SIZE = (256, 256)
WAYS: dict[str, Callable[..., StepRunner]] = {"graph": step_runner_for, "operators": StepRunner}
UNTIMED = GraphStepRunner.WARM_UP + 2


def recipes(steps: int) -> dict[str, Recipe]:
    """What is timed, by its name in the result."""
    return {name: replace(recipe_for(name), steps=steps) for name in ("fast", "paper")}


def seconds_of_steps(
    image: np.ndarray[Any, Any], recipe: Recipe, way: Callable[..., StepRunner], device: str
) -> list[float]:
    """Seconds of each step after the first `UNTIMED`."""
    import torch

    start = start_weights_for_recipe(recipe, image.shape[0]) if recipe.init == "natural" else None
    state = fitting.new_state(recipe, image.shape[0], 0, torch.device(device), start)
    # The loss of a step is read before it is told, so the step is over then.
    told: list[float] = []
    with patch.object(fitting, "step_runner_for", way):
        fitting.fit(image, recipe, state, on_step=lambda _: told.append(time.perf_counter()))
    return np.diff(told)[UNTIMED:].tolist()


def measure(chosen: Mapping[str, Recipe], rounds: int, device: str = "cuda") -> list[dict[str, Any]]:
    """A row for each recipe: milliseconds of a step in both ways, and their ratio."""
    rng = np.random.default_rng(0)
    squares = np.kron(rng.uniform(0.2, 0.8, (3, 16, 16)), np.ones((1, 16, 16)))
    image = np.clip(squares + rng.normal(0, 0.1, (3, *SIZE)), 0, 1).astype(np.float32)
    cases = [(name, way) for name in chosen for way in WAYS]
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for index in range(rounds + 1):
        for name, way in rotated(cases, index):
            found = seconds_of_steps(image, chosen[name], WAYS[way], device)
            # The first round loads kernels.
            if index:
                seconds[name, way].append(float(np.median(found)))
    return [
        {
            "recipe": name,
            "milliseconds_per_step": {way: spread([1e3 * value for value in seconds[name, way]]) for way in WAYS},
            "ratio": spread(
                [slow / quick for slow, quick in zip(seconds[name, "operators"], seconds[name, "graph"], strict=True)]
            ),
        }
        for name in chosen
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="of each fit")
    args = parser.parse_args(arguments)
    try:
        gpu = require_cuda()
    except EngineUnavailableError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    rows = measure(recipes(args.steps), args.rounds)
    for row in rows:
        times = {way: found["median"] for way, found in row["milliseconds_per_step"].items()}
        print(
            f"{row['recipe']:6} graph {times['graph']:6.2f} ms, operators {times['operators']:6.2f} ms a step, "
            f"ratio {row['ratio']['median']:.1f}"
        )
    described = {"name": gpu.name, "capability": gpu.capability, "memory_bytes": gpu.memory_bytes}
    head = {"command": shown_command("python -m benchmarks.gpu_fit"), **environment(), "gpu": described}
    write_result(args.output, {**head, "size": SIZE, "rounds": args.rounds, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
