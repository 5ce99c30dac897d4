"""Measure the whole `denoise` from 0.25 to 24 megapixels: with a single pass where it is as good, and with passes.

    python -m benchmarks.megapixels PHOTOS -o benchmarks/results/megapixels.json
    python -m benchmarks.megapixels PHOTOS --megapixels 0.25 1 --rounds 1 -o RESULT.json --chart CHART.svg

PHOTOS is a folder of photographs, which are tiled up to the size; noise of `--sigma` is added, and the image is stored
with 8 bits a channel. Each measurement is one command in a fresh process and a fresh run folder, from the command line
to the written file. The ways of a size take turns: `default` is what the command does by itself, and `passes` adds
`--masks balanced`, which is the default of passes and so asks for the same passes as before there was a single one.

Seconds, the processor's seconds in the program and in the kernel, page faults and peak memory are those of the finished
process (`os.wait4`). `interpreter_bytes` is the peak of `self2self denoise --help`. PSNR is that of the written file
against the photographs without noise. A killed benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import ResultsFile, result_parser

MEGAPIXELS = (0.25, 1.0, 4.0, 12.0, 24.0)
WAYS: dict[str, tuple[str, ...]] = {"default": (), "passes": ("--masks", "balanced")}
"""Ways to the image, with the options that ask for them."""
ASPECT = 3 / 2
Pixels = NDArray[np.uint8]


def size_of(megapixels: float) -> tuple[int, int]:
    """Return height and width, multiples of 2, of an image in the shape of a photograph."""
    height = math.sqrt(1e6 * megapixels / ASPECT)
    return 2 * round(height / 2), 2 * round(height * ASPECT / 2)


def tiled(photos: Sequence[Pixels], height: int, width: int) -> Pixels:
    """Put photographs (H, W, 3) side by side, in their order, until they cover `height` times `width` pixels."""
    side = min(min(photo.shape[:2]) for photo in photos)
    columns, rows = -(-width // side), -(-height // side)
    result = np.empty((rows * side, columns * side, 3), np.uint8)
    for number, (row, column) in enumerate(np.ndindex(rows, columns)):
        photo = photos[number % len(photos)][:side, :side]
        result[row * side : (row + 1) * side, column * side : (column + 1) * side] = photo
    return result[:height, :width]


def with_noise(pixels: Pixels, sigma: float) -> Pixels:
    """Add Gaussian noise of `sigma` grey levels, line by line, so that memory stays small."""
    rng = np.random.default_rng(0)
    noisy = np.empty_like(pixels)
    for line, out in zip(pixels, noisy, strict=True):
        out[:] = np.clip(np.rint(line + sigma * rng.standard_normal(line.shape, np.float32)), 0, 255)
    return noisy


def measured_command(arguments: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run self2self with `arguments` in `folder`; return its use of the machine and its JSON document.

    Raises:
        CalledProcessError: the exit code is not 0.
    """
    command = [sys.executable, "-m", "self2self", *arguments]
    with tempfile.TemporaryFile() as stdout:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=stdout, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        stdout.seek(0)
        text = stdout.read().decode()
    return {
        "seconds": round(seconds, 3),
        "user_seconds": round(used.ru_utime, 3),
        "system_seconds": round(used.ru_stime, 3),
        "page_faults": used.ru_minflt + used.ru_majflt,
        "peak_bytes": 1024 * used.ru_maxrss,
        "document": json.loads(text) if "--json" in arguments else None,
    }


def psnr(result: Pixels, clean: Pixels) -> float:
    """Return the PSNR in dB, computed line by line."""
    squares = [np.mean(np.square(a.astype(np.float32) - b)) for a, b in zip(result, clean, strict=True)]
    return float(10 * math.log10(255**2 / np.mean(squares)))


