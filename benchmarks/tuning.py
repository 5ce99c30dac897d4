"""What settings of the fit and of the passes are worth, on crops that nothing is reported on.

    python -m benchmarks.tuning --noise gaussian:25 --fit "" --fit input_drop_rate=0.1 \
        --infer "" --infer drop=0.1 -o RESULT.json

Every image (`IMAGES`: crops of scikit-image's samples, with noise of `train.synthetic`, seed 0; with `--pairs`,
those of a list, see `benchmarks.pairs`) is fitted once with every `--fit`, which changes fields of the recipe
``fast``; the result is looked at with every `--infer`: balanced passes over mirrored images as `self2self infer`
draws them, but a fixed number, so that all see the same masks. Settings of `--infer`, separated by commas:

``passes=40``   in all, shared by the orientations
``turns=4``     orientations: 1, 4 (mirrored) or 8 (turned, too)
``drop=0.1``    drop rate of the input; the recipe's unless given
``decoder=0``   drop rate of the decoder, likewise
``fit=0.7``     share of the fitted weights, the rest are those of the start; the recipe's unless given
``at=0.5``      weights after this share of the steps; "at=0" is no fit at all

PSNR as in `benchmarks.fit_quality`. Seconds are those of the fit on a machine that may be loaded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.methods import seen_by
from benchmarks.pairs import Pair, load_pairs
from benchmarks.results_file import write_result
from self2self.bench.environment import environment, shown_command
from self2self.imaging.noise import measure_noise
from self2self.imaging.orientation import oriented, undo_orientation
from self2self.imaging.padding import Padding
from self2self.model.masks import PASSES_PER_BLOCK, Draws, MaskMaker
from self2self.model.network import Self2SelfNet, to_channels_last
from self2self.train.fit import FitState, fit, new_state
from self2self.train.recipes import RECIPES, Recipe
from self2self.train.start_weights import start_weights_for_recipe
from self2self.train.synthetic_noise import add_noise

FloatArray = NDArray[np.float32]
Weights = dict[str, torch.Tensor]

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
"""Samples of scikit-image, and the top left corner of the square that is cut out of each."""
SIZE = 128
DEFAULTS: dict[str, float] = {"passes": 40, "turns": 4, "at": 1.0}


def load(name: str) -> FloatArray:
    """The crop of one sample, (C, 128, 128) in [0, 1]; a grey sample has three equal channels."""
    from skimage import data, img_as_float32

    image = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
    pixels = np.atleast_3d(img_as_float32(image))[..., :3]
    top, left = IMAGES[name]
    crop = pixels[top : top + SIZE, left : left + SIZE].transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(crop, (3, *crop.shape[1:])))


def pairs(names: list[str], noises: list[str]) -> Iterator[Pair]:
    """Every image with every noise, ``kind:sigma``."""
    for noise in noises:
        kind, _, sigma = noise.partition(":")
        for name in names:
            clean = load(name)
            noisy = add_noise(clean, kind, float(sigma), np.random.default_rng(0))
            yield Pair(f"{name} {noise}", noisy, clean, float(sigma))


def settings(text: str) -> dict[str, Any]:
    """`key=value,key=value` with values in JSON."""
    return {key: json.loads(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)}


@torch.no_grad()
def ensemble(weights: Weights, pixels: FloatArray, recipe: Recipe, passes: int, turns: int) -> FloatArray:
    """Mean of balanced passes, a block for each orientation in turn."""
    specs = recipe.pass_masks(pixels.shape[0])
    network = Self2SelfNet(
        pixels.shape[0], recipe.encoder_width, recipe.decoder_widths, specs[-1].keep_probability
    ).eval()
    network.load_state_dict(weights)
    network = to_channels_last(network, torch.device("cpu"))
    padding = Padding.for_size(*pixels.shape[1:])
    total = np.zeros(pixels.shape, np.float64)
    for block in range(passes // PASSES_PER_BLOCK):
        padded = np.ascontiguousarray(padding.pad(oriented(pixels, block % turns)))
        maker = MaskMaker(specs, {"H": padded.shape[1], "W": padded.shape[2]}, 0, draws=Draws.BALANCED)
        masks = [torch.from_numpy(mask) for mask in maker.make(block * PASSES_PER_BLOCK, PASSES_PER_BLOCK).values()]
        prediction = network(torch.from_numpy(padded)[None].expand(PASSES_PER_BLOCK, -1, -1, -1), *masks).sum(0).numpy()
        total += undo_orientation(padding.crop(prediction), block % turns)
    return (total / (passes // PASSES_PER_BLOCK * PASSES_PER_BLOCK)).astype(np.float32)


def fitted(pair: Pair, recipe: Recipe, marks: set[float]) -> tuple[dict[float, Weights], float]:
    """Weights after each share of the steps in `marks`, and the seconds of the whole fit."""
    channels = pair.noisy.shape[0]
    start = start_weights_for_recipe(recipe, channels)
    state = new_state(replace(recipe, fitted_share=1.0), channels, 0, torch.device("cpu"), start)
    kept = {0.0: state.weights()}
    steps = {round(mark * recipe.steps): mark for mark in marks}

    def on_step(state: FitState) -> None:
        if state.step in steps:
            kept[steps[state.step]] = state.weights()

    began = time.perf_counter()
    if marks - {0.0}:
        fit(pair.noisy, recipe, state, on_step=on_step)
    return kept, time.perf_counter() - began


def look(kept: dict[float, Weights], pair: Pair, recipe: Recipe, text: str) -> dict[str, Any]:
    """One row: what `text` (an `--infer`) gives."""
    chosen = DEFAULTS | settings(text)
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
    """Mean scores over the images, for each noise, fit and look."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="astronaut,coffee,motorcycle_left,immunohistochemistry")
    parser.add_argument("--pairs", type=Path, help="a list of pairs in the place of --images and --noise")
    parser.add_argument("--noise", action="append", default=[], help="kind:sigma, for example poisson:25")
    parser.add_argument("--fit", action="append", default=[], help="changes to the recipe fast, for example steps=100")
    parser.add_argument("--infer", action="append", default=[], help="a way to look at the result")
    parser.add_argument("--cache", type=Path, help="folder that keeps the fits, for further --infer")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    looks = args.infer or [""]
    for text in looks:
        if (DEFAULTS | settings(text))["passes"] < PASSES_PER_BLOCK:
            parser.error(
                f"--infer {text}: expected at least passes={PASSES_PER_BLOCK}, a whole block of balanced passes"
            )
    marks = {float((DEFAULTS | settings(text))["at"]) for text in looks}
    rows: list[dict[str, Any]] = []
    made = pairs(args.images.split(","), args.noise or ["gaussian:25"])
    for pair in (seen_by("fast", pair) for pair in (load_pairs(args.pairs) if args.pairs else made)):
        for change in args.fit or [""]:
            recipe = replace(RECIPES["fast"], **settings(change))
            file = args.cache and args.cache / f"{pair.name} {change or 'fast'}.pt".replace(":", " ")
            if file and file.is_file() and marks <= set((stored := torch.load(file))[0]):
                kept, seconds = stored
            else:
                kept, seconds = fitted(pair, recipe, marks)
                if file:
                    torch.save((kept, seconds), file)
            for text in looks:
                rows.append(
                    {
                        "image": pair.name.partition(" ")[0],
                        "noise": pair.name.partition(" ")[2],
                        "estimated_sigma": round(measure_noise(pair.noisy).sigma, 2),
                        "fit": change,
                        "steps": recipe.steps,
                        "fit_seconds": round(seconds, 1),
                        **look(kept, pair, recipe, text),
                    }
                )
                print(f"{pair.name:34} {change:40} {text:30} {rows[-1]['psnr']:6.2f} dB", flush=True)
    means = summary(rows)
    for mean in means:
        print(f"{mean['noise']:34} {mean['fit']:40} {mean['infer']:30} {mean['psnr']:6.2f} dB")
    result = {"command": shown_command("python -m benchmarks.tuning"), **environment(), "mean": means, "rows": rows}
    write_result(args.output, result)


if __name__ == "__main__":
    main()
