"""Measure the cost of the image quality term: seconds of a training step, and bytes held for its gradient.

    python -m benchmarks.iqa_cost -o benchmarks/results/iqa-cost.json
    python -m benchmarks.iqa_cost --rounds 1 --steps 2 --recipe fast -o RESULT.json

In each round, a fit without the term and a fit with it run on a crop of scikit-image's `astronaut` with white Gaussian
noise of sigma 25, from random weights. The first step of each fit does not count. The weights of PaQ-2-PiQ are random
unless `--weights FILE` is given: weights change the score, not the cost. Processor seconds are the sum over all
threads, which depends little on the load of the machine.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pairs import cut, sample
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.train.fit import FitState, FloatArray, QualityTerm, fit, new_state
from self2self.train.iqa import IqaTerm, random_paq2piq
from self2self.train.iqa_weights import find_weights
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.synthetic_noise import add_noise

CPU = torch.device("cpu")
CROP = {"top": 30, "left": 160, "size": 128}


def seconds_of_steps(pixels: FloatArray, recipe: Recipe, term: QualityTerm | None) -> list[tuple[float, float]]:
    """Return wall-clock and processor seconds of every step except the first."""
    times = []

    def on_step(_: FitState) -> None:
        times.append((time.perf_counter(), time.process_time()))

    fit(pixels, recipe, new_state(recipe, pixels.shape[0], 0, CPU), quality=term, on_step=on_step)
    return [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(times)]


def held_bytes(pixels: FloatArray, recipe: Recipe, term: QualityTerm | None) -> int:
    """Count the bytes of all tensors that one step keeps for its gradients: weights included, each storage once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fit(pixels, replace(recipe, steps=1), new_state(recipe, pixels.shape[0], 0, CPU), quality=term)
    return sum(storages.values())


def measure(pixels: FloatArray, recipe: Recipe, term: IqaTerm, rounds: int) -> dict[str, Any]:
    """Return one row: the costs of a step with and without the term."""
    steps: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
    for _ in range(rounds):
        steps["without"] += seconds_of_steps(pixels, recipe, None)
        steps["with"] += seconds_of_steps(pixels, recipe, term)
    term.summarise()
    row: dict[str, Any] = {"recipe": recipe.name, "term_seconds": term.step_seconds}
    for index, clock in enumerate(("seconds", "cpu_seconds")):
        plain, scored = (median(step[index] for step in steps[name]) for name in ("without", "with"))
        row |= {f"step_{clock}": plain, f"step_{clock}_with_term": scored, f"{clock}_ratio": round(scored / plain, 3)}
    plain_bytes = held_bytes(pixels, recipe, None)
    return row | {"held_bytes": plain_bytes, "held_bytes_with_term": held_bytes(pixels, recipe, term)}


def main() -> None:
    """Measure, write and print."""
    parser = result_parser(__doc__)
    parser.add_argument("--recipe", action="append", help="may be repeated; default: fast and paper")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="counted steps of each fit")
    parser.add_argument("--weights", type=Path, help="weights of PaQ-2-PiQ; default: random")
    options = parser.parse_args()
    pixels = add_noise(cut(sample("astronaut"), CROP), "gaussian", 25, np.random.default_rng(0))
    with tempfile.TemporaryDirectory() as folder:
        path = options.weights or Path(folder) / "random.pth"
        if options.weights is None:
            network: Any = random_paq2piq(CPU).net
            torch.save(network.state_dict(), path)
        term = IqaTerm(find_weights(path, print), CPU)
    rows = []
    for name in options.recipe or ["fast", "paper"]:
        recipe = replace(recipe_for(name, "scratch"), steps=options.steps + 1)
        rows.append(measure(pixels, recipe, term, options.rounds))
        print(json.dumps(rows[-1]), flush=True)
    values = {
        **provenance("iqa_cost"),
        "image": {"sample": "astronaut", **CROP, "noise": "gaussian", "sigma": 25},
        "weights": "random" if options.weights is None else find_weights(options.weights, print).sha256,
        "rounds": options.rounds,
        "steps": options.steps,
        "rows": rows,
    }
    write_result(options.output, values)


if __name__ == "__main__":
    main()