def measure(clean: Pixels, noisy: Path, way: str, more: Sequence[str]) -> dict[str, Any]:
    """Run `denoise` on `noisy` in one way; return what it took and how good the image is."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.png"
        command = ["denoise", str(noisy), "-o", str(output), "--run", str(Path(folder) / "run"), "--json"]
        row = measured_command([*command, *WAYS[way], *more], Path(folder))
        document = row.pop("document")
        with Image.open(output) as result:
            row["psnr"] = round(psnr(np.asarray(result), clean), 3)
    keys = ("engine", "plain", "passes", "tiles")
    return row | {key: document[key] for key in keys} | {"parts": document["seconds"]}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the ways of each size: medians, and ratios within the same round."""
    table = []
    for image in dict.fromkeys(row["image"] for row in rows):
        by_way = {way: [row for row in rows if (row["image"], row["inputs"]["way"]) == (image, way)] for way in WAYS}
        if not all(by_way.values()):
            continue
        entry: dict[str, Any] = {"image": image}
        for way, measured in by_way.items():
            cpu = [row["user_seconds"] + row["system_seconds"] for row in measured]
            entry[way] = {
                "seconds": median(row["seconds"] for row in measured),
                "cpu_seconds": round(median(cpu), 3),
                "system_share": round(median(r["system_seconds"] / c for r, c in zip(measured, cpu, strict=True)), 4),
                "page_faults": median(row["page_faults"] for row in measured),
                "peak_bytes": max(row["peak_bytes"] - row["interpreter_bytes"] for row in measured),
                "psnr": measured[0]["psnr"],
            }
        pairs = zip(by_way["default"], by_way["passes"], strict=False)
        entry["ratio"] = round(median(new["seconds"] / old["seconds"] for new, old in pairs), 4)
        table.append(entry)
    return table


def draw(table: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds against megapixels, with logarithmic axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    sizes = [float(entry["image"].split()[0]) for entry in table]
    for way, label in (("passes", "real passes"), ("default", "default")):
        axes.loglog(sizes, [entry[way]["seconds"] for entry in table], "o-", label=label)
    axes.set_xlabel("megapixels")
    axes.set_ylabel("seconds, from command to file")
    axes.legend()
    figure.savefig(path)


def read_photos(folder: Path) -> list[Pixels]:
    """Read the photographs of `folder` and of its folders, in the order of their names, as (H, W, 3).

    Raises:
        SystemExit: there are none.
    """
    from PIL import Image

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".png", ".jpg"))
    if not paths:
        raise SystemExit(f"{folder}: has no photographs (.png, .jpg).")
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths[:64]]


def main() -> None:
    """Measure what the results file lacks, and print how the ways compare."""
    from PIL import Image

    parser = result_parser(__doc__)
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--megapixels", type=float, nargs="+", default=list(MEGAPIXELS))
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each size and way")
    parser.add_argument("--sigma", type=float, default=15.0, help="standard deviation of the noise, in grey levels")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--chart", type=Path, help="SVG of time against size")
    arguments: argparse.Namespace = parser.parse_args()
    # The photographs may be large, and Pillow warns of images that might be attacks.
    Image.MAX_IMAGE_PIXELS = None
    settings = {"sigma": arguments.sigma, "engine": arguments.engine}
    results = ResultsFile(arguments.output, "python -m benchmarks.megapixels", settings)
    photos = read_photos(arguments.photos)
    more = ["--engine", arguments.engine]
    for megapixels in arguments.megapixels:
        clean = tiled(photos, *size_of(megapixels))
        with tempfile.TemporaryDirectory() as folder:
            noisy = Path(folder) / "noisy.png"
            Image.fromarray(with_noise(clean, arguments.sigma)).save(noisy, compress_level=1)
            for number in range(arguments.rounds):
                for way in WAYS:
                    image, method = f"{megapixels:g} megapixels", f"{way} {number}"
                    inputs = {"way": way, "round": number}
                    if results.find(image, method, inputs):
                        continue
                    own = measured_command(["denoise", "--help"], Path(folder))["peak_bytes"]
                    row = measure(clean, noisy, way, more) | {"interpreter_bytes": own}
                    results.put({"image": image, "method": method, "inputs": inputs, **row})
                    print(f"{image:16} {method:12} {row['seconds']:9.1f} s {row['psnr']:.2f} dB", flush=True)
    table = summary(results.rows)
    for entry in table:
        print(json.dumps(entry))
    if arguments.chart is not None:
        draw(table, arguments.chart)


if __name__ == "__main__":
    main()
