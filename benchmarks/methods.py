"""The methods that `benchmarks.fit_quality` compares: fits with a recipe, BM3D and non-local means."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.clocked import Stopwatch, clocked_fit
from benchmarks.pairs import FloatArray, Pair, parse_changes
from benchmarks.product import adapted, exported, start_weights_of
from benchmarks.results_file import Row
from benchmarks.rivals import bm3d, nlm
from benchmarks.rivals.rival import wavelet_sigma
from benchmarks.stabilised import bm3d_of_photons, photon_noise
from self2self.imaging.noise import Noise, center_crop
from self2self.jobs.prepared_image import wants_whole_range
from self2self.machine.marks import file_sha256
from self2self.runtime.ensemble.denoise import denoise_pixels
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import Passes
from self2self.train.checkpoint import tensors_sha256
from self2self.train.fit import FitState
from self2self.train.prediction import predict
from self2self.train.recipes import LATER_FIELDS, Recipe, recipe_for
from self2self.train.start_weights import SINGLE_PASS_FILE

LOOK_PASSES = 32
"""Passes of an interim score during a fit."""
CLOCKED_STEPS, WARM_UP_STEPS = 20, 3
"""Steps of `clock_recipe`: timed, and before that untimed."""


def named_recipe(text: str) -> Recipe:
    """Return the recipe that `text` names, such as `fast`, `fast:scratch` or `paper`, with any `,key=value` changes."""
    head, _, rest = text.partition(",")
    name, _, init = head.partition(":")
    return replace(recipe_for(name, init or None), **parse_changes(rest))


def recipe_for_image(text: str, noisy: FloatArray) -> tuple[Recipe, Noise | None]:
    """Return the recipe that `text` names with the settings that the product chooses for `noisy`, and its noise."""
    head, _, rest = text.partition(",")
    recipe, noise = adapted(named_recipe(head), noisy)
    return replace(recipe, **parse_changes(rest)), noise


def seen_by(recipe: str, pair: Pair) -> Pair:
    """Return `pair` in the range of values that the product chooses for this recipe."""
    seen = pair.in_range()
    return pair if wants_whole_range(recipe, center_crop(seen.noisy)) else seen


def recipe_inputs(recipe: Recipe, pair: Pair, noise: Noise | None = None) -> Row:
    """Return the inputs of a fit of `pair` other than its image; a row of results is reused only if they are equal."""
    values = json.loads(json.dumps(recipe.to_json()))
    for name in ("target", "expects_clipping", "rounds_products", "follows_noise", "removes_impulses"):
        if values[name] == LATER_FIELDS[name]:
            # Rows that are older than this field keep their inputs and are not measured again.
            del values[name]
    start = start_weights_of(recipe, len(pair.noisy), noise)
    if start is not None:
        values["start_sha256"] = tensors_sha256(start)[:16]
        values["single_sha256"] = file_sha256(SINGLE_PASS_FILE)[:16]
    if (pair.offset, pair.scale) == (0, 1):
        return {"recipe": values}
    return {"recipe": values, "range": [round(pair.offset, 6), round(pair.offset + pair.scale, 6)]}


def run_recipe(
    pair: Pair,
    recipe: Recipe,
    noise: Noise | None,
    looks: int,
    passes: Passes | None,
    earlier: Row,
    state_folder: Path | None,
    on_look: Callable[[Row], None],
) -> Row:
    """Fit `pair` with interim scores, and score the result that `self2self denoise` would write.

    Args:
        pair: the image to denoise.
        recipe: settings of the fit.
        noise: noise that start weights are told.
        looks: number of scores, evenly spaced over the steps; the last one is the final score.
        passes: passes of the final score; None for the passes of the recipe.
        earlier: the unfinished row of an interrupted call, or an empty one.
        state_folder: folder for the state of the fit between looks; removed at the end.
        on_look: called at each look with the unfinished row.
    """
    pause_steps = {round(recipe.steps * (i + 1) / looks) for i in range(looks)} - {recipe.steps} if looks else set()
    curve: list[dict[str, float]] = []
    watch = Stopwatch()

    def on_restored(state: FitState) -> None:
        curve.extend(point for point in earlier.get("curve", []) if point["step"] <= state.step)
        if curve:
            watch.wall, watch.processor = curve[-1]["seconds"], curve[-1]["cpu_seconds"]

    def on_pause(state: FitState) -> None:
        scores = pair.scores(predict(state.weights(), pair.noisy, recipe, passes=LOOK_PASSES))
        curve.append({"step": state.step, **watch.seconds(), **scores})
        print(f"{pair.name:26} {recipe.name} step {state.step} {scores['psnr']:.2f} dB", flush=True)
        on_look({"steps": state.step, **watch.seconds("fit_"), **scores, "unfinished": True, "curve": curve})

    start = start_weights_of(recipe, len(pair.noisy), noise)
    state = clocked_fit(pair.noisy, recipe, start, watch, pause_steps, on_pause, state_folder, on_restored)
    scores = run_passes(pair, recipe, noise, state, passes)
    row = {**watch.seconds("fit_"), "steps": recipe.steps, **scores, "curve": curve}
    if state_folder is not None:
        shutil.rmtree(state_folder, ignore_errors=True)
    return row


def run_passes(pair: Pair, recipe: Recipe, noise: Noise | None, state: FitState, passes: Passes | None) -> Row:
    """Export the fitted network, run it as `self2self denoise` would, and score the result.

    A given number of passes asks for real passes; otherwise a single pass takes their place where there is one.
    """
    began = time.perf_counter()
    with exported(state, recipe, noise, single_pass=passes is None and recipe.init == "natural") as model:
        denoised = denoise_pixels(model, pair.noisy, EnsembleOptions(passes=passes))
    return {
        "ensemble_seconds": round(time.perf_counter() - began, 2),
        "passes": denoised.passes,
        "standard_error": round(denoised.standard_error, 3),
        "engine": denoised.engine,
        **pair.scores(denoised.image),
    }


def clock_recipe(pair: Pair, recipe: Recipe) -> Row:
    """Extrapolate the time of all steps of `recipe` from a few; scores cannot be extrapolated, so there are none."""
    start = start_weights_of(recipe, len(pair.noisy))
    clocked_fit(pair.noisy, replace(recipe, steps=WARM_UP_STEPS), start, Stopwatch())
    watch = Stopwatch()
    clocked_fit(pair.noisy, replace(recipe, steps=CLOCKED_STEPS), start, watch)
    scale = recipe.steps / CLOCKED_STEPS
    return {
        "fit_seconds": round(scale * watch.wall, 3),
        "fit_cpu_seconds": round(scale * watch.processor, 3),
        "steps": recipe.steps,
        "clocked_steps": CLOCKED_STEPS,
    }


def clocked(method: Callable[[], FloatArray], pair: Pair) -> Row:
    """Run `method`, which denoises `pair` to (C, H, W); return seconds and scores."""
    watch = Stopwatch()
    watch.start()
    result = method()
    watch.pause()
    return {**watch.seconds(), **pair.scores(result)}


def run_bm3d(pair: Pair, sigma: float) -> Row:
    """Run colour BM3D (package `bm3d`) with `sigma` in 8-bit grey levels."""
    return {**clocked(lambda: bm3d.denoise(pair, sigma), pair), "sigma": round(sigma, 2)}


def run_stabilised_bm3d(pair: Pair) -> Row:
    """Run BM3D for photon noise on one channel; the noise is measured with the clean image."""
    noise = photon_noise(pair.noisy[0], pair.clean[0])
    row = clocked(lambda: bm3d_of_photons(pair.noisy[0], noise)[None], pair)
    return {**row, "gain": noise.gain, "offset": noise.offset}


def run_nlm(pair: Pair) -> Row:
    """Run non-local means of scikit-image with the estimated sigma."""
    return clocked(lambda: nlm.denoise(pair, wavelet_sigma(pair.noisy)), pair)


def baselines(pair: Pair) -> dict[str, Callable[[], Row]]:
    """Return the methods that the fits are compared with, by name."""
    methods: dict[str, Callable[[], Row]] = {
        "nlm": lambda: run_nlm(pair),
        "bm3d, estimated sigma": lambda: run_bm3d(pair, wavelet_sigma(pair.noisy)),
    }
    if (sigma := pair.sigma) is not None:
        methods["bm3d, true sigma"] = lambda: run_bm3d(pair, sigma)
    if pair.photons:
        methods["bm3d, stabilised, true noise"] = lambda: run_stabilised_bm3d(pair)
    return methods
