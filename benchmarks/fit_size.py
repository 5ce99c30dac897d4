"""Compare the time of `self2self fit` for a large image with that for a small one.

    python -m benchmarks.fit_size -o benchmarks/results/fit-size.json

Each measurement is a separate process, which reads a PNG, estimates its noise, fits with the default recipe and writes
a run folder. The sizes take turns. The image is a photograph of scikit-image with Gaussian noise of sigma 25, extended
by mirroring where it is too small; the small image is its upper left corner.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.pairs import sample
from benchmarks.results_file import provenance, result_parser, timed_command, write_result
from self2self.train.synthetic_noise import add_noise


def write_image(path: Path, side: int) -> None:
    """Write the upper left square of the noisy photograph as PNG."""
    clean = sample("astronaut")
    grow = [(0, max(0, side - size)) for size in clean.shape[1:]]
    large = np.pad(clean, [(0, 0), *grow], mode="symmetric")[:, :side, :side]
    noisy = add_noise(large, "gaussian", 25, np.random.default_rng(0))
    Image.fromarray(np.round(noisy * 255).astype(np.uint8).transpose(1, 2, 0)).save(path)


def fit(image: Path, folder: Path, options: list[str]) -> dict[str, float]:
    """Run `self2self fit`; return the seconds of the process, and the seconds of its fit as it reports them."""
    command = [sys.executable, "-m", "self2self", "fit", str(image), "-o", str(folder), "--force", "--json", *options]
    seconds, output = timed_command(command)
    return {"seconds": round(seconds, 2), "fit_seconds": json.loads(output)["seconds"]["fit"]}


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[256, 1024],
        help="sides; the first is the reference",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", help="as for self2self fit; default: from the recipe")
    args = parser.parse_args()
    options = [] if args.steps is None else ["--steps", args.steps]
    runs: dict[int, list[dict[str, float]]] = {size: [] for size in args.sizes}
    with tempfile.TemporaryDirectory() as name:
        for size in args.sizes:
            write_image(Path(name) / f"{size}.png", size)
        for _ in range(args.rounds):
            for size in args.sizes:
                runs[size].append(fit(Path(name) / f"{size}.png", Path(name) / f"run{size}", options))
                print(f"{size:5} {runs[size][-1]['seconds']:7.1f} s", flush=True)
    medians = {size: float(np.median([run["seconds"] for run in runs[size]])) for size in args.sizes}
    for size, seconds in medians.items():
        print(f"{size:5} {seconds:7.1f} s, {seconds / medians[args.sizes[0]]:.2f} times {args.sizes[0]}")
    values = {
        **provenance("fit_size"),
        "median_seconds": medians,
        "ratio": {size: round(seconds / medians[args.sizes[0]], 3) for size, seconds in medians.items()},
        "runs": runs,
    }
    write_result(args.output, values)


if __name__ == "__main__":
    main()
