"""Measure PSNR and SSIM against time and steps: our recipes, BM3D and non-local means.

    python -m benchmarks.fit_quality PAIRS.json --recipe fast --recipe fast:scratch -o RESULT.json

`PAIRS.json` is a list of pairs (`benchmarks.pairs`, `benchmarks.make_pairs`). All methods run on an image before the
next image, so that drift of the machine affects all of them. BM3D is the only method that needs sigma; it runs with
the true sigma and with an estimate.

A look is an interim score during a fit (`--looks`). The result is written after every row and every look. After an
interruption, the same command continues; an interrupted fit continues from its last look. Rows whose recipe or start
weights have changed are measured again. `--plot` draws the result, and so does `python -m benchmarks.quality_plot
RESULT.json` later.

Protocol: pixels are in [0, 1] as stored, except that `fast` sees them in the range that the product chooses
(`self2self.image_io.value_range`). Results are clamped to black and white and compared without rounding. PSNR is over
all channels, and its peak is white. Seeds are 0. Times are wall-clock and processor seconds of the fit alone, without
the looks.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from benchmarks.methods import baselines, clock_recipe, recipe_for_image, recipe_inputs, run_recipe, seen_by
from benchmarks.pairs import Pair, load_pairs
from benchmarks.results_file import ResultsFile, Row, result_parser
from self2self.cli.options import parse_passes


def show(row: Row) -> None:
    """Print one row."""
    if "psnr" in row:
        print(f"{row['image']:26} {row['method']:40} {row['psnr']:6.2f} dB  {row['ssim']:.3f}", flush=True)
    else:
        print(f"{row['image']:26} {row['method']:40} {row['fit_seconds']:6.0f} s, extrapolated", flush=True)


def measure(pair: Pair, args: argparse.Namespace, file: ResultsFile) -> None:
    """Run all methods on one image, except those whose rows exist already."""
    if file.find(pair.name, "noisy", {}) is None:
        file.put({"image": pair.name, "method": "noisy", "inputs": {}, **pair.scores(pair.noisy)})
    for name, method in baselines(pair).items() if args.baselines else ():
        if file.find(pair.name, name, {}) is None:
            file.put({"image": pair.name, "method": name, "inputs": {}, **method()})
            show(file.rows[-1])
    for text in args.recipe:
        seen = seen_by(text, pair)
        recipe, noise = recipe_for_image(text, seen.noisy)
        head = {"image": pair.name, "method": text, "inputs": recipe_inputs(recipe, seen, noise)}
        earlier = file.find(**head)
        if earlier is not None and not earlier.get("unfinished"):
            continue
        folder = state_folder(args.output, pair.name, text) if args.looks else None
        done = run_recipe(
            seen,
            recipe,
            noise,
            args.looks,
            args.passes,
            earlier or {},
            folder,
            lambda row, head=head: file.put({**head, **row}),  # type: ignore[misc]
        )
        file.put({**head, **done})
        show({**head, **done})
    for text in args.clock:
        seen = seen_by(text, pair)
        recipe, noise = recipe_for_image(text, seen.noisy)
        head = {"image": pair.name, "method": f"time of {text}", "inputs": recipe_inputs(recipe, seen, noise)}
        if file.find(**head) is None:
            file.put({**head, **clock_recipe(seen, recipe)})
            show(file.rows[-1])


def state_folder(output: Path, image: str, method: str) -> Path:
    """Return the folder for the state of an unfinished fit."""
    return output.with_suffix(".states") / re.sub(r"\W+", "-", f"{image} {method}")


def list_entries(pairs: Path) -> list[Row]:
    """Return the entries of a list of pairs, with file names instead of paths."""
    entries = json.loads(pairs.read_text())
    return [
        {key: Path(value).name if key in ("noisy", "clean") else value for key, value in entry.items()}
        for entry in entries
    ]


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("pairs", type=Path, help="list of pairs (JSON)")
    parser.add_argument("--only", metavar="NAME,NAME", help="measure only these images of the list")
    parser.add_argument(
        "--recipe", action="append", default=[], help="fast, fast:scratch, paper,steps=2000, ...; may be repeated"
    )
    parser.add_argument(
        "--clock",
        action="append",
        default=[],
        metavar="RECIPE",
        help="extrapolate its time from 20 steps, no scores",
    )
    parser.add_argument("--passes", type=parse_passes, help="a number or auto; default: as the recipe")
    parser.add_argument("--looks", type=int, default=0, help="interim scores during each fit (32 passes each)")
    parser.add_argument("--baselines", action="store_true", help="also run BM3D and non-local means")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw PSNR against time (PNG or SVG)")
    args = parser.parse_args()
    if args.plot is not None:
        from benchmarks.quality_plot import write_plot
    settings = {"pairs": list_entries(args.pairs), "passes": args.passes, "looks": args.looks}
    file = ResultsFile(args.output, "python -m benchmarks.fit_quality", settings)
    for pair in load_pairs(args.pairs, args.only):
        measure(pair, args, file)
    for method, mean in file.means().items():
        print(f"{'mean of ' + str(mean['images']):26} {method:40} {mean['psnr']:6.2f} dB  {mean['ssim']:.3f}")
    if args.plot is not None:
        write_plot([args.output], args.plot)


if __name__ == "__main__":
    main()
