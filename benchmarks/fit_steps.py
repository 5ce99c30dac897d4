"""Measure what fits of several lengths bring, by kind of noise, and what tells without a clean image that one is done.

    python -m benchmarks.fit_steps DATA -o benchmarks/results/fit-steps.json

DATA is the folder of the evaluation images (`benchmarks.sets`). Only tuning images are read: CBSD68 with simulated
noise, and 128x128 pixels of PolyU, CC, SIDD and FMD. Each length is a fit of its own, whose rates fall to zero at its
end. PSNR is that of the single pass (mean of four mirrored views; also of one and of two) on the fitted crop, and for
CBSD68 on another crop of the photograph (`apart`), beside the mean of 16 passes there.

Two figures need no clean image: `change`, the RMS change of the prediction since the start weights in 8-bit grey
levels, and `hidden`, the RMS error of predicted hidden values.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.clocked import Stopwatch, clocked_fit
from benchmarks.pairs import rms_grey_levels
from benchmarks.product import adapted, network_with, start_weights_of
from benchmarks.results_file import ResultsFile, result_parser
from self2self.image_io import read_image
from self2self.imaging.metrics import psnr
from self2self.imaging.noise import Noise
from self2self.imaging.orientation import oriented, undo_orientation
from self2self.model.masks import MaskMaker
from self2self.model.plain import MIRRORINGS
from self2self.train.prediction import mirrored_passes
from self2self.train.recipes import Recipe, recipe_for
from self2self.train.single_pass import transferred
from self2self.train.start_weights import pretrained_weights
from self2self.train.synthetic_noise import add_noise

FloatArray = NDArray[np.float32]

STEPS = (0, 50, 150)
SIDE = 128
HIDDEN_PASSES = 8
SIMULATED = {
    "white 5": ("gaussian", 5.0),
    "white 15": ("gaussian", 15.0),
    "white 25": ("gaussian", 25.0),
    "white 50": ("gaussian", 50.0),
    "photons 20": ("poisson", 20.0),
    "correlated 15": ("correlated", 15.0),
    "shared 20": ("shared", 20.0),
}
"""Kinds of simulated noise: name in `train.synthetic_noise` and level in grey levels; ``shared`` is one noise for all
channels."""
CAMERAS = {
    "PolyU": ("polyu/noisy", "polyu/mean", "*"),
    "CC": ("cc", "cc", "*_1.noisy.png"),
    "SIDD": ("sidd/tuning", "sidd/tuning", "*.noisy.png"),
    "FMD": ("fmd", "fmd", "*_1.noisy.png"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A crop to fit to, float32 (C, H, W), its clean version, and another crop of the same image, if there is one."""

    kind: str
    name: str
    noisy: FloatArray
    clean: FloatArray
    apart: tuple[FloatArray, FloatArray] | None = None


def crop(pixels: FloatArray, top: int, left: int) -> FloatArray:
    """`SIDE` x `SIDE` pixels of (C, H, W)."""
    return np.ascontiguousarray(pixels[:, top : top + SIDE, left : left + SIDE])


