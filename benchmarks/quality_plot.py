"""Draw PSNR against seconds of the fit, from results of `benchmarks.fit_quality`.

    python -m benchmarks.quality_plot RESULT.json [RESULT.json ...] -o PLOT.png

A point is the mean of a method over its images. A fit with looks (interim scores) is a line; the line of an unfinished
fit ends at its last look. Methods that were measured on different images are not comparable; `--image NAME` draws
one image alone. `--clock cpu` shows processor seconds instead of the wall clock, for results of a busy machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from self2self.bench.charts import COLOURS, GREY
from self2self.machine.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLOCKS = {"wall": "seconds", "cpu": "cpu_seconds"}
Curve = list[tuple[float, float]]


def curves(rows: list[dict[str, Any]], clock: str, image: str | None = None) -> dict[str, Curve]:
    """Return the curve (seconds, PSNR) of each method that has times, averaged over its images point by point."""
    key = CLOCKS[clock]
    table: dict[str, Curve] = {}
    timed = [row for row in rows if "psnr" in row and (f"fit_{key}" in row or key in row)]
    for method in dict.fromkeys(row["method"] for row in timed):
        chosen = [row for row in timed if row["method"] == method and image in (None, row["image"])]
        lines = []
        for row in chosen:
            line = [(point[key], point["psnr"]) for point in row.get("curve", [])]
            if not row.get("unfinished"):
                line.append((row.get(f"fit_{key}", row.get(key)), row["psnr"]))
            lines.append(line)
        length = min((len(line) for line in lines), default=0)
        if length:
            mean = np.mean([line[:length] for line in lines], axis=0)
            table[method] = [(float(seconds), float(psnr)) for seconds, psnr in mean]
    return table


def draw(table: dict[str, Curve], clock: str, title: str) -> Figure:
    """Draw the result of `curves`."""
    from matplotlib.figure import Figure as NewFigure

    figure = NewFigure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    colours = iter(COLOURS * (1 + len(table) // len(COLOURS)))
    for method, curve in table.items():
        baseline = method.startswith(("bm3d", "nlm"))
        colour = GREY if baseline else next(colours)
        marker = {"bm3d, true sigma": "^", "bm3d, estimated sigma": "v", "nlm": "s"}.get(method, "o")
        axes.plot(*zip(*curve, strict=True), color=colour, marker=marker, markersize=4, label=method)
        if baseline:
            axes.axhline(curve[-1][1], color=GREY, linewidth=0.7, linestyle=":", zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seconds" if clock == "wall" else "processor seconds")
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(title, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e8edf2")
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    return figure


def write_plot(results: list[Path], output: Path, clock: str = "wall", image: str | None = None) -> None:
    """Read `results` and write the plot to `output`, whose suffix chooses the format.

    Raises:
        SystemExit: the results have no timed rows of `image`.
    """
    rows = [row for path in results for row in json.loads(path.read_text())["rows"]]
    table = curves(rows, clock, image)
    if not table:
        names = ", ".join(dict.fromkeys(row["image"] for row in rows))
        raise SystemExit(f"there are no timed rows of {image or 'any image'}; the results have: {names}")
    count = len({row["image"] for row in rows})
    with atomic_path(output) as path:
        draw(table, clock, image or f"mean of {count} image{'s' * (count > 1)}").savefig(path, dpi=160)


def main() -> None:
    """Draw and write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--image", help="draw only this image")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG, SVG or PDF")
    args = parser.parse_args()
    write_plot(args.results, args.output, args.clock, args.image)


if __name__ == "__main__":
    main()
