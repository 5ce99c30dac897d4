"""PSNR against seconds for all methods of one protocol, and the methods that no other beats in both.

    python -m benchmarks.pareto RESULT.json -o PLOT.svg

`RESULT.json` is of `benchmarks.protocol`. A point is a method's mean PSNR and its median seconds, both over
all images; methods that lack images are left out. Hollow points were told the true σ, or had theirs chosen with the
clean images, which no user can do. So the front is drawn through the filled points alone; ``--told`` takes all points.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.tables import table
from self2self.bench.charts import COLOURS, GREY
from self2self.machine.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOLD = ("σ true", "best σ", "one σ")
"""How the second part of a method's name begins where σ is not the method's own."""
LEAST_SECONDS = 1e-3
"""To which times are rounded: a logarithmic axis has no 0."""


@dataclass(frozen=True, slots=True)
class Point:
    """One method.

    Attributes:
        method: its name.
        seconds: median for an image.
        psnr: mean over images, in dB.
        told: whether it was told the true σ, or had it chosen with the clean images.
    """

    method: str
    seconds: float
    psnr: float
    told: bool


def points(rows: list[dict[str, Any]]) -> list[Point]:
    """All methods that have a time and a result for each image, fastest first."""
    images = {row["image"] for row in rows}
    timed = [row for row in rows if "seconds" in row and "psnr" in row and not row.get("grid")]
    found = []
    for method in dict.fromkeys(row["method"] for row in timed):
        own = [row for row in timed if row["method"] == method]
        if {row["image"] for row in own} == images:
            seconds, psnr = (
                float(of([row[key] for row in own])) for key, of in (("seconds", np.median), ("psnr", np.mean))
            )
            found.append(Point(method, max(seconds, LEAST_SECONDS), psnr, method.partition(", ")[2].startswith(TOLD)))
    return sorted(found, key=lambda point: (point.seconds, -point.psnr))


def front(found: list[Point], *, told: bool = False) -> list[Point]:
    """The points of `points` that no other beats in both seconds and PSNR.

    Args:
        found: fastest first.
        told: whether methods that were told σ count, too.
    """
    best: list[Point] = []
    for point in found:
        if (told or not point.told) and (not best or point.psnr > best[-1].psnr):
            best.append(point)
    return best


def front_table(found: list[Point], best: list[Point]) -> str:
    """A line for each method."""
    lines = [
        [
            point.method,
            f"{point.seconds:.1f}",
            f"{point.psnr:.2f}",
            "yes" if point.told else "",
            "yes" if point in best else "",
        ]
        for point in found
    ]
    return table(["method", "seconds, median", "PSNR", "told σ", "on the front"], lines)


def draw(found: list[Point], best: list[Point], title: str) -> Figure:
    """The plot."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for point in found:
        colour = COLOURS[0] if point.method.startswith("self2self") else GREY
        face = "none" if point.told else colour
        axes.plot(point.seconds, point.psnr, "o", color=colour, markerfacecolor=face, markersize=6)
        # A method that is told the noise level often lies on the one that estimates it.
        offset = (5, -10) if point.told else (5, 4)
        where = (point.seconds, point.psnr)
        axes.annotate(point.method, where, offset, textcoords="offset points", fontsize=7, color="#444444")
    axes.plot(
        [point.seconds for point in best], [point.psnr for point in best], color=COLOURS[1], linewidth=1, zorder=0
    )
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seconds for an image, median")
    axes.set_ylabel("PSNR (dB), mean")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8edf2")
    axes.set_axisbelow(True)
    return figure


def main() -> None:
    """Print the table and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, metavar="RESULT")
    parser.add_argument("--told", action="store_true", help="draw the front through methods that were told σ, too")
    parser.add_argument("-o", "--output", type=Path, required=True, help="SVG, PNG or PDF")
    args = parser.parse_args()
    result = json.loads(args.result.read_text(encoding="utf-8"))
    found = points(result["rows"])
    if not found:
        raise SystemExit(f"{args.result.name}: no method has a time for every image.")
    best = front(found, told=args.told)
    print(front_table(found, best))
    settings, count = result["settings"], len({row["image"] for row in result["rows"]})
    title = f"{settings['protocol']}, {settings['split']}, {count} images, {settings['cores']} cores"
    with atomic_path(args.output) as path:
        draw(found, best, title).savefig(path, dpi=160)


if __name__ == "__main__":
    main()
