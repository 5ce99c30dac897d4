"""Kinds of noise, as `fast` denoises them without being told anything, beside BM3D and FFDNet.

Both rivals are told the standard deviation that the noise has in this image, which no user knows. Levels:

- white noise of 25 grey levels, also after storage as JPEG of quality 75 with colours at half the resolution;
- photons: at most 10, 30 and 120 of them in a white pixel;
- multiplicative noise, impulses, and a mixture, of 25 grey levels at mid-grey;
- white noise after a Gaussian blur, so that the correlation of pixels 1 to 4 apart is a half;
- one noise for all channels.

Real noise is in docs/quality.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.pairs import FloatArray, Pair, rms_grey_levels, with_blurred_noise
from benchmarks.protocol import Clock
from benchmarks.results_file import Row
from benchmarks.rivals import Rival, make_rivals
from benchmarks.scores import scores
from benchmarks.studies.cost import estimate
from benchmarks.studies.study import Job, Settings, Study, clean_crop, colour, mean_by, new_axes
from self2self.train.synthetic_noise import add_noise, as_jpeg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGMA = 25.0
PEAKS = (10, 30, 120)
DISTANCES = (1, 2, 3, 4)
QUALITY = 75
RIVALS = ("self2self", "ffdnet", "bm3d")
BLUR_OF_DISTANCE = 1 / (2 * math.sqrt(math.log(2)))
"""Standard deviation of a Gaussian filter after which white noise has a correlation of a half one pixel apart."""
MakeNoise = Callable[[FloatArray, np.random.Generator], FloatArray]


def of_kind(kind: str, sigma: float = SIGMA) -> MakeNoise:
    """A kind of `train.synthetic_noise`."""
    return lambda clean, rng: add_noise(clean, kind, sigma, rng)


def photons(peak: float) -> MakeNoise:
    """Photon noise with `peak` photons in a white pixel."""
    return of_kind("poisson", 255 * math.sqrt(0.5 / peak))


def correlated(distance: float) -> MakeNoise:
    """White noise after a blur: a correlation of a half between pixels `distance` apart."""
    return lambda clean, rng: with_blurred_noise(clean, SIGMA, BLUR_OF_DISTANCE * distance, rng)


def shared(clean: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The same white noise in all channels, clipped and rounded to 8 bits."""
    noisy = clean + rng.standard_normal((1, *clean.shape[1:])) * (SIGMA / 255)
    return np.asarray(np.rint(np.clip(noisy, 0, 1) * 255) / 255, np.float32)


def after_jpeg(clean: FloatArray, rng: np.random.Generator) -> FloatArray:
    """White noise that went through a JPEG with colours at half the resolution."""
    return as_jpeg(add_noise(clean, "gaussian", SIGMA, rng), QUALITY, halves_colours=True)


KINDS: dict[str, MakeNoise] = {
    "Gaussian": of_kind("gaussian"),
    **{f"Poisson, peak {peak}": photons(peak) for peak in PEAKS},
    **{f"correlated over {distance} px": correlated(distance) for distance in DISTANCES},
    "shared between channels": shared,
    "after JPEG": after_jpeg,
    "multiplicative": of_kind("multiplicative"),
    "impulses": of_kind("impulse"),
    "mixed": of_kind("mixture"),
}


def pair_of(image: str, side: int, kind: str) -> Pair:
    """A crop with noise of `kind`, seed 0; its σ is the standard deviation that the noise has in it."""
    clean = clean_crop(image, side)
    noisy = KINDS[kind](clean, np.random.default_rng(0))
    return Pair(f"{image}, {kind}", noisy, clean, round(rms_grey_levels(noisy - clean), 2))


def run_rival(rival: Rival, pair: Pair, kind: str, method: str) -> dict[str, Row]:
    """What one method makes of the noise."""
    clock = Clock()
    result = rival.denoise(pair, pair.sigma or 0)
    return {method: {"kind": kind, **clock.row(), **scores(result, pair.clean)}}


def noisy_row(pair: Pair, kind: str) -> dict[str, Row]:
    """Scores of the input."""
    return {"noisy": {"kind": kind, "true_sigma": pair.sigma, **scores(pair.noisy, pair.clean)}}


def jobs(settings: Settings) -> list[Job]:
    """Each method on each kind, method after method, but for methods that cannot run here."""
    known = make_rivals(settings.anchors or Path())
    pairs = {(image, kind): pair_of(image, settings.side, kind) for image in settings.images for kind in KINDS}
    found = [Job(pair.name, ("noisy",), {}, 0, partial(noisy_row, pair, kind)) for (_, kind), pair in pairs.items()]
    for rival in (known[name] for name in RIVALS if not known[name].missing()):
        seconds = estimate(rival.name, settings.side)
        method = f"{rival.name}, σ told" if rival.takes_sigma else rival.name
        for (_, kind), pair in pairs.items():
            inputs = {**rival.inputs(pair), **({"sigma": pair.sigma} if rival.takes_sigma else {})}
            found.append(Job(pair.name, (method,), inputs, seconds, partial(run_rival, rival, pair, kind, method)))
    return found


def draw(rows: list[Row]) -> Figure:
    """What each method gains over the noisy image, by kind."""
    means = mean_by(rows, ("method", "kind"), "psnr")
    methods = [method for method in dict.fromkeys(key[0] for key in means) if method != "noisy"]
    kinds = [kind for kind in KINDS if ("noisy", kind) in means]
    figure, (axes,) = new_axes(height=4.6)
    for index, method in enumerate(methods):
        places = [row + 0.25 * (index - (len(methods) - 1) / 2) for row in range(len(kinds))]
        gains = [means.get((method, kind), float("nan")) - means["noisy", kind] for kind in kinds]
        axes.barh(places, gains, 0.24, color=colour(index), label=method)
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("PSNR over the noisy image (dB)")
    axes.legend(fontsize=8, frameon=False)
    return figure


STUDY = Study(
    "noises",
    "Which kinds of noise does the method remove?",
    Settings(("chelsea",), side=64, steps=0, passes=0),
    Settings(("chelsea", "camera", "astronaut", "coffee"), side=128, steps=0, passes=0),
    jobs,
    draw,
)
