"""Measure what of the removed difference is noise, where texture and JPEG look like it.

    python -m benchmarks.removed_share DATA -o removed-share.json --plot removed-share.svg

Images, the middle 192x192 pixels of each: the tuning images of PolyU, CC and (every third) SIDD; every sixth photograph
that the start weights were made from, and five with sand, grass or fur, as they are and with noise; and the tuning
photographs of CBSD68 with and without noise, stored as JPEG of five qualities. The prediction is that of the network
for a single pass that is told the level that was found, without any fit. A row has the evidence
(`train.noise_assessment.FirstLook.shared`, `imaging.jpeg_traces`), the share that is removed, and PSNR for this and for
other shares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pairs import Pair
from benchmarks.protocols import PROTOCOLS
from benchmarks.results_file import measure_images
from benchmarks.sets import load_sets
from benchmarks.tables import table
from benchmarks.told_levels import CLEAN, SIDE, stored
from self2self.image_io import read_image
from self2self.imaging.jpeg_traces import quantisation_step
from self2self.imaging.metrics import psnr
from self2self.imaging.noise import center_crop
from self2self.train.noise_assessment import (
    STEP_OF_ERRORS,
    TEXTURE_CORRELATIONS,
    TEXTURE_LIKENESS,
    FirstLook,
    assess_noise,
)
from self2self.train.prediction import PlainPredictor
from self2self.train.recipes import recipe_for
from self2self.train.start_weights import pretrained_weights
from self2self.train.synthetic_noise import as_jpeg, gaussian

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL = {"polyu": 1, "cc": 1, "sidd": 3}
"""Data sets with real noise, and every how many of their images is taken."""
PHOTOGRAPHS = ("photos/cid22/*.png", "photos/gb82/*.png")
EVERY = 6
TEXTURES = ("sand", "3571065", "146083", "1570264", "3396657")
"""Photographs among them that are mostly sand, grass or fur."""
QUALITIES = (95, 90, 85, 75, 60)
SIGMAS = (0.0, 6.0)
"""Standard deviations of added noise, in 8-bit grey levels."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
BOUND = 60.0
"""Larger PSNR, in dB, counts as this; it is infinite for an image without noise that stays as it is."""


def all_pairs(data: Path) -> Iterator[tuple[str, Pair]]:
    """All images, each with the name of its group."""
    sets, rng = load_sets(), np.random.default_rng(2)
    for name, every in REAL.items():
        cases = PROTOCOLS[name].cases(data, sets[name], "tuning")[::every]
        yield from ((name, case.load(SIDE)) for case in cases)
    files = [path for pattern in PHOTOGRAPHS for path in sorted(data.glob(pattern))]
    for path in files[::EVERY]:
        yield from _with_noise("photograph", path, rng)
    for path in (path for path in files if path.stem in TEXTURES):
        yield from _with_noise("texture", path, np.random.default_rng(2))
    protocol = PROTOCOLS[CLEAN]
    for case in protocol.cases(data, sets[protocol.data_set], "tuning"):
        pair = case.load(SIDE)
        for sigma in SIGMAS:
            noisy = stored(gaussian(pair.clean, sigma, rng) if sigma else pair.clean)
            for quality in QUALITIES:
                made = replace(pair, noisy=as_jpeg(noisy, quality, halves_colours=True))
                yield f"JPEG {quality}, σ {sigma:g}", made


def _with_noise(kind: str, path: Path, rng: np.random.Generator) -> Iterator[tuple[str, Pair]]:
    clean = center_crop(read_image(path, whole_range=True).pixels, SIDE)
    for sigma in SIGMAS:
        noisy = stored(gaussian(clean, sigma, rng) if sigma else clean)
        yield f"{kind}, σ {sigma:g}", Pair(path.stem, noisy, clean, sigma)


