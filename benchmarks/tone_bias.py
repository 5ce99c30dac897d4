"""Measure how well the skewness of noise tells whether it has passed a tone curve, and what the correction brings.

    python -m benchmarks.tone_bias DATA -o tone-bias.json --plot tone-bias.svg

Images: those of `benchmarks.told_levels`, the tuning photographs of CBSD68 with added noise, and the same with noise of
linear light (`of_sensor`); the middle 192x192 pixels of each. The prediction is that of the network for a single pass
that is told the level that was found, without any fit. A row has the measured position between noise without tone curve
(0) and with it (1), and PSNR before and after the correction (`imaging.tone_bias`).
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
from benchmarks.told_levels import CLEAN, SIDE, pairs, stored
from self2self.imaging.metrics import psnr
from self2self.imaging.tone_bias import EVIDENCE, ToneBias
from self2self.train.noise_assessment import assess_noise
from self2self.train.prediction import PlainPredictor
from self2self.train.recipes import recipe_for
from self2self.train.start_weights import pretrained_weights
from self2self.train.synthetic_noise import demosaiced, gaussian, poisson

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ADDED = (10.0, 25.0, 50.0)
"""Standard deviations of added noise, in 8-bit grey levels."""
SENSOR = (0.01, 0.03)
"""Strengths of noise in linear light: read noise relative to white, and the variance of photon noise at white."""
WHITE_BALANCE = (2.0, 1.0, 1.7)
COLOURS_OF_SENSOR = ((1.6, -0.45, -0.15), (-0.25, 1.5, -0.25), (0.0, -0.5, 1.5))


def of_sensor(clean: FloatArray, level: float, rng: np.random.Generator) -> FloatArray:
    """A photograph of a scene `clean` (3, H, W), in sRGB: noise in linear light, interpolation, colours, tone curve."""
    linear = np.where(clean <= 0.04045, clean / 12.92, ((clean + 0.055) / 1.055) ** 2.4)
    colours, balance = np.array(COLOURS_OF_SENSOR), np.array(WHITE_BALANCE)[:, None, None]
    sensor = np.clip(np.einsum("ab,bij->aij", np.linalg.inv(colours), linear) / balance, 0, 1)
    noise = rng.standard_normal(clean.shape) * np.sqrt(level * sensor + level**2)
    mixed = np.clip(sensor + demosaiced(noise.astype(np.float32), rng), 0, 1) * balance
    light = np.clip(np.einsum("ab,bij->aij", colours, mixed), 0, 1)
    return stored(np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 1e-9) ** (1 / 2.4) - 0.055))


def all_pairs(data: Path) -> Iterator[tuple[str, Pair]]:
    """All images, each with the name of its group."""
    yield from pairs(data)
    protocol = PROTOCOLS[CLEAN]
    rng = np.random.default_rng(1)
    for case in protocol.cases(data, load_sets()[protocol.data_set], "tuning"):
        pair = case.load(SIDE)
        for sigma in ADDED:
            yield "added noise", replace(pair, noisy=stored(gaussian(pair.clean, sigma, rng)))
            yield "photon noise", replace(pair, noisy=stored(poisson(pair.clean, sigma, rng)))
        for level in SENSOR:
            yield "simulated sensor", replace(pair, noisy=of_sensor(pair.clean, level, rng))


def row(group: str, pair: Pair) -> dict[str, Any]:
    """What is found in an image, and PSNR before and after."""
    recipe = recipe_for("fast")
    weights = partial(pretrained_weights, len(pair.noisy))
    found = assess_noise(pair.noisy, weights, recipe)
    prediction = PlainPredictor(weights(found.told, single_pass=True), recipe)(pair.noisy)
    removed = found.removed_share * (prediction - pair.noisy)
    result = np.clip(pair.noisy + removed, 0, 1)
    bias = ToneBias(result.shape)
    bias.see(0, pair.noisy, result)
    after = result.copy()
    bias.restore(after)
    return {
        "group": group,
        "image": pair.name,
        "sigma": found.sigma,
        "position": round(bias.position(), 3),
        "before": round(psnr(result, pair.clean), 3),
        "after": round(psnr(after, pair.clean), 3),
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """Position and change of PSNR by group."""
    lines = []
    for group in dict.fromkeys(found["group"] for found in rows):
        chosen = [found for found in rows if found["group"] == group]
        places = [found["position"] for found in chosen]
        changes = [found["after"] - found["before"] for found in chosen]
        before, after = (np.mean([found[key] for found in chosen]) for key in ("before", "after"))
        span = f"{min(places):.2f} to {max(places):.2f}"
        lines.append([group, str(len(chosen)), span, f"{before:.2f}", f"{after:.2f}", f"{min(changes):+.2f}"])
    return table(["group", "images", "position", "before, dB", "after, dB", "worst change"], lines)


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw the change of each image over its position."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, group in enumerate(dict.fromkeys(found["group"] for found in rows)):
        chosen = [found for found in rows if found["group"] == group]
        changes = [found["after"] - found["before"] for found in chosen]
        axes.plot([found["position"] for found in chosen], changes, ".", color=f"C{index % 10}", label=group)
    for limit in EVIDENCE:
        axes.axvline(limit, color="grey", linewidth=0.5)
    axes.set(
        xlabel="skewness of the noise, from that without tone curve (0) to that with it (1)",
        ylabel="change of PSNR, dB",
        xlim=(-1.2, 1.6),
    )
    axes.legend(fontsize=7)
    return figure


def shown(found: dict[str, Any]) -> str:
    """A row in one line."""
    change = f"{found['before']:.2f} -> {found['after']:.2f}"
    return f"{found['group']:16} {found['image'][:36]:36} {found['position']:6.2f}  {change}"


def main() -> None:
    """Measure, print and write."""
    measure_images(
        __doc__,
        "tone_bias",
        lambda data: (row(group, pair) for group, pair in all_pairs(data)),
        shown,
        draw,
        summary=summary,
    )


if __name__ == "__main__":
    main()
