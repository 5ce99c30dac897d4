"""Whether the time of an ensemble grows as the number of pixels: seconds for each pixel and pass.

    python -m benchmarks.scaling -o benchmarks/results/scaling.json
    python -m benchmarks.scaling --side 64 --side 128 --recipe fast --rounds 2 -o RESULT.json

The network of `--recipe` with random weights runs over squares of noise as `infer` runs it: as many passes side by
side as it chooses, and an image that does not fit into memory is cut into tiles, whose overlap is in the time. Sizes take turns,
in an order that rotates. The smaller sizes have so many passes that their laps have as many pixels as
one pass of the largest; the larger ones have `--least`, because the first pass of an ensemble also pays
for memory that nothing has touched before. Masks, passes and sums are counted; preparing the engine, once
for each size and round, is not. The figure of a size is its median over the rounds; `spread` is the
largest figure over the least, less one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_file import write_result
from self2self.bench.cases import rotated
from self2self.bench.environment import environment, shown_command
from self2self.bench.measure import idle, spread
from self2self.bench.subject import random_subject
from self2self.options import parse_memory
from self2self.runtime.denoise import denoise
from self2self.runtime.model import Model
from self2self.runtime.prepared import Prepared
from self2self.runtime.sampling import Sampling
from self2self.train.recipes import recipe_for

SIDES = (128, 256, 512, 1024, 2048)


def lap(model: Model, side: int, passes: int, engine: str, batch: int | None, memory: int | None) -> dict[str, Any]:
    """One ensemble after a pass to warm up, on an engine of its own."""
    pixels = np.random.default_rng(0).random((model.contract.channels, side, side), dtype=np.float32)
    with Prepared() as prepared:

        def run(count: int) -> Any:
            sampling = Sampling(count, None, balanced=False, flips=False)
            return denoise(
                model,
                pixels,
                engine=engine,
                sampling=sampling,
                batch=batch,
                memory=memory,
                uncertainty=False,
                prepared=prepared,
            )

        run(1)
        idle()
        done = run(passes)
    seconds = sum(done.seconds[part] for part in ("masks", "passes", "reduce"))
    nanoseconds = 1e9 * seconds / (passes * side**2)
    return {"nanoseconds": nanoseconds, "engine": done.engine, "batch": done.batch, "tiles": done.tiles}


def passes_for(side: int, largest: int, least: int, most: int) -> int:
    """As many passes as a lap of `side` needs to be as long as a single one of `largest`, within `least` and `most`."""
    return int(max(least, min(most, (largest / side) ** 2)))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, action="append", help=f"may be repeated; default: {SIDES}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=16, help="of the smallest sizes, at most")
    parser.add_argument("--least", type=int, default=4, help="passes of the largest sizes")
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch", type=int, help="passes a run; default: as infer chooses")
    parser.add_argument("--memory", help="as for infer; default: half of what is free")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    sides = sorted(set(args.side or SIDES))
    memory = parse_memory(args.memory)
    laps: dict[int, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        model = random_subject(recipe_for(args.recipe), Path(folder)).model
        for number in range(args.rounds):
            for side in rotated(sides, number):
                idle()
                passes = passes_for(side, sides[-1], args.least, args.passes)
                laps[side].append(lap(model, side, passes, args.engine, args.batch, memory))
                print(f"round {number} {side:5} {laps[side][-1]['nanoseconds']:9.1f} ns a pixel and pass", flush=True)
    rows = [
        {
            "side": side,
            "passes": passes_for(side, sides[-1], args.least, args.passes),
            "engine": done[0]["engine"],
            "batches": sorted({entry["batch"] for entry in done}),
            "tiles": done[0]["tiles"],
            "nanoseconds_per_pixel_pass": spread([entry["nanoseconds"] for entry in done]),
        }
        for side, done in laps.items()
    ]
    medians = [row["nanoseconds_per_pixel_pass"]["median"] for row in rows]
    for row in rows:
        print(f"{row['side']:5} {row['tiles']:3} tiles {row['nanoseconds_per_pixel_pass']['median']:9.1f} ns")
    result = {
        "command": shown_command("python -m benchmarks.scaling"),
        **environment(),
        "recipe": args.recipe,
        "rounds": args.rounds,
        "spread": max(medians) / min(medians) - 1,
        "rows": rows,
    }
    print(f"the largest is {100 * result['spread']:.1f} % more than the least")
    write_result(args.output, result)


if __name__ == "__main__":
    main()
