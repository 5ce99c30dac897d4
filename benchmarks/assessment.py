"""Measure how well the noise assessment tells noise from detail, and kinds of noise from each other.

    python -m benchmarks.assessment DATA -o assessment.json --plot assessment.svg

Images: the tuning images of PolyU, CC, SIDD and FMD in the folder DATA (middle 256x256 pixels); the clean tuning
photographs of CBSD68 with white noise of 0 to 25 grey levels; and the lists `weak`, `noises`, `unlike` and `shared`.
For each image the result has the true standard deviation of the noise and what the assessment finds. The plot shows the
evidence by which it tells independent noise from other noise, and where it blends.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pairs import Pair, load_pairs
from benchmarks.product import FloatArray
from benchmarks.protocols import PROTOCOLS, with_noise
from benchmarks.results_file import measure_images
from benchmarks.sets import load_sets
from self2self.imaging.noise import GREY_LEVELS
from self2self.train.noise_assessment import INDEPENDENT_EVIDENCE, assess_noise
from self2self.train.recipes import recipe_for
from self2self.train.start_weights import pretrained_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LISTS = Path(__file__).with_name("lists")
LIST_NAMES = ("weak", "noises", "unlike", "shared")
REAL = ("polyu", "cc", "sidd", "fmd")
CLEAN = "cbsd68-25"
SIGMAS = (0, 1, 2.5, 5, 10, 25)
SIDE = 256


def pairs(data: Path) -> Iterator[tuple[str, Pair]]:
    """All images, each with the name of its group."""
    sets = load_sets()
    for name in REAL:
        yield from ((name, case.load(SIDE)) for case in PROTOCOLS[name].cases(data, sets[name], "tuning"))
    protocol = PROTOCOLS[CLEAN]
    for case in protocol.cases(data, sets[protocol.data_set], "tuning"):
        pair = case.load(SIDE)
        for sigma in SIGMAS:
            yield f"photographs, sigma {sigma:g}", with_noise(pair.name, pair.clean, sigma, clipped=True)
    for name in LIST_NAMES:
        yield from ((name, pair) for pair in load_pairs(LISTS / f"{name}.json"))


def row(group: str, noisy: FloatArray, clean: FloatArray, name: str) -> dict[str, Any]:
    """What is true of an image, and what the assessment finds."""
    found = assess_noise(noisy, partial(pretrained_weights, len(noisy)), recipe_for("fast"))
    true = GREY_LEVELS * float(np.std(noisy - clean))
    return {"group": group, "image": name, "true_sigma": round(true, 2), **found.to_json()}


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draw the level that was found against the true one, and the removed share against the true level."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    levels, shares = figure.subplots(1, 2)
    for axes in (levels, shares):
        axes.set_prop_cycle(color=colormaps["tab20"].colors)
    for group in dict.fromkeys(found["group"] for found in rows):
        chosen = [found for found in rows if found["group"] == group]
        true = [max(0.2, found["true_sigma"]) for found in chosen]
        levels.loglog(true, [max(0.2, found["sigma"]) for found in chosen], ".", label=group)
        shares.semilogx(true, [found["removed_share"] for found in chosen], ".")
    levels.plot([0.2, 80], [0.2, 80], color="grey", linewidth=0.5)
    levels.set(xlabel="true standard deviation (grey levels)", ylabel="told level (grey levels)")
    shares.set(xlabel="true standard deviation (grey levels)", ylabel="removed share")
    levels.legend(fontsize=6)
    return figure


def shown(found: dict[str, Any]) -> str:
    """A row in one line."""
    return (
        f"{found['group']:24} {found['image'][:40]:40} true {found['true_sigma']:6.2f}  told {found['sigma']:6.2f}  "
        f"{found['kind']:18} removed {found['removed_share']:.2f}"
    )


def main() -> None:
    """Assess, print and write."""
    measure_images(
        __doc__,
        "assessment",
        lambda data: (row(group, pair.noisy, pair.clean, pair.name) for group, pair in pairs(data)),
        shown,
        draw,
        evidence=list(INDEPENDENT_EVIDENCE),
    )


if __name__ == "__main__":
    main()
