"""How good the mean is after how many passes and seconds, for each way to draw them.

    python -m benchmarks.passes PAIRS.json --fits FOLDER -o RESULT.json --plot RESULT.svg

Each image of the list (`benchmarks.fit_quality`) is fitted once with `--recipe`, or its fit of an
earlier run is taken from the folder `--fits`; then one prepared
engine, the one that `auto` chooses, runs all ways one after another: independent or balanced masks,
with and without mirrored passes, and what `--passes auto` does. Seconds are those of masks, passes
and reduction, without preparing and scoring; batches are of two passes. Pixels and PSNR are those of
`benchmarks.fit_quality`. The images are the benchmark's, so nothing here was tuned on them.

The summary says after how many seconds each way is for good no worse than all independent passes,
less `TOLERANCE_DB`, and which share that is of the seconds of all independent passes; the figures are
those of the marks and of the mean curve over the images.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.methods import seen_by
from benchmarks.pairs import FloatArray, Pair, load_pairs
from benchmarks.product import exported
from benchmarks.results_file import write_result
from self2self.bench.environment import environment, shown_command
from self2self.imaging.padding import Padding
from self2self.machine.files import atomic_write
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.host_loop import run_ensemble
from self2self.runtime.ensemble.moments import Moments
from self2self.runtime.ensemble.pass_plan import PassPlan, pass_plan_for
from self2self.runtime.model import Model, load_model
from self2self.train.checkpoint import tensors_sha256
from self2self.train.fit import fit, new_state
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.start_weights import start_weights_for_recipe

MARKS = (10, 20, 40, 80, 120, 160, 240, 320, 400, 500)
SEED = 0
TOLERANCE_DB = 0.01
"""How much a PSNR may differ and still be called the same."""


def ways(longest: int) -> dict[str, PassPlan]:
    """What is compared; balanced passes need not go as far."""
    return {
        "independent": PassPlan(longest, None, balanced=False, flips=False),
        "independent, flips": PassPlan(longest, None, balanced=False, flips=True),
        "balanced": PassPlan(max(40, longest // 3), None, balanced=True, flips=False),
        "balanced, flips": PassPlan(max(40, longest // 3), None, balanced=True, flips=True),
        "auto": pass_plan_for("fast"),
    }


def run_way(engine: Engine, pair: Pair, padding: Padding, pass_plan: PassPlan) -> list[dict[str, float]]:
    """The curve of one way: PSNR, standard error and seconds at `MARKS` and at the end."""
    maker = engine.mask_maker(SEED, balanced=pass_plan.balanced)
    curve: list[dict[str, float]] = []
    spent, began = 0.0, time.perf_counter()

    def point(moments: Moments) -> dict[str, float]:
        result: FloatArray = np.asarray(padding.crop(moments.mean()))
        error = round(moments.standard_error(), 4)
        return {"passes": moments.count, "seconds": round(spent, 3), "error": error, **pair.scores(result)}

    def on_progress(moments: Moments) -> None:
        nonlocal spent, began
        spent += time.perf_counter() - began
        if moments.count in MARKS or moments.count == pass_plan.passes:
            curve.append(point(moments))
        began = time.perf_counter()

    moments = run_ensemble(engine, maker, pass_plan, batch=2, on_progress=on_progress).moments
    if not curve or curve[-1]["passes"] != moments.count:
        curve.append(point(moments))
    return curve


def fitted_model(pair: Pair, recipe: Recipe, folder: Path) -> Model:
    """The exported model of a fit of `pair`, from `folder` where an earlier run left it."""
    channels = pair.noisy.shape[0]
    start = start_weights_for_recipe(recipe, channels)
    settings = repr((recipe, SEED, start and tensors_sha256(start)))
    key = hashlib.sha256(np.ascontiguousarray(pair.noisy).tobytes() + settings.encode()).hexdigest()[:12]
    path = folder / f"{pair.name}-{recipe.name}-{key}.onnx"
    if not path.is_file():
        state = fit(pair.noisy, recipe, new_state(recipe, channels, SEED, torch.device("cpu"), start), seed=SEED)
        with exported(state, recipe) as model:
            atomic_write(path, model.path.read_bytes())
    return load_model(path)


def measure(pair: Pair, model: Model, longest: int) -> list[dict[str, Any]]:
    """Run every way over one image."""
    padding = Padding.for_size(pair.noisy.shape[1], pair.noisy.shape[2])
    padded = np.ascontiguousarray(padding.pad(pair.noisy), np.float32)[None]
    rows = []
    with get_engine("auto")(model, padded) as engine:
        run_ensemble(engine, engine.mask_maker(SEED), 2)
        for name, pass_plan in ways(longest).items():
            curve = run_way(engine, pair, padding, pass_plan)
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


def summary(table: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float] | None]:
    """For each way, the first point from which on it is as good as all independent passes; None if there is none."""
    anchor = table["independent"][-1]
    found: dict[str, dict[str, float] | None] = {}
    for way, curve in table.items():
        reached = None
        for point in reversed(curve):
            if point["psnr"] < anchor["psnr"] - TOLERANCE_DB:
                break
            reached = point
        found[way] = reached and {
            "passes": reached["passes"],
            "seconds": reached["seconds"],
            "psnr_less_anchor": round(reached["psnr"] - anchor["psnr"], 4),
            "share_of_seconds": round(reached["seconds"] / anchor["seconds"], 4),
        }
    return found


def plot(table: dict[str, list[dict[str, float]]], path: Path) -> None:
    """PSNR against passes and against seconds, for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, key in ((left, "passes"), (right, "seconds")):
        for way, curve in table.items():
            style = {"marker": "*", "markersize": 11, "linestyle": ""} if way == "auto" else {"marker": "o"}
            axes.plot([point[key] for point in curve], [point["psnr"] for point in curve], label=way, **style)
        axes.axhline(table["independent"][-1]["psnr"], color="#98a3b0", linestyle="--", linewidth=0.9)
        axes.set_xscale("log")
        axes.set_xlabel(key)
        axes.grid(color="#e8edf2")
    left.set_ylabel("PSNR (dB), mean over the images")
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--steps", type=int, help="of a fit, instead of the recipe's")
    parser.add_argument("--image", action="append", help="only the image of this name; may be repeated")
    parser.add_argument("--fits", type=Path, help="folder that keeps the fits for the next run")
    parser.add_argument("--passes", type=int, default=500, help="of the independent ways")
    parser.add_argument("--plot", type=Path, help="also draw the curves: an .svg or .png file")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    recipe = recipe_for(args.recipe).with_options(args.steps, None)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as passing:
        folder = args.fits or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [pair for pair in load_pairs(args.pairs) if args.image is None or pair.name in args.image]
        pairs = [seen_by(args.recipe, pair) for pair in wanted]
        # All fits first: a pass after minutes of fitting would find a hotter processor than the next.
        models = [fitted_model(pair, recipe, folder) for pair in pairs]
        for pair, model in zip(pairs, models, strict=True):
            rows += measure(pair, model, args.passes)
    table = means(rows)
    for way, curve in table.items():
        for point in curve:
            print(
                f"mean {way:20} {point['passes']:6.1f} passes {point['seconds']:7.2f} s  {point['psnr']:.3f} dB  "
                f"error {point['error']:.3f}"
            )
    same = summary(table)
    print(f"as good as {args.passes} independent passes, less {TOLERANCE_DB} dB:")
    for way, point in same.items():
        if point is None:
            print(f"{way:20} never")
        else:
            print(
                f"{way:20} {point['passes']:6.1f} passes {point['seconds']:7.2f} s  "
                f"{100 * point['share_of_seconds']:5.1f} % of the time, {point['psnr_less_anchor']:+.3f} dB"
            )
    result = {
        "command": shown_command("python -m benchmarks.passes"),
        **environment(),
        "same_psnr": same,
        "mean": table,
        "rows": rows,
    }
    write_result(args.output, result)
    if args.plot is not None:
        plot(table, args.plot)


if __name__ == "__main__":
    main()