def middle(pixels: FloatArray) -> FloatArray:
    """The middle `SIDE` x `SIDE` pixels of (C, H, W)."""
    return crop(pixels, (pixels.shape[1] - SIDE) // 2, (pixels.shape[2] - SIDE) // 2)


def pixels_of(path: Path) -> FloatArray:
    """Read an image as float32 (C, H, W) from black to white."""
    return read_image(path, whole_range=True).pixels


def cases(data: Path) -> Iterator[Case]:
    """All cases; those of a kind lie apart, so that an unfinished result tells of all kinds."""
    places = json.loads((data / "crops.json").read_text())["crops"]
    cameras = {kind: _camera_files(data, *places) for kind, places in CAMERAS.items()}
    for index in range(6):
        place = places[index]
        whole = pixels_of(data / "cbsd68/clean" / place["image"])
        for kind, (noise, sigma) in SIMULATED.items():
            rng = np.random.default_rng(index)
            if noise == "shared":
                drawn = rng.standard_normal((1, *whole.shape[1:])) * (sigma / 255)
                noisy = np.asarray(np.rint(np.clip(whole + drawn, 0, 1) * 255) / 255, np.float32)
            else:
                noisy = add_noise(whole, noise, sigma, rng)
            here = place["top"], place["left"]
            away = [
                0 if start > (length - SIDE) // 2 else length - SIDE
                for start, length in zip(here, whole.shape[1:], strict=True)
            ]
            pair = (crop(noisy, *away), crop(whole, *away))
            yield Case(kind, place["name"], crop(noisy, *here), crop(whole, *here), pair)
        for kind, files in cameras.items():
            if index < len(files):
                noisy_path, clean_path = files[index]
                yield Case(kind, noisy_path.name, middle(pixels_of(noisy_path)), middle(pixels_of(clean_path)))


def _camera_files(data: Path, noisy: str, clean: str, pattern: str) -> list[tuple[Path, Path]]:
    pairs = []
    for path in sorted((data / noisy).glob(pattern)):
        stem = path.name.split(".")[0]
        other = next(
            p
            for p in sorted((data / clean).iterdir())
            if p.name.split(".")[0] == stem and p != path and "noisy" not in p.name
        )
        pairs.append((path, other))
    return pairs[:: max(1, len(pairs) // 6)]


@torch.no_grad()
def views(weights: dict[str, torch.Tensor], image: FloatArray, recipe: Recipe) -> list[FloatArray]:
    """Predictions for each mirrored view, upright again, in the order of `MIRRORINGS`; H and W are multiples of 32."""
    network = network_with(weights, recipe, len(image), single_pass=True)
    made = (undo_orientation(network(oriented(torch.from_numpy(image)[None], m)), m) for m in MIRRORINGS)
    return [view[0].numpy() for view in made]


@torch.no_grad()
def hidden_error(weights: dict[str, torch.Tensor], image: FloatArray, recipe: Recipe) -> float:
    """RMS error of the predictions of hidden values, in 8-bit grey levels."""
    specs = recipe.masks(len(image))
    network = network_with(weights, recipe, len(image))
    maker = MaskMaker(specs, {"H": SIDE, "W": SIDE}, 99)
    squares, count = 0.0, 0
    for index in range(HIDDEN_PASSES):
        masks = [torch.from_numpy(mask) for mask in maker.make(index, 1).values()]
        hidden = ~masks[0][0].numpy()
        error = (network(torch.from_numpy(image)[None], *masks)[0].numpy() - image)[hidden]
        squares, count = squares + float(np.square(error, dtype=np.float64).sum()), count + error.size
    return 255 * float(np.sqrt(squares / count))


def scored(predictions: list[FloatArray], clean: FloatArray) -> list[float]:
    """PSNR of the mean of the first, the first two and the first four predictions."""
    counts = (1, 2, 4)
    return [round(psnr(np.clip(np.mean(predictions[:count], axis=0), 0, 1), clean), 3) for count in counts]


def measure(
    case: Case, recipe: Recipe, noise: Noise, length: int, before: FloatArray | None
) -> tuple[dict[str, Any], FloatArray]:
    """A row of results, and the prediction; `before` is that of the start weights."""
    channels = len(case.noisy)
    recipe = replace(recipe, steps=length)
    start = start_weights_of(recipe, channels, noise)
    assert start is not None  # noqa: S101 - `fast` has start weights where it has noise
    watch = Stopwatch()
    fitted = clocked_fit(case.noisy, recipe, start, watch).weights()
    single = transferred(fitted, start, pretrained_weights(channels, noise.sigma, single_pass=True))
    predictions = views(single, case.noisy, recipe)
    prediction = np.mean(predictions, axis=0)
    row: dict[str, Any] = {
        "kind": case.kind,
        "noise": noise.to_json(),
        "target": recipe.target,
        "steps": length,
        **watch.seconds("fit_"),
        "views": scored(predictions, case.clean),
        "psnr_noisy": round(psnr(case.noisy, case.clean), 3),
        "change": 0.0 if before is None else round(rms_grey_levels(prediction - before), 4),
        "hidden": round(hidden_error(fitted, case.noisy, recipe), 4),
    }
    if case.apart is not None:
        noisy, clean = case.apart
        row["apart"] = scored(views(single, noisy, recipe), clean)
        if length == STEPS[-1]:
            passes = np.mean(mirrored_passes(fitted, noisy, recipe, 4), axis=0)
            row["apart_passes"] = round(psnr(np.clip(passes, 0, 1), clean), 3)
    return row, prediction


def main() -> None:
    """Measure what the results file lacks."""
    parser = result_parser(__doc__)
    parser.add_argument("data", type=Path, help="folder of the evaluation images")
    arguments = parser.parse_args()
    results = ResultsFile(arguments.output, "python -m benchmarks.fit_steps", {"steps": STEPS, "side": SIDE})
    began = time.monotonic()
    for case in cases(arguments.data):
        image = f"{case.kind}: {case.name}"
        if all(results.find(image, f"{length} steps", {}) for length in STEPS):
            continue
        recipe, noise = adapted(recipe_for("fast"), case.noisy)
        if noise is None:
            raise SystemExit(f"{case.name}: there are no start weights for {len(case.noisy)} channels")
        before = None
        for length in STEPS:
            row, prediction = measure(case, recipe, noise, length, before)
            if length == 0:
                before = prediction
            results.put({"image": image, "method": f"{length} steps", "inputs": {}, "psnr": row["views"][-1], **row})
        print(f"{time.monotonic() - began:6.0f} s {image}", flush=True)


if __name__ == "__main__":
    main()
