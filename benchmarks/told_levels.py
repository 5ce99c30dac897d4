"""Measure how near the level that start weights are told is to the level with the best result.

    python -m benchmarks.told_levels DATA -o told-levels.json --plot told-levels.svg

Images: the tuning images of PolyU, CC, SIDD and FMD in the folder DATA, and the tuning photographs of CBSD68 with noise
of 20 grey levels that goes through JPEG, is equal in all channels, or belongs to a grey image stored as RGB; the middle
192x192 pixels of each. The network for a single pass, without any fit, is told each level of `LEVELS`. A row has the
level that the assessment finds, and PSNR by level. The summary has the mean PSNR of each group if every image is told a
multiple of what was found, and its best level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pairs import FloatArray, Pair
from benchmarks.protocols import PROTOCOLS
from benchmarks.results_file import measure_images
from benchmarks.sets import load_sets
from benchmarks.tables import table
from self2self.imaging.metrics import psnr
from self2self.imaging.noise import GREY_LEVELS, NoiseKind
from self2self.train.noise_assessment import assess_noise
from self2self.train.prediction import PlainPredictor
from self2self.train.recipes import recipe_for
from self2self.train.start_weights import pretrained_weights
from self2self.train.synthetic_noise import as_jpeg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL = ("polyu", "cc", "sidd", "fmd")
CLEAN = "cbsd68-25"
SIDE = 192
SIGMA = 20.0
QUALITIES = (90, 75)
LEVELS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5, 11.0, 16.0, 24.0, 36.0, 54.0, 80.0)
"""Told levels, in 8-bit grey levels."""
FACTORS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5)
"""Multiples of the level that was found."""
NEARLY_BEST = 0.1
"""Loss of PSNR, in dB, up to which a level is drawn as nearly the best."""


def stored(pixels: FloatArray) -> FloatArray:
    """`pixels` after clipping and rounding to 8 bits."""
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * GREY_LEVELS) / GREY_LEVELS, np.float32)


def with_shared_noise(pair: Pair, rng: np.random.Generator) -> Iterator[tuple[str, Pair]]:
    """The clean image of `pair` with noise that its channels share, each with the name of its group."""
    clean = pair.clean
    grey = clean.mean(0, keepdims=True)
    noise = SIGMA / GREY_LEVELS * rng.normal(size=clean.shape)
    for quality in QUALITIES:
        yield f"JPEG {quality}", replace(pair, noisy=as_jpeg(clean + noise, quality, halves_colours=True))
    yield "luminance noise", replace(pair, noisy=stored(clean + noise[:1]))
    as_rgb = np.repeat(stored(grey + noise[:1]), 3, axis=0)
    yield "grey as RGB", replace(pair, noisy=as_rgb, clean=np.repeat(grey, 3, axis=0))


def pairs(data: Path) -> Iterator[tuple[str, Pair]]:
    """All images, each with the name of its group."""
    sets = load_sets()
    for name in REAL:
        yield from ((name, case.load(SIDE)) for case in PROTOCOLS[name].cases(data, sets[name], "tuning"))
    protocol = PROTOCOLS[CLEAN]
    rng = np.random.default_rng(0)
    for case in protocol.cases(data, sets[protocol.data_set], "tuning"):
        yield from with_shared_noise(case.load(SIDE), rng)


def row(group: str, pair: Pair) -> dict[str, Any]:
    """What is found in an image, and PSNR by told level."""
    recipe = recipe_for("fast")
    weights = partial(pretrained_weights, len(pair.noisy))
    found = assess_noise(pair.noisy, weights, recipe)

    def result(level: float) -> float:
        removed = PlainPredictor(weights(level, single_pass=True), recipe)(pair.noisy) - pair.noisy
        return psnr(np.clip(pair.noisy + found.removed_share * removed, 0, 1), pair.clean)

    curve = {level: round(result(level), 3) for level in LEVELS}
    true = GREY_LEVELS * float(np.std(pair.noisy - pair.clean))
    return {"group": group, "image": pair.name, "true_sigma": round(true, 2), **found.to_json(), "psnr": curve}


def psnr_at(found: dict[str, Any], level: float) -> float:
    """PSNR of a row at any level, interpolated."""
    levels, values = np.log(list(found["psnr"])), list(found["psnr"].values())
    return float(np.interp(np.log(level), levels, values))


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean PSNR of each group by factor, and at the best level of each image; noise that is not independent."""
    lines = []
    for group in dict.fromkeys(found["group"] for found in rows):
        chosen = [found for found in rows if found["group"] == group]
        means = [np.mean([psnr_at(found, factor * found["told"]) for found in chosen]) for factor in FACTORS]
        best = np.mean([max(found["psnr"].values()) for found in chosen])
        lines.append([group, str(len(chosen)), *(f"{mean:.2f}" for mean in means), f"{best:.2f}"])
    return table(["group", "images", *(f"{factor:g} × found" for factor in FACTORS), "best of the grid"], lines)


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw the range of nearly the best levels of each image, over the level that was found, by correlation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    levels = np.geomspace(LEVELS[0], LEVELS[-1], 200)
    for index, group in enumerate(dict.fromkeys(found["group"] for found in rows)):
        for found in (found for found in rows if found["group"] == group):
            values = np.array([psnr_at(found, level) for level in levels])
            near = levels[values >= values.max() - NEARLY_BEST] / found["told"]
            place = [found["correlation"]] * 2
            axes.semilogy(place, [near[0], near[-1]], color=f"C{index}", linewidth=0.8)
            axes.plot(place[:1], levels[values.argmax()] / found["told"], ".", color=f"C{index}")
        axes.plot([], [], ".", color=f"C{index}", label=group)
    axes.axhline(1, color="grey", linewidth=0.5)
    axes.set(xlabel="correlation of neighbours in what is removed", ylabel="best level / level found")
    axes.legend(fontsize=7)
    return figure


def shown(found: dict[str, Any]) -> str:
    """A row in one line."""
    return (
        f"{found['group']:16} {found['image'][:36]:36} true {found['true_sigma']:6.2f}  told {found['sigma']:6.2f}  "
        f"best {max(found['psnr'], key=found['psnr'].get):5.1f}"
    )


def not_independent(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of noise that is not independent."""
    return [found for found in rows if found["kind"] != NoiseKind.INDEPENDENT]


def main() -> None:
    """Measure, print and write."""
    measure_images(
        __doc__,
        "told_levels",
        lambda data: (row(group, pair) for group, pair in pairs(data)),
        shown,
        lambda rows: draw(not_independent(rows)),
        summary=lambda rows: f"Noise that is not independent:\n\n{summary(not_independent(rows))}",
        levels=list(LEVELS),
    )


if __name__ == "__main__":
    main()
