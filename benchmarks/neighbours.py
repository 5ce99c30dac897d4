"""Compare stacks whose pages are fused with their neighbours with stacks that are denoised page by page.

    python -m benchmarks.neighbours -o benchmarks/results/neighbours.json

The frames are 128x128 pixels of photographs of scikit-image, 8-bit grey or colour, with noise of their own:

- ``static``: the same part of the photograph;
- ``moved``: the part moves by up to three whole pixels a frame, in both directions;
- ``parts``: the background moves by one and two pixels a frame, and a disc of another photograph the other way;
- ``cut``: a second photograph from the middle of the stack on;
- ``unrelated``: every frame is of another place, in turn of two photographs;
- ``bleached``: the contrast falls by 3 % a frame;
- ``halves``: the part moves by half a pixel a frame.

Noise is Gaussian of `--sigma` grey levels, or with `--photons N` that of N photons at white. `--fmd FOLDER` takes means
of the FMD set in place of the photographs, as static scenes; the method "mean of the frames" then denoises their mean.
PSNR is the mean over the pages of `self2self.denoise`; ``gain`` is how much more that is than page by page, and
``least_gain`` the same for the page that gained least.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import self2self
from benchmarks.pairs import black_to_white, cut, sample
from benchmarks.results_file import ResultsFile, Row, result_parser
from self2self.image_io import read_image
from self2self.imaging.metrics import psnr

FloatArray = NDArray[np.float32]
SIDE, DISC = 128, 48
PHOTOGRAPHS = {"camera": ("camera", 60, 190, "coins"), "astronaut": ("astronaut", 80, 180, "chelsea")}
"""Sample, top and left of its part, and the sample of the second scene or the disc."""
SCENES = ("static", "moved", "parts", "cut", "unrelated", "bleached", "halves")
APART, FUSED, MEAN = "page by page", "neighbours", "mean of the frames"


def part(image: FloatArray, top: int, left: int) -> FloatArray:
    """A square of the image, moved inside where it would leave it."""
    top, left = (min(max(0, at), side - SIDE) for at, side in zip((top, left), image.shape[1:], strict=True))
    return cut(image, {"top": top, "left": left, "size": SIDE})


def frames(scene: str, name: str, count: int) -> list[FloatArray]:
    """Clean frames, float32 (C, SIDE, SIDE)."""
    first_name, top, left, second_name = PHOTOGRAPHS[name]
    first, second = sample(first_name), sample(second_name)
    other = part(second, 60, 100)
    if scene == "moved":
        steps = np.random.default_rng(1).integers(-3, 4, (count, 2)).cumsum(axis=0)
        return [part(first, top + down, left + right) for down, right in steps]
    if scene == "parts":
        return [with_disc(part(first, top + i, left - 2 * i), other, i) for i in range(count)]
    if scene == "cut":
        return [part(first, top, left) if i < count // 2 else other for i in range(count)]
    if scene == "unrelated":
        return [part((first, second)[i % 2], 20 + 31 * i % 150, 10 + 47 * i % 250) for i in range(count)]
    if scene == "bleached":
        return [np.asarray(0.1 + (part(first, top, left) - 0.1) * 0.97**i, np.float32) for i in range(count)]
    if scene == "halves":
        places = [(part(first, top + i // 2, left), part(first, top + (i + 1) // 2, left)) for i in range(count)]
        return [(before + after) / 2 for before, after in places]
    return [part(first, top, left)] * count


def with_disc(background: FloatArray, other: FloatArray, step: int) -> FloatArray:
    """The background with a disc of `other`, which moves down and to the left, and returns to the other side."""
    rows, columns = np.indices((SIDE, SIDE))
    top, left = (10 + 2 * step) % (SIDE - DISC), (70 - 3 * step) % (SIDE - DISC)
    inside = (rows - top - DISC / 2) ** 2 + (columns - left - DISC / 2) ** 2 < (DISC / 2) ** 2
    return np.where(inside, np.roll(other, (top, left), (1, 2)), background)


def with_noise(clean: FloatArray, seed: int, sigma: float, photons: float | None) -> NDArray[np.uint16]:
    """A noisy frame (H, W, C); 16 bits hold all values from -0.25 to 1.5, so that no noise is cut off."""
    rng = np.random.default_rng(seed)
    noisy = (
        clean + rng.normal(0, sigma / 255, clean.shape) if photons is None else rng.poisson(clean * photons) / photons
    )
    return np.round(np.clip((np.moveaxis(noisy, 0, 2) + 0.25) / 1.75, 0, 1) * 65535).astype(np.uint16)


def scores(result: NDArray[np.uint16], clean: list[FloatArray]) -> list[float]:
    """PSNR of each page."""
    pages = np.moveaxis(result / 65535 * 1.75 - 0.25, 3, 1).astype(np.float32)
    return [psnr(np.clip(page, 0, 1), frame) for page, frame in zip(pages, clean, strict=True)]


def measure(file: ResultsFile, name: str, clean: list[FloatArray], inputs: Row, *, with_mean: bool = False) -> None:
    """Denoise one stack in every way that the file does not have yet."""
    sigma, photons = inputs["sigma"], inputs["photons"]
    noisy = np.stack([with_noise(frame, seed, sigma, photons) for seed, frame in enumerate(clean)])
    fitting = self2self.FitOptions(steps=inputs["steps"])
    alone: list[float] | None = None
    for method in (APART, FUSED, *([MEAN] if with_mean else [])):
        row = file.find(name, method, inputs)
        if row is None:
            given, count = noisy, 0 if method == APART else "auto"
            if method == MEAN:
                given = np.round(noisy.mean(axis=0, keepdims=True)).astype(np.uint16)
            result = self2self.denoise(given, axes="TYXS", neighbours=count, fit_options=fitting)
            pages = scores(np.broadcast_to(result.image, noisy.shape), clean)
            gains = {}
            if alone is not None:
                gain = np.subtract(pages, alone)
                gains = {"gain": round(float(gain.mean()), 3), "least_gain": round(float(gain.min()), 3)}
            row = {"image": name, "method": method, "inputs": inputs, "psnr": round(float(np.mean(pages)), 3), **gains}
            row |= {"pages": [round(page, 3) for page in pages], "notes": list(result.notes)}
            row["seconds"] = round(result.seconds, 1)
            file.put(row)
        alone = row["pages"] if method == APART else alone
        print(f"{name:24} {method:20} {row['psnr']:6.2f} dB {row.get('least_gain', 0):+6.2f}", flush=True)


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--scenes", default=",".join(SCENES), help="scenes, separated by commas")
    parser.add_argument("--images", default=",".join(PHOTOGRAPHS), help="photographs, separated by commas")
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--sigma", type=float, default=25.0)
    parser.add_argument("--photons", type=float, help="photons at white, in place of --sigma")
    parser.add_argument("--steps", type=int, help="steps of each fit (default: from the recipe)")
    parser.add_argument("--fmd", type=Path, help="folder with NAME.mean.png")
    args = parser.parse_args()
    file = ResultsFile(args.output, "python -m benchmarks.neighbours", {"side": SIDE})
    noise = {"sigma": args.sigma, "photons": args.photons}
    inputs = {"frames": args.frames, "steps": args.steps, **noise}
    if args.fmd is not None:
        for path in sorted(args.fmd.glob("*_1.mean.png")):
            clean = part(black_to_white(read_image(path)), 192, 192)
            measure(file, path.name.removesuffix(".mean.png"), [clean] * args.frames, inputs, with_mean=True)
        return
    for scene in args.scenes.split(","):
        for name in args.images.split(","):
            kind = f"{scene}, {name}" + ("" if args.photons is None else f", {args.photons:g} photons")
            measure(file, kind, frames(scene, name, args.frames), inputs)


if __name__ == "__main__":
    main()
