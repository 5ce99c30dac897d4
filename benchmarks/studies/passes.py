"""PSNR and standard error of the mean by the number of passes, and whether the uncertainty map is calibrated.

Each image is fitted once with ``fast``. Then one engine, which `auto` chooses, runs all ways to draw passes:
independent or balanced masks, each with and without mirrored images, and the passes of `--passes auto`.

The map of `--uncertainty` is the standard deviation over these last passes, of one pass. The values of the image are
sorted by it, and cut into ten equal groups: each has the RMS of what the map predicts, and the RMS error of the mean.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.clocked import Stopwatch, clocked_fit
from benchmarks.methods import recipe_for_image, recipe_inputs, seen_by
from benchmarks.pairs import FloatArray, Pair, rms_grey_levels
from benchmarks.product import exported, start_weights_of
from benchmarks.results_file import Row
from benchmarks.studies.study import (
    FAST_STEP_SECONDS,
    Job,
    Settings,
    Study,
    colour,
    mean_by,
    new_axes,
    with_gaussian,
)
from self2self.imaging.noise import Noise
from self2self.imaging.padding import Padding
from self2self.runtime.engines.engine import Engine
from self2self.runtime.engines.registry import get_engine
from self2self.runtime.ensemble.host_loop import run_ensemble
from self2self.runtime.ensemble.moments import PassSums
from self2self.runtime.ensemble.pass_plan import PassPlan, pass_plan_for
from self2self.train.recipes import Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA = 25.0
RECORDED_PASSES = (10, 20, 40, 80, 120, 160, 240, 320, 400, 500)
"""Numbers of passes that have a row."""
SEED, BATCH = 0, 2
GROUPS = 10
AUTO = "auto"
PASS_SECONDS = 4e-6
"""Processor seconds of a pass of ``fast`` for each pixel."""


def ways(longest: int) -> dict[str, PassPlan]:
    """The compared ways to draw passes; `longest` is the number of independent passes."""
    return {
        "independent": PassPlan(longest, None, balanced=False, flips=False),
        "independent, flips": PassPlan(longest, None, balanced=False, flips=True),
        "balanced": PassPlan(max(40, longest // 3), None, balanced=True, flips=False),
        "balanced, flips": PassPlan(max(40, longest // 3), None, balanced=True, flips=True),
        AUTO: pass_plan_for("fast"),
    }


def recorded(plan: PassPlan) -> list[int]:
    """The numbers of passes of a way that have a row; not those of ``auto``, which ends where it wants."""
    return [passes for passes in RECORDED_PASSES if passes <= plan.passes]


def method(way: str, passes: int) -> str:
    """Name of a row."""
    return AUTO if way == AUTO else f"{way}, {passes} passes"


def run_way(engine: Engine, pair: Pair, padding: Padding, way: str, plan: PassPlan) -> tuple[dict[str, Row], PassSums]:
    """Run one way; return a row for each recorded number of passes, and the sums over all passes."""
    maker = engine.mask_maker(SEED, balanced=plan.balanced)
    wanted = recorded(plan)
    rows: dict[str, Row] = {}
    spent, began = 0.0, time.perf_counter()

    def record(moments: PassSums) -> None:
        rows[method(way, moments.count)] = {
            "way": way,
            "passes": moments.count,
            "seconds": round(spent, 3),
            "standard_error": round(moments.standard_error(), 4),
            **pair.scores(np.asarray(padding.crop(moments.mean()))),
        }

    def on_progress(moments: PassSums) -> None:
        nonlocal spent, began
        spent += time.perf_counter() - began
        if way != AUTO and moments.count in wanted:
            record(moments)
        began = time.perf_counter()

    done = run_ensemble(engine, maker, plan, batch=BATCH, on_progress=on_progress).moments
    if way == AUTO:
        record(done)
    return rows, done


def calibration(mean: FloatArray, deviation: FloatArray, clean: FloatArray) -> list[dict[str, float]]:
    """Predicted and true error of ten equal groups of values, in the order of what is predicted, in 8-bit grey levels.

    Args:
        mean: the result, (C, H, W) in [0, 1].
        deviation: standard deviation over the passes, of the same shape.
        clean: of the same shape.
    """
    order = np.argsort(deviation, axis=None, kind="stable")
    errors, predicted = (mean - clean).ravel()[order], deviation.ravel()[order]
    groups = zip(np.array_split(predicted, GROUPS), np.array_split(errors, GROUPS), strict=True)
    found = []
    for number, (expected, error) in enumerate(groups, 1):
        said, true = rms_grey_levels(expected), rms_grey_levels(error)
        found.append(
            {
                "group": number,
                "predicted": round(said, 3),
                "error": round(true, 3),
                "ratio": round(true / said, 3) if said else 0.0,
            }
        )
    return found


def run(pair: Pair, recipe: Recipe, noise: Noise | None, settings: Settings) -> dict[str, Row]:
    """Fit, and run every way with one engine."""
    start = start_weights_of(recipe, len(pair.noisy), noise)
    state = clocked_fit(pair.noisy, recipe, start, Stopwatch())
    padding = Padding.for_size(*pair.noisy.shape[1:])
    padded = np.ascontiguousarray(padding.pad(pair.noisy), np.float32)[None]
    rows: dict[str, Row] = {}
    with exported(state, recipe, noise) as model, get_engine("auto")(model, padded) as engine:
        # The first passes also allocate memory.
        run_ensemble(engine, engine.mask_maker(SEED), BATCH)
        for way, plan in ways(settings.passes).items():
            made, moments = run_way(engine, pair, padding, way, plan)
            rows |= made
            last = list(made.values())[-1]
            print(f"{pair.name} {way} {last['passes']} passes {last['psnr']:.3f} dB", flush=True)
    mean, deviation = (
        np.asarray(padding.crop(values)) * pair.scale for values in (moments.mean(), moments.standard_deviation())
    )
    for group in calibration(mean, deviation, pair.clean * pair.scale):
        rows[f"group {group['group']}"] = dict(group)
    return rows


def jobs(settings: Settings) -> list[Job]:
    """A fit for each image, with all ways."""
    found = []
    plans = ways(settings.passes)
    names = [method(way, passes) for way, plan in plans.items() if way != AUTO for passes in recorded(plan)]
    names += [AUTO, *(f"group {number}" for number in range(1, GROUPS + 1))]
    for image in settings.images:
        pair = seen_by("fast", with_gaussian(image, settings.side, SIGMA))
        recipe, noise = recipe_for_image("fast", pair.noisy)
        seconds = recipe.steps * FAST_STEP_SECONDS * min(settings.side, recipe.crop or settings.side) ** 2
        seconds += sum(min(plan.passes, settings.passes) for plan in plans.values()) * PASS_SECONDS * settings.side**2
        inputs = recipe_inputs(recipe, pair, noise)
        found.append(Job(pair.name, tuple(names), inputs, seconds, partial(run, pair, recipe, noise, settings)))
    return found


def draw(rows: list[Row]) -> Figure:
    """PSNR and standard error by the number of passes, and error by predicted standard deviation."""
    figure, (left, middle, right) = new_axes(3, width=10.5)
    for axes, value in ((left, "psnr"), (middle, "standard_error")):
        means = mean_by(rows, ("way", "passes"), value)
        for index, way in enumerate(dict.fromkeys(key[0] for key in means)):
            points = sorted((passes, mean) for (name, passes), mean in means.items() if name == way)
            if way == AUTO:
                points = [tuple(np.mean(points, axis=0))]
            style = {"marker": "*", "markersize": 10} if way == AUTO else {"marker": "o", "markersize": 3}
            axes.plot(*zip(*points, strict=True), color=colour(index), linewidth=1, label=way, **style)
        axes.set(xscale="log", xlabel="passes")
    left.set_ylabel("PSNR (dB)")
    middle.set(yscale="log", ylabel="standard error (grey levels)")
    middle.legend(fontsize=7, frameon=False)
    groups = [row for row in rows if "group" in row]
    for index, image in enumerate(dict.fromkeys(row["image"] for row in groups)):
        own = sorted((row["predicted"], row["error"]) for row in groups if row["image"] == image)
        right.plot(*zip(*own, strict=True), "o-", color=colour(index), markersize=3, linewidth=1, label=image)
    largest = max((max(row["predicted"], row["error"]) for row in groups), default=1.0)
    right.plot([0, largest], [0, largest], "--", color="#98a3b0", linewidth=0.9)
    right.set(xlabel="predicted deviation (grey levels)", ylabel="RMS error (grey levels)")
    right.legend(fontsize=7, frameon=False)
    return figure


STUDY = Study(
    "passes",
    "How many passes are enough, and does their spread predict the error?",
    Settings(("chelsea", "camera"), side=128, steps=0, passes=240),
    Settings(("chelsea", "camera", "astronaut", "coffee"), side=128, steps=0, passes=500),
    jobs,
    draw,
)
