"""Measure the time of a training step on a GPU, as a CUDA graph and operator by operator.

    python -m benchmarks.gpu_fit -o benchmarks/results/gpu-fit.json

Each recipe fits an image of 256x256. In each round, every recipe runs its steps both as a graph and as operators. Times
are of whole steps, including examples, masks and averages of weights, after the graph was recorded. Without a GPU, the
program prints one line and ends with exit code 4.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.gpu import gpu_fields, require_cuda
from benchmarks.product import start_weights_of
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.bench.cases import rotated
from self2self.bench.measure import spread
from self2self.errors import EngineUnavailableError
from self2self.train import fit as fitting
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.steps import GraphStepRunner, StepRunner, step_runner_for

SIZE = (256, 256)
STEP_RUNNERS: dict[str, Callable[..., StepRunner]] = {"graph": step_runner_for, "operators": StepRunner}
UNTIMED_STEPS = GraphStepRunner.WARM_UP + 2
"""First steps of a fit, which are not timed: the graph is recorded in them."""


def recipes(steps: int) -> dict[str, Recipe]:
    """Return the timed recipes, by their names in the result."""
    return {name: replace(recipe_for(name), steps=steps) for name in ("fast", "paper")}


def seconds_of_steps(
    image: np.ndarray[Any, Any], recipe: Recipe, step_runner: Callable[..., StepRunner], device: str
) -> list[float]:
    """Return the seconds of each step after the first `UNTIMED_STEPS`."""
    import torch

    start = start_weights_of(recipe, len(image))
    state = fitting.new_state(recipe, image.shape[0], 0, torch.device(device), start)
    # The fit reads the loss of a step before it calls on_step, so the GPU has finished the step by then.
    ends: list[float] = []
    with patch.object(fitting, "step_runner_for", step_runner):
        fitting.fit(image, recipe, state, on_step=lambda _: ends.append(time.perf_counter()))
    return np.diff(ends)[UNTIMED_STEPS:].tolist()


def measure(chosen: Mapping[str, Recipe], rounds: int, device: str = "cuda") -> list[dict[str, Any]]:
    """Return a row for each recipe: milliseconds of a step as a graph and as operators, and their ratio."""
    rng = np.random.default_rng(0)
    squares = np.kron(rng.uniform(0.2, 0.8, (3, 16, 16)), np.ones((1, 16, 16)))
    image = np.clip(squares + rng.normal(0, 0.1, (3, *SIZE)), 0, 1).astype(np.float32)
    cases = [(name, way) for name in chosen for way in STEP_RUNNERS]
    seconds: dict[tuple[str, str], list[float]] = {case: [] for case in cases}
    for index in range(rounds + 1):
        for name, way in rotated(cases, index):
            found = seconds_of_steps(image, chosen[name], STEP_RUNNERS[way], device)
            # The first round loads kernels, so it does not count.
            if index:
                seconds[name, way].append(float(np.median(found)))
    return [
        {
            "recipe": name,
            "milliseconds_per_step": {
                way: spread([1e3 * value for value in seconds[name, way]]) for way in STEP_RUNNERS
            },
            "ratio": spread(
                [slow / quick for slow, quick in zip(seconds[name, "operators"], seconds[name, "graph"], strict=True)]
            ),
        }
        for name in chosen
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code."""
    parser = result_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60, help="steps of each fit")
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
    result = {
        **provenance("gpu_fit"),
        "gpu": gpu_fields(gpu),
        "size": SIZE,
        "rounds": args.rounds,
        "rows": rows,
    }
    write_result(args.output, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
