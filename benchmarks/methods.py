"""What `benchmarks.fit_quality` compares: fits by a recipe, BM3D and non-local means."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clocked import Stopwatch, clocked_fit
from benchmarks.pairs import FloatArray, Pair
from benchmarks.product import exported
from benchmarks.stabilised import bm3d_of_photons, photon_noise
from self2self.imaging.noise import center_crop, measure_noise
from self2self.jobs.prepared_image import wants_whole_range
from self2self.runtime.ensemble.denoise import denoise
from self2self.runtime.ensemble.options import EnsembleOptions
from self2self.runtime.ensemble.pass_plan import Passes
from self2self.train.fit import FitState
from self2self.train.prediction import predict
from self2self.train.recipes import LATER_FIELDS, Recipe, recipe_for
from self2self.train.start_weights import adapt_recipe, pretrained_files, start_weights_for_recipe

Row = dict[str, Any]
LOOK_PASSES = 32
CLOCKED_STEPS, WARM_UP_STEPS = 20, 3


def named_recipe(text: str, noisy: FloatArray | None = None) -> Recipe:
    """`fast`, `fast:scratch`, `paper`, or any of them with `key=value` changes after commas.

    For the image `noisy`, if it is given: with what the product would choose from its noise.
    """
    head, _, rest = text.partition(",")
    name, _, init = head.partition(":")
    recipe = recipe_for(name, init or None)
    if noisy is not None:
        recipe = adapt_recipe(recipe, measure_noise(center_crop(noisy)), noisy)
    return replace(recipe, **changes(rest))


def changes(text: str) -> dict[str, Any]:
    """`key=value,key=value`, with values in JSON, as fields of a recipe."""
    return {key: json.loads(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)}


def seen_by(recipe: str, pair: Pair) -> Pair:
    """`pair` in the range in which the product brings an image to a recipe."""
    seen = pair.in_range()
    return pair if wants_whole_range(recipe, measure_noise(center_crop(seen.noisy))) else seen


def recipe_inputs(recipe: Recipe, pair: Pair) -> Row:
    """What a fit of `pair` depends on, beside its image: a row of results is used again only while this is equal."""
    channels = len(pair.noisy)
    values = json.loads(json.dumps(recipe.to_json()))
    for name in ("camera", "target", "expects_clipping", "rounds_products", "noisy_share", "even_noise"):
        if values[name] == LATER_FIELDS[name]:
            # Rows from before there was a choice need not be measured again.
            del values[name]
    if recipe.init == "natural":
        start = b"".join(path.read_bytes() for path in pretrained_files(channels, recipe.camera))
        values["start_sha256"] = hashlib.sha256(start).hexdigest()[:16]
    if (pair.offset, pair.scale) == (0, 1):
        return {"recipe": values}
    return {"recipe": values, "range": [round(pair.offset, 6), round(pair.offset + pair.scale, 6)]}


def run_recipe(
    pair: Pair,
    recipe: Recipe,
    looks: int,
    passes: Passes | None,
    earlier: Row,
    keep: Path | None,
    on_look: Callable[[Row], None],
) -> Row:
    """Fit `pair`, look at the result `looks` times on the way, and at the end as `self2self denoise` would.

    Args:
        pair: what to denoise.
        recipe: how.
        looks: how many, evenly spaced; the last is the end.
        passes: of the end; None for what the recipe does.
        earlier: the unfinished row of a call that was stopped, or an empty one.
        keep: folder that keeps the state between looks.
        on_look: called with the row so far.
    """
    marks = {round(recipe.steps * (i + 1) / looks) for i in range(looks)} - {recipe.steps} if looks else set()
    curve: list[dict[str, float]] = []
    watch = Stopwatch()

    def on_restored(state: FitState) -> None:
        curve.extend(point for point in earlier.get("curve", []) if point["step"] <= state.step)
        if curve:
            watch.wall, watch.processor = curve[-1]["seconds"], curve[-1]["cpu_seconds"]

    def on_mark(state: FitState) -> None:
        looked = pair.scores(predict(state.weights(), pair.noisy, recipe, passes=LOOK_PASSES))
        curve.append({"step": state.step, **watch.seconds(), **looked})
        print(f"{pair.name:26} {recipe.name} step {state.step} {looked['psnr']:.2f} dB", flush=True)
        on_look({"steps": state.step, **watch.seconds("fit_"), **looked, "unfinished": True, "curve": curve})

    start = start_weights_for_recipe(recipe, pair.noisy.shape[0])
    state = clocked_fit(pair.noisy, recipe, start, watch, marks, on_mark, keep, on_restored)
    row = {**watch.seconds("fit_"), "steps": recipe.steps, **run_passes(pair, recipe, state, passes), "curve": curve}
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
    return row


def run_passes(pair: Pair, recipe: Recipe, state: FitState, passes: Passes | None) -> Row:
    """Export the fitted network and run the ensemble, as `self2self denoise` would."""
    began = time.perf_counter()
    with exported(state, recipe) as model:
        denoised = denoise(model, pair.noisy, EnsembleOptions(passes=passes))
    return {
        "ensemble_seconds": round(time.perf_counter() - began, 2),
        "passes": denoised.passes,
        "standard_error": round(denoised.standard_error, 3),
        "engine": denoised.engine,
        **pair.scores(denoised.image),
    }


def clock_recipe(pair: Pair, recipe: Recipe) -> Row:
    """How long all steps of `recipe` would take, from a few; no quality, which must not be extrapolated."""
    start = start_weights_for_recipe(recipe, pair.noisy.shape[0])
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
    """Seconds and scores of what `method` makes of `pair`, (C, H, W)."""
    watch = Stopwatch()
    watch.start()
    result = method()
    watch.hold()
    return {**watch.seconds(), **pair.scores(result)}


def run_bm3d(pair: Pair, sigma: float) -> Row:
    """Colour BM3D (package `bm3d`), which is told sigma in 8-bit grey levels."""
    import bm3d

    def method() -> FloatArray:
        image = pair.noisy.transpose(1, 2, 0)
        clean = bm3d.bm3d_rgb(image, sigma / 255) if image.shape[2] == 3 else bm3d.bm3d(image[..., 0], sigma / 255)
        return np.atleast_3d(clean).transpose(2, 0, 1)

    return {**clocked(method, pair), "sigma": round(sigma, 2)}


def run_stabilised_bm3d(pair: Pair) -> Row:
    """BM3D of one channel with noise of photons, which is told what that is."""
    noise = photon_noise(pair.noisy[0], pair.clean[0])
    row = clocked(lambda: bm3d_of_photons(pair.noisy[0], noise)[None], pair)
    return {**row, "gain": noise.gain, "offset": noise.offset}


def estimated_sigma(pair: Pair) -> float:
    """scikit-image's wavelet estimate, mean over channels, in 8-bit grey levels."""
    from skimage.restoration import estimate_sigma

    return 255 * float(estimate_sigma(pair.noisy, channel_axis=0, average_sigmas=True))


def run_nlm(pair: Pair) -> Row:
    """Non-local means of scikit-image with the estimated sigma."""
    from skimage.restoration import denoise_nl_means

    def method() -> FloatArray:
        sigma = estimated_sigma(pair) / 255
        # One channel as an axis of its own would be taken for a row of pixels.
        image, axis = (pair.noisy[0], None) if pair.noisy.shape[0] == 1 else (pair.noisy, 0)
        result = denoise_nl_means(image, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=axis)
        return result.reshape(pair.noisy.shape)

    return clocked(method, pair)


def baselines(pair: Pair) -> dict[str, Callable[[], Row]]:
    """The methods that the fits are compared with."""
    methods: dict[str, Callable[[], Row]] = {
        "nlm": lambda: run_nlm(pair),
        "bm3d, estimated sigma": lambda: run_bm3d(pair, estimated_sigma(pair)),
    }
    if (sigma := pair.sigma) is not None:
        methods["bm3d, true sigma"] = lambda: run_bm3d(pair, sigma)
    if pair.photons:
        methods["bm3d, stabilised, true noise"] = lambda: run_stabilised_bm3d(pair)
    return methods
