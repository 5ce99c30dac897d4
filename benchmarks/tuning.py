"""Measure the effect of settings of the fit and of the passes, on crops that are not used for reported results.

    python -m benchmarks.tuning --noise gaussian:25 --fit "" --fit input_drop_rate=0.1 \
        --infer "" --infer drop=0.1 -o RESULT.json

The images are crops of scikit-image's samples (`IMAGES`) with noise of `train.synthetic_noise`, seed 0; with `--pairs`,
those of a list (`benchmarks.pairs`). Every image is fitted once with every `--fit`, which changes fields of the recipe
``fast``. Every fit is scored with every `--infer`: balanced passes over mirrored images as in `self2self infer`, but a
fixed number of passes, so that all variants have the same masks. Settings of `--infer`, separated by commas:

``passes=40``   number of passes, divided among the orientations
``turns=4``     number of orientations: 1, 4 (mirrored) or 8 (mirrored and transposed)
``drop=0.1``    drop rate of the input; default: from the recipe
``decoder=0``   drop rate of the decoder; default: from the recipe
``fit=0.7``     share of the fitted weights in the average with the start weights; default: from the recipe
``at=0.5``      use the weights after this share of the steps; "at=0": use the start weights without a fit

PSNR is as in `benchmarks.fit_quality`. Seconds are of the fit, on a machine that may be busy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.methods import seen_by
from benchmarks.pairs import FloatArray, Pair, cut, load_pairs, parse_changes, sample
from benchmarks.product import Weights, network_with, start_weights_of
from benchmarks.results_file import provenance, result_parser, write_result
from self2self.imaging.noise import measure_noise
from self2self.imaging.orientation import oriented, undo_orientation
from self2self.imaging.padding import Padding
from self2self.model.masks import PASSES_PER_BLOCK, Draws, MaskMaker
from self2self.model.network import to_channels_last
from self2self.train.fit import FitState, fit, new_state
from self2self.train.recipes import RECIPES, Recipe
from self2self.train.synthetic_noise import add_noise

IMAGES = {
    "astronaut": (60, 160),
    "coffee": (60, 200),
    "rocket": (150, 250),
    "motorcycle_left": (200, 320),
    "immunohistochemistry": (200, 200),
    "brick": (100, 100),
    "moon": (180, 180),
    "text": (20, 160),
}
"""Samples of scikit-image, and the top left corner of the crop of each."""
SIZE = 128
DEFAULTS: dict[str, float] = {"passes": 40, "turns": 4, "at": 1.0}
"""Settings of `--infer` without a value from the recipe."""


def load(name: str) -> FloatArray:
    """Load the crop of one sample, (3, 128, 128) in [0, 1]; a grey sample gets three equal channels."""
    top, left = IMAGES[name]
    crop = cut(sample(name), {"top": top, "left": left, "size": SIZE})
    return np.ascontiguousarray(np.broadcast_to(crop, (3, *crop.shape[1:])))


def pairs(names: list[str], noises: list[str]) -> Iterator[Pair]:
    """Yield every image with every noise, ``kind:sigma``."""
    for noise in noises:
        kind, _, sigma = noise.partition(":")
        for name in names:
            clean = load(name)
            noisy = add_noise(clean, kind, float(sigma), np.random.default_rng(0))
            yield Pair(f"{name} {noise}", noisy, clean, float(sigma))


def infer_settings(text: str) -> dict[str, Any]:
    """Parse the text of an `--infer`, with `DEFAULTS`."""
    return DEFAULTS | parse_changes(text)


@torch.no_grad()
def ensemble(weights: Weights, pixels: FloatArray, recipe: Recipe, passes: int, turns: int) -> FloatArray:
    """Return the mean of balanced passes; the orientations take turns from block to block."""
    specs = recipe.pass_masks(pixels.shape[0])
    network = to_channels_last(network_with(weights, recipe, pixels.shape[0]), torch.device("cpu"))
    padding = Padding.for_size(*pixels.shape[1:])
    total = np.zeros(pixels.shape, np.float64)
    for block in range(passes // PASSES_PER_BLOCK):
        padded = np.ascontiguousarray(padding.pad(oriented(pixels, block % turns)))
        maker = MaskMaker(specs, {"H": padded.shape[1], "W": padded.shape[2]}, 0, draws=Draws.BALANCED)
        masks = [torch.from_numpy(mask) for mask in maker.make(block * PASSES_PER_BLOCK, PASSES_PER_BLOCK).values()]
        prediction = network(torch.from_numpy(padded)[None].expand(PASSES_PER_BLOCK, -1, -1, -1), *masks).sum(0).numpy()
        total += undo_orientation(padding.crop(prediction), block % turns)
    return (total / (passes // PASSES_PER_BLOCK * PASSES_PER_BLOCK)).astype(np.float32)


def fitted(pair: Pair, recipe: Recipe, shares: set[float]) -> tuple[dict[float, Weights], float]:
    """Fit `pair`; return the weights after each share of the steps in `shares`, and the seconds of the fit."""
    channels = pair.noisy.shape[0]
    start = start_weights_of(recipe, channels)
    state = new_state(replace(recipe, fitted_share=1.0), channels, 0, torch.device("cpu"), start)
    kept = {0.0: state.weights()}
    steps = {round(share * recipe.steps): share for share in shares}

    def on_step(state: FitState) -> None:
        if state.step in steps:
            kept[steps[state.step]] = state.weights()

    began = time.perf_counter()
    if shares - {0.0}:
        fit(pair.noisy, recipe, state, on_step=on_step)
    return kept, time.perf_counter() - began


def fitted_or_stored(
    pair: Pair, change: str, recipe: Recipe, shares: set[float], cache: Path | None
) -> tuple[dict[float, Weights], float]:
    """Return the result of `fitted`, from the folder `cache` if it has these weights."""
    file = cache and cache / f"{pair.name} {change or 'fast'}.pt".replace(":", " ")
    if file and file.is_file() and shares <= set((stored := torch.load(file))[0]):
        kept, seconds = stored
    else:
        kept, seconds = fitted(pair, recipe, shares)
        if file:
            torch.save((kept, seconds), file)
    return kept, seconds


def infer_scores(kept: dict[float, Weights], pair: Pair, recipe: Recipe, text: str) -> dict[str, Any]:
    """Run the passes of `text` (an `--infer`) with the weights of a fit; return the scores."""
    chosen = infer_settings(text)
    share = chosen.get("fit", recipe.fitted_share)
    weights = {name: torch.lerp(kept[0.0][name], tensor, share) for name, tensor in kept[chosen["at"]].items()}
    recipe = replace(
        recipe,
        pass_drop_rate=chosen.get("drop", recipe.pass_drop_rate),
        decoder_drop_rate=chosen.get("decoder", recipe.decoder_drop_rate),
    )
    result = ensemble(weights, pair.noisy, recipe, int(chosen["passes"]), int(chosen["turns"]))
    return {"infer": text, **pair.scores(result)}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average the scores over the images, for each noise, `--fit` and `--infer`."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["noise"], row["fit"], row["infer"]), []).append(row)
    return [
        {"noise": noise, "fit": change, "infer": text, "images": len(group)}
        | {key: round(float(np.mean([row[key] for row in group])), 3) for key in ("psnr", "ssim")}
        for (noise, change, text), group in groups.items()
    ]


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--images", default="astronaut,coffee,motorcycle_left,immunohistochemistry")
    parser.add_argument("--pairs", type=Path, help="a list of pairs, instead of --images and --noise")
    parser.add_argument("--noise", action="append", default=[], help="kind:sigma, for example poisson:25")
    parser.add_argument("--fit", action="append", default=[], help="changes to the recipe fast, for example steps=100")
    parser.add_argument("--infer", action="append", default=[], help="settings of the passes, for example turns=8")
    parser.add_argument("--cache", type=Path, help="folder that keeps the fits for further runs")
    args = parser.parse_args()
    texts = args.infer or [""]
    for text in texts:
        if infer_settings(text)["passes"] < PASSES_PER_BLOCK:
            parser.error(
                f"--infer {text}: expected at least passes={PASSES_PER_BLOCK}, a whole block of balanced passes"
            )
    shares = {float(infer_settings(text)["at"]) for text in texts}
    rows: list[dict[str, Any]] = []
    made = pairs(args.images.split(","), args.noise or ["gaussian:25"])
    for pair in (seen_by("fast", pair) for pair in (load_pairs(args.pairs) if args.pairs else made)):
        for change in args.fit or [""]:
            recipe = replace(RECIPES["fast"], **parse_changes(change))
            kept, seconds = fitted_or_stored(pair, change, recipe, shares, args.cache)
            for text in texts:
                rows.append(
                    {
                        "image": pair.name.partition(" ")[0],
                        "noise": pair.name.partition(" ")[2],
                        "estimated_sigma": round(measure_noise(pair.noisy).sigma, 2),
                        "fit": change,
                        "steps": recipe.steps,
                        "fit_seconds": round(seconds, 1),
                        **infer_scores(kept, pair, recipe, text),
                    }
                )
                print(f"{pair.name:34} {change:40} {text:30} {rows[-1]['psnr']:6.2f} dB", flush=True)
    means = summary(rows)
    for mean in means:
        print(f"{mean['noise']:34} {mean['fit']:40} {mean['infer']:30} {mean['psnr']:6.2f} dB")
    write_result(args.output, {**provenance("tuning"), "mean": means, "rows": rows})


if __name__ == "__main__":
    main()
