"""How good the mean is after how many passes and seconds, for each way to draw them.

    python -m benchmarks.passes PAIRS.json -o RESULT.json

Each image of the list (`benchmarks.fit_quality`) is fitted once with `--recipe`; then one prepared
engine, the one that `auto` chooses, runs all ways one after another: independent or balanced masks,
with and without mirrored passes, and what `--passes auto` does. Seconds are those of masks, passes
and reduction, without preparing and scoring; batches are of two passes. Pixels and PSNR are those of
`benchmarks.fit_quality`. The images are the benchmark's, so nothing here was tuned on them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import FloatArray, Pair, load_pairs, scores
from benchmarks.product import exported
from self2self.bench.environment import environment, shown_command
from self2self.masks import MaskMaker
from self2self.padding import Padding
from self2self.runtime.engine import Engine, get_engine
from self2self.runtime.ensemble import Moments, run_ensemble
from self2self.runtime.model import Model
from self2self.runtime.sampling import Sampling, sampling_for
from self2self.train.fit import fit, new_state
from self2self.train.natural import natural_weights
from self2self.train.recipes import Recipe, recipe_for

MARKS = (10, 20, 40, 80, 120, 160, 240, 320, 400, 500)
SEED = 0


def ways(longest: int) -> dict[str, Sampling]:
    """What is compared; balanced passes need not go as far."""
    return {
        "independent": Sampling(longest, None, balanced=False, flips=False),
        "independent, flips": Sampling(longest, None, balanced=False, flips=True),
        "balanced": Sampling(max(40, longest // 3), None, balanced=True, flips=False),
        "balanced, flips": Sampling(max(40, longest // 3), None, balanced=True, flips=True),
        "auto": sampling_for("fast"),
    }


def run_way(engine: Engine, model: Model, pair: Pair, padding: Padding, sampling: Sampling) -> list[dict[str, float]]:
    """The curve of one way: PSNR, standard error and seconds at `MARKS` and at the end."""
    height, width = engine.image.shape[2:]
    maker = MaskMaker(model.contract.masks, {"H": height, "W": width}, SEED, balanced=sampling.balanced)
    curve: list[dict[str, float]] = []
    spent, began = 0.0, time.perf_counter()

    def point(moments: Moments) -> dict[str, float]:
        result: FloatArray = np.asarray(padding.crop(moments.mean()))
        error = round(moments.standard_error(), 4)
        return {"passes": moments.count, "seconds": round(spent, 3), "error": error, **scores(result, pair.clean)}

    def on_progress(moments: Moments) -> None:
        nonlocal spent, began
        spent += time.perf_counter() - began
        if moments.count in MARKS or moments.count == sampling.passes:
            curve.append(point(moments))
        began = time.perf_counter()

    moments = run_ensemble(engine, maker, sampling, batch=2, on_progress=on_progress).moments
    if not curve or curve[-1]["passes"] != moments.count:
        curve.append(point(moments))
    return curve


def measure(pair: Pair, recipe: Recipe, longest: int) -> list[dict[str, Any]]:
    """Fit one image and run every way over it."""
    channels = pair.noisy.shape[0]
    start = natural_weights(channels) if recipe.init == "natural" else None
    state = fit(pair.noisy, recipe, new_state(recipe, channels, SEED, torch.device("cpu"), start), seed=SEED)
    padding = Padding.for_size(pair.noisy.shape[1], pair.noisy.shape[2])
    padded = np.ascontiguousarray(padding.pad(pair.noisy), np.float32)[None]
    rows = []
    with exported(state, recipe) as model, get_engine("auto")(model, padded) as engine:
        run_ensemble(engine, MaskMaker(model.contract.masks, dict(zip("HW", padded.shape[2:], strict=True)), SEED), 2)
        for name, sampling in ways(longest).items():
            curve = run_way(engine, model, pair, padding, sampling)
            rows.append({"image": pair.name, "way": name, "engine": engine.name, "curve": curve})
            last = curve[-1]
            print(
                f"{pair.name:10} {name:20} {last['passes']:4} passes {last['seconds']:7.2f} s  "
                f"{last['psnr']:.3f} dB  standard error {last['error']:.3f}",
                flush=True,
            )
    return rows


def means(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, float]]]:
    """Each way's curve, averaged over the images; for `auto` its end alone."""
    table: dict[str, list[dict[str, float]]] = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        curves = [row["curve"][-1:] if way == "auto" else row["curve"] for row in rows if row["way"] == way]
        table[way] = [
            {key: round(float(np.mean([point[key] for point in points])), 4) for key in points[0]}
            for points in zip(*curves, strict=True)
        ]
    return table


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--passes", type=int, default=500, help="of the independent ways")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    recipe = recipe_for(args.recipe)
    rows = [row for pair in load_pairs(args.pairs) for row in measure(pair, recipe, args.passes)]
    table = means(rows)
    for way, curve in table.items():
        for point in curve:
            print(
                f"mean {way:20} {point['passes']:6.1f} passes {point['seconds']:7.2f} s  {point['psnr']:.3f} dB  "
                f"error {point['error']:.3f}"
            )
    result = {"command": shown_command("python -m benchmarks.passes"), **environment(), "mean": table, "rows": rows}
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
