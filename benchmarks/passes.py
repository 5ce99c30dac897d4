"""Measure the PSNR of the mean against passes and seconds, for each way to draw passes.

    python -m benchmarks.passes PAIRS.json --fits FOLDER -o RESULT.json --plot RESULT.svg

Each image of the list (`benchmarks.pairs`) is fitted once with `--recipe`; the folder `--fits` keeps the fits for the
next run. Then one prepared engine, which `auto` chooses, runs all ways to draw passes: independent or balanced masks,
each with and without mirrored images, and the passes of `--passes auto`. Seconds are those of masks, passes and
reduction, without preparation and scoring. A batch has two passes. Pixels and PSNR are as in `benchmarks.fit_quality`.
The images are for evaluation alone, so no setting was tuned on them.

The summary gives, for each way, the first recorded number of passes from which on the PSNR is at most `TOLERANCE_DB`
below that of all independent passes, and its share of the seconds of all independent passes. It uses the curves that
are averaged over the images.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.methods import seen_by
from benchmarks.pairs import FloatArray, Pair, load_pairs
from benchmarks.product import exported, start_weights_of
from benchmarks.results_file import provenance, result_parser, write_result
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

RECORDED_PASSES = (10, 20, 40, 80, 120, 160, 240, 320, 400, 500)
"""Numbers of passes at which the curve has a point."""
SEED = 0
TOLERANCE_DB = 0.01
"""Largest loss of PSNR that counts as the same quality."""


def ways(longest: int) -> dict[str, PassPlan]:
    """Return the compared ways to draw passes; `longest` is the number of independent passes."""
    return {
        "independent": PassPlan(longest, None, balanced=False, flips=False),
        "independent, flips": PassPlan(longest, None, balanced=False, flips=True),
        "balanced": PassPlan(max(40, longest // 3), None, balanced=True, flips=False),
        "balanced, flips": PassPlan(max(40, longest // 3), None, balanced=True, flips=True),
        "auto": pass_plan_for("fast"),
    }


def run_way(engine: Engine, pair: Pair, padding: Padding, pass_plan: PassPlan) -> list[dict[str, float]]:
    """Run one way; return its curve of PSNR, standard error and seconds, at `RECORDED_PASSES` and at the end."""
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
        if moments.count in RECORDED_PASSES or moments.count == pass_plan.passes:
            curve.append(point(moments))
        began = time.perf_counter()

    moments = run_ensemble(engine, maker, pass_plan, batch=2, on_progress=on_progress).moments
    if not curve or curve[-1]["passes"] != moments.count:
        curve.append(point(moments))
    return curve


def fitted_model(pair: Pair, recipe: Recipe, folder: Path) -> Model:
    """Return the exported model of a fit of `pair`; `folder` keeps it for the next run."""
    channels = pair.noisy.shape[0]
    start = start_weights_of(recipe, channels)
    settings = repr((recipe, SEED, start and tensors_sha256(start)))
    key = hashlib.sha256(np.ascontiguousarray(pair.noisy).tobytes() + settings.encode()).hexdigest()[:12]
    path = folder / f"{pair.name}-{recipe.name}-{key}.onnx"
    if not path.is_file():
        state = fit(pair.noisy, recipe, new_state(recipe, channels, SEED, torch.device("cpu"), start), seed=SEED)
        with exported(state, recipe) as model:
            atomic_write(path, model.path.read_bytes())
    return load_model(path)


def measure(pair: Pair, model: Model, longest: int) -> list[dict[str, Any]]:
    """Run every way on one image; return a row for each."""
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
    """Average the curve of each way over the images; `auto` has only its last point."""
    table: dict[str, list[dict[str, float]]] = {}
    for way in dict.fromkeys(row["way"] for row in rows):
        curves = [row["curve"][-1:] if way == "auto" else row["curve"] for row in rows if row["way"] == way]
        table[way] = [
            {key: round(float(np.mean([point[key] for point in points])), 4) for key in points[0]}
            for points in zip(*curves, strict=True)
        ]
    return table


def summary(table: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float] | None]:
    """Return, for each way, the first point from which on it is as good as all independent passes, or None."""
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
    """Draw PSNR against passes and against seconds, for each way."""
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


def show_summary(
    table: dict[str, list[dict[str, float]]], same: dict[str, dict[str, float] | None], longest: int
) -> None:
    """Print the mean curves, and the point from which on each way has the same quality."""
    for way, curve in table.items():
        for point in curve:
            print(
                f"mean {way:20} {point['passes']:6.1f} passes {point['seconds']:7.2f} s  {point['psnr']:.3f} dB  "
                f"error {point['error']:.3f}"
            )
    print(f"as good as {longest} independent passes, less {TOLERANCE_DB} dB:")
    for way, reached in same.items():
        if reached is None:
            print(f"{way:20} never")
        else:
            print(
                f"{way:20} {reached['passes']:6.1f} passes {reached['seconds']:7.2f} s  "
                f"{100 * reached['share_of_seconds']:5.1f} % of the time, {reached['psnr_less_anchor']:+.3f} dB"
            )


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("pairs", type=Path, help="list of pairs (JSON)")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--steps", type=int, help="training steps; default: from the recipe")
    parser.add_argument("--image", action="append", help="measure only this image; may be repeated")
    parser.add_argument("--fits", type=Path, help="folder that keeps the fits for the next run")
    parser.add_argument("--passes", type=int, default=500, help="number of independent passes")
    parser.add_argument("--plot", type=Path, help="also draw the curves to this .svg or .png file")
    args = parser.parse_args()
    recipe = recipe_for(args.recipe).with_options(args.steps, None)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as passing:
        folder = args.fits or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [pair for pair in load_pairs(args.pairs) if args.image is None or pair.name in args.image]
        pairs = [seen_by(args.recipe, pair) for pair in wanted]
        # All fits come first, because a processor that is hot from a fit would slow down the first passes.
        models = [fitted_model(pair, recipe, folder) for pair in pairs]
        for pair, model in zip(pairs, models, strict=True):
            rows += measure(pair, model, args.passes)
    table = means(rows)
    same = summary(table)
    show_summary(table, same, args.passes)
    result = {**provenance("passes"), "same_psnr": same, "mean": table, "rows": rows}
    write_result(args.output, result)
    if args.plot is not None:
        plot(table, args.plot)


if __name__ == "__main__":
    main()
