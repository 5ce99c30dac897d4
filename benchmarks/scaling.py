"""Measure whether the time of an ensemble is proportional to the number of pixels: seconds per pixel and pass.

    python -m benchmarks.scaling -o benchmarks/results/scaling.json
    python -m benchmarks.scaling --side 64 --side 128 --recipe fast --rounds 2 -o RESULT.json

The network of `--recipe` with random weights runs over squares of noise as in `infer`, which chooses the batch and cuts
an image that does not fit into memory into tiles; the time includes the overlap of the tiles. All sizes are prepared
and warmed up first. Then they take turns in rounds; the order rotates. A small size runs as many passes as it needs for
the pixels of one pass of the largest size, within `--least` and `--passes`. The minimum exists because the first pass
of an ensemble is slower: it uses memory for the first time. The time includes masks, passes and sums.

The figure of a size is the median over the rounds of its time, divided by the geometric mean of all sizes in the same
round, because the speed of a machine changes from minute to minute. `spread` is the largest figure divided by the
smallest, less one.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np

from benchmarks.results_file import provenance, result_parser, write_result
from self2self.bench.benchmark_model import random_model
from self2self.bench.cases import rotated
from self2self.bench.measure import idle, spread
from self2self.cli.options import parse_memory
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.engine_holder import EngineHolder
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.model import Model
from self2self.train.recipes import recipe_for

SIDES = (128, 256, 512, 1024, 2048)


class Square:
    """An ensemble over a square of noise, whose engine stays prepared between the rounds."""

    def __init__(self, model: Model, side: int, engine: str, batch: int | None, memory: int | None) -> None:
        pixels = np.random.default_rng(0).random((model.contract.channels, side, side), dtype=np.float32)
        self.engine_holder = EngineHolder()
        self._side = side
        self._options = EnsembleOptions(
            engine=engine, balanced=False, flips=False, batch=batch, memory=memory, uncertainty=False
        )
        self._run = partial(denoise_pixels, model, pixels, engine_holder=self.engine_holder)

    def timing(self, passes: int) -> dict[str, Any]:
        """Run one ensemble; return nanoseconds per pixel and pass, engine, batch and number of tiles."""
        done = self._run(replace(self._options, passes=passes))
        seconds = sum(done.seconds[part] for part in ("masks", "passes", "reduce"))
        nanoseconds = 1e9 * seconds / (passes * self._side**2)
        return {"nanoseconds": nanoseconds, "engine": done.engine, "batch": done.batch, "tiles": done.tiles}


def passes_for(side: int, largest: int, least: int, most: int) -> int:
    """Return the passes of size `side` that have the pixels of one pass of `largest`, within `least` and `most`."""
    return int(max(least, min(most, (largest / side) ** 2)))


def measure(
    model: Model, passes: dict[int, int], args: argparse.Namespace, memory: int | None
) -> dict[int, list[dict[str, Any]]]:
    """Run all rounds; return the timings of each side, which runs the passes that `passes` gives."""
    sides = list(passes)
    timings: dict[int, list[dict[str, Any]]] = {side: [] for side in sides}
    with ExitStack() as stack:
        squares = {side: Square(model, side, args.engine, args.batch, memory) for side in sides}
        for side, square in squares.items():
            stack.enter_context(square.engine_holder)
            square.timing(1)
            print(f"prepared {side}", flush=True)
        for number in range(args.rounds):
            for side in rotated(sides, number):
                idle()
                timings[side].append(squares[side].timing(passes[side]))
                print(
                    f"round {number} {side:5} {timings[side][-1]['nanoseconds']:9.1f} ns a pixel and pass", flush=True
                )
    return timings


def result_rows(timings: dict[int, list[dict[str, Any]]], passes: dict[int, int], rounds: int) -> list[dict[str, Any]]:
    """Compute a row for each side."""
    means = [geometric_mean([done[number]["nanoseconds"] for done in timings.values()]) for number in range(rounds)]
    return [
        {
            "side": side,
            "passes": passes[side],
            "engine": done[0]["engine"],
            "batches": sorted({entry["batch"] for entry in done}),
            "tiles": done[0]["tiles"],
            "nanoseconds_per_pixel_pass": spread([entry["nanoseconds"] for entry in done]),
            "of_the_round": spread([entry["nanoseconds"] / mean for entry, mean in zip(done, means, strict=True)]),
        }
        for side, done in timings.items()
    ]


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--side", type=int, action="append", help=f"may be repeated; default: {SIDES}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=16, help="largest number of passes, for the smallest sizes")
    parser.add_argument("--least", type=int, default=4, help="smallest number of passes, for the largest sizes")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch", type=int, help="passes per run; default: as infer chooses")
    parser.add_argument("--memory", help="as for infer; default: half of the free memory")
    args = parser.parse_args()
    sides = sorted(set(args.side or SIDES))
    memory = parse_memory(args.memory)
    passes = {side: passes_for(side, sides[-1], args.least, args.passes) for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(recipe_for(args.recipe), Path(folder)).model
        timings = measure(model, passes, args, memory)
    rows = result_rows(timings, passes, args.rounds)
    medians = [row["of_the_round"]["median"] for row in rows]
    for row in rows:
        print(
            f"{row['side']:5} {row['tiles']:3} tiles {row['nanoseconds_per_pixel_pass']['median']:9.1f} ns, "
            f"{row['of_the_round']['median']:.3f} of the round"
        )
    result = {
        **provenance("scaling"),
        "recipe": args.recipe,
        "rounds": args.rounds,
        "spread": max(medians) / min(medians) - 1,
        "rows": rows,
    }
    print(f"the largest is {100 * result['spread']:.1f} % more than the least")
    write_result(args.output, result)


if __name__ == "__main__":
    main()