def row(group: str, pair: Pair) -> dict[str, Any]:
    """The evidence in an image, and PSNR by share."""
    recipe = recipe_for("fast")
    weights = partial(pretrained_weights, len(pair.noisy))
    found = assess_noise(pair.noisy, weights, recipe)
    look = FirstLook(pair.noisy, weights, recipe)
    likeness, correlation = look.shared
    removed = PlainPredictor(weights(found.told, single_pass=True), recipe)(pair.noisy) - pair.noisy

    def result(share: float) -> float:
        return round(min(BOUND, psnr(np.clip(pair.noisy + share * removed, 0, 1), pair.clean)), 3)

    return {
        "group": group,
        "image": pair.name,
        **found.to_json(),
        "likeness": round(likeness, 3),
        "shared_correlation": round(correlation, 3),
        "strength": round(look.removed, 2),
        "texture": round(look.texture, 3),
        "step": round(quantisation_step(pair.noisy), 2),
        "before": result(0.0),
        "after": result(found.removed_share),
        "psnr": {share: result(share) for share in SHARES},
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """Mean PSNR of each group."""
    lines = []
    for group in dict.fromkeys(found["group"] for found in rows):
        chosen = [found for found in rows if found["group"] == group]
        shares = [np.mean([found["psnr"][share] for found in chosen]) for share in SHARES]
        worst = min(found["after"] - found["before"] for found in chosen)
        after = np.mean([found["after"] for found in chosen])
        lines.append([group, str(len(chosen)), *(f"{mean:.2f}" for mean in shares), f"{after:.2f}", f"{worst:+.2f}"])
    return table(["group", "images", *(f"share {share:g}" for share in SHARES), "as told", "worst change"], lines)


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw where texture lies, and the best share of JPEGs over their steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    groups = [group for group in dict.fromkeys(found["group"] for found in rows) if not group.startswith("JPEG")]
    for index, group in enumerate(groups):
        chosen = [found for found in rows if found["group"] == group]
        sizes = [4 + 2 * found["strength"] for found in chosen]
        places = ([found["shared_correlation"] for found in chosen], [found["likeness"] for found in chosen])
        left.scatter(*places, s=sizes, color=f"C{index}", alpha=0.6, label=group)
    for limit in TEXTURE_LIKENESS:
        left.axhline(limit, color="grey", linewidth=0.5)
    for limit in (limit for limits in TEXTURE_CORRELATIONS for limit in limits):
        left.axvline(limit, color="grey", linewidth=0.5)
    left.set(
        xlabel="correlation of neighbours in what is removed, without independent noise",
        ylabel="smallest correlation of two channels in it",
        xlim=(-0.2, 0.8),
        ylim=(-0.6, 1.1),
    )
    left.legend(fontsize=7)
    stored_as_jpeg = [found for found in rows if found["group"].startswith("JPEG")]
    for index, sigma in enumerate(SIGMAS):
        chosen = [found for found in stored_as_jpeg if found["group"].endswith(f"σ {sigma:g}")]
        steps = sorted({found["step"] for found in chosen})
        best = [best_share([found for found in chosen if found["step"] == step]) for step in steps]
        right.plot(steps, best, "o", color=f"C{index}", label=f"best share, σ {sigma:g}")
    line = np.linspace(0, 12, 50)
    right.plot(line, np.minimum(1, line / STEP_OF_ERRORS), color="grey", label="smallest share")
    right.set(
        xlabel="step of JPEG that is found, grey levels (0: none)", ylabel="share of the difference", ylim=(-0.05, 1.05)
    )
    right.legend(fontsize=7)
    return figure


def best_share(rows: list[dict[str, Any]]) -> float:
    """The share of `SHARES` with the highest mean PSNR."""
    return max(SHARES, key=lambda share: math.fsum(found["psnr"][share] for found in rows))


def shown(found: dict[str, Any]) -> str:
    """A row in one line."""
    change = f"{found['before']:.2f} -> {found['after']:.2f}"
    return f"{found['group']:18} {found['image'][:30]:30} {found['removed_share']:5.2f}  {change}"


def main() -> None:
    """Measure, print and write."""
    measure_images(
        __doc__,
        "removed_share",
        lambda data: (row(group, pair) for group, pair in all_pairs(data)),
        shown,
        draw,
        summary=summary,
    )


if __name__ == "__main__":
    main()
