"""PSNR and SSIM against time and steps: our recipes beside BM3D and non-local means.

    python -m benchmarks.fit_quality PAIRS.json --recipe fast --recipe fast:scratch -o RESULT.json

`PAIRS.json` lists what to denoise; paths are relative to the file, and `clean` is used for the
scores alone:

    [{"name": "church", "noisy": "noise25/0020.png", "clean": "clean/0020.png", "sigma": 25,
      "top": 60, "left": 240, "size": 128}]

`sigma` (8-bit grey levels) is told to BM3D alone; without it BM3D gets an estimate only. `top`,
`left` and `size` cut a square from both images before anything else sees them. The methods take
turns on every image, so that drift of the machine meets all of them.

Protocol: pixels are in [0, 1] as stored; results are clamped to [0, 1] and compared without
rounding; PSNR over all channels; seeds are 0. Times are wall clock of the fit alone, without the
looks at the result in between.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pairs import Pair, load_pairs, scores
from benchmarks.product import exported
from self2self.bench.environment import environment, shown_command
from self2self.options import parse_passes
from self2self.runtime.denoise import denoise
from self2self.runtime.sampling import Passes
from self2self.train.fit import FitState, fit, new_state, predict
from self2self.train.natural import natural_weights
from self2self.train.recipes import Recipe, recipe_for


def run_recipe(pair: Pair, recipe: Recipe, looks: int, passes: Passes | None) -> dict[str, Any]:
    """Fit `pair`, look at the result `looks` times on the way, and at the end as `self2self denoise` would."""
    channels = pair.noisy.shape[0]
    start = natural_weights(channels) if recipe.init == "natural" else None
    state = new_state(recipe, channels, 0, torch.device("cpu"), start)
    marks = {round(recipe.steps * (i + 1) / looks) for i in range(looks)} if looks else set()
    curve: list[dict[str, float]] = []
    spent = 0.0
    began = time.perf_counter()

    def on_step(state: FitState) -> None:
        nonlocal spent, began
        if state.step in marks and state.step < recipe.steps:
            spent += time.perf_counter() - began
            looked = scores(predict(state, pair.noisy, recipe, passes=32), pair.clean)
            curve.append({"step": state.step, "seconds": round(spent, 2), **looked})
            began = time.perf_counter()

    fit(pair.noisy, recipe, state, on_step=on_step)
    spent += time.perf_counter() - began
    began = time.perf_counter()
    with exported(state, recipe) as model:
        denoised = denoise(model, pair.noisy, passes=passes)
    return {
        "fit_seconds": round(spent, 2),
        "ensemble_seconds": round(time.perf_counter() - began, 2),
        "steps": recipe.steps,
        "passes": denoised.passes,
        "standard_error": round(denoised.standard_error, 3),
        "engine": denoised.engine,
        **scores(denoised.image, pair.clean),
        "curve": curve,
    }


def run_bm3d(pair: Pair, sigma: float) -> dict[str, Any]:
    """Colour BM3D (package `bm3d`), which is told sigma in 8-bit grey levels."""
    import bm3d

    began = time.perf_counter()
    image = pair.noisy.transpose(1, 2, 0)
    clean = bm3d.bm3d_rgb(image, sigma / 255) if image.shape[2] == 3 else bm3d.bm3d(image[..., 0], sigma / 255)
    result = np.atleast_3d(clean).transpose(2, 0, 1)
    return {"seconds": round(time.perf_counter() - began, 2), "sigma": round(sigma, 2), **scores(result, pair.clean)}


def estimated_sigma(pair: Pair) -> float:
    """scikit-image's wavelet estimate, mean over channels, in 8-bit grey levels."""
    from skimage.restoration import estimate_sigma

    return 255 * float(estimate_sigma(pair.noisy, channel_axis=0, average_sigmas=True))


def run_nlm(pair: Pair) -> dict[str, Any]:
    """Non-local means of scikit-image with the estimated sigma."""
    from skimage.restoration import denoise_nl_means

    began = time.perf_counter()
    sigma = estimated_sigma(pair) / 255
    result = denoise_nl_means(pair.noisy, h=0.8 * sigma, sigma=sigma, patch_size=5, patch_distance=6, channel_axis=0)
    return {"seconds": round(time.perf_counter() - began, 2), **scores(result, pair.clean)}


def named_recipe(text: str) -> Recipe:
    """`fast`, `fast:scratch`, `paper`, or any of them with `key=value` changes after commas."""
    head, *changes = text.split(",")
    name, _, init = head.partition(":")
    recipe = recipe_for(name, init or None)
    return replace(recipe, **{key: json.loads(value) for key, _, value in (c.partition("=") for c in changes)})


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--recipe", action="append", default=[], help="fast, fast:scratch, paper,steps=2000, ...")
    parser.add_argument("--passes", type=parse_passes, help="a number or auto; default: what the recipe does")
    parser.add_argument("--looks", type=int, default=0, help="looks at the result during each fit (32 passes each)")
    parser.add_argument("--baselines", action="store_true", help="also BM3D and non-local means")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()

    rows: list[dict[str, Any]] = []
    for pair in load_pairs(args.pairs):
        methods: dict[str, Callable[[Pair], dict[str, Any]]] = {}
        if args.baselines:
            methods["nlm"] = run_nlm
            methods["bm3d, estimated sigma"] = lambda p: run_bm3d(p, estimated_sigma(p))
            if pair.sigma is not None:
                methods["bm3d, true sigma"] = lambda p: run_bm3d(p, p.sigma or 0.0)
        for text in args.recipe:
            recipe = named_recipe(text)
            methods[text] = lambda p, r=recipe: run_recipe(p, r, args.looks, args.passes)  # type: ignore[misc]
        rows.append({"image": pair.name, "method": "noisy", **scores(pair.noisy, pair.clean)})
        for name, method in methods.items():
            rows.append({"image": pair.name, "method": name, **method(pair)})
            row = rows[-1]
            print(f"{pair.name:10} {name:40} {row['psnr']:6.2f} dB  {row['ssim']:.3f}", flush=True)
    means = {
        method: {
            key: round(float(np.mean([r[key] for r in rows if r["method"] == method])), 3) for key in ("psnr", "ssim")
        }
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    for method, mean in means.items():
        print(f"{'mean':10} {method:40} {mean['psnr']:6.2f} dB  {mean['ssim']:.3f}")
    result = {
        "command": shown_command("python -m benchmarks.fit_quality"),
        **environment(),
        "mean": means,
        "rows": rows,
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
