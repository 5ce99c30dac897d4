"""Measure the whole `denoise` from 128x128 pixels to 24 megapixels: as it is by default, and with real passes.

    python -m benchmarks.megapixels PHOTOS -o benchmarks/results/megapixels.json --chart docs/megapixels.svg
    python -m benchmarks.megapixels PHOTOS --megapixels 0.25 1 --pages 3 --rounds 1 -o RESULT.json

PHOTOS is a folder of photographs, which are tiled up to the size; noise of `--sigma` is added, and the image is stored
with 8 bits a channel. Each measurement is one command in a fresh process and a fresh run folder, from the command line
to the written file. The ways of a size take turns: `default` is what the command does by itself, and `passes` adds
`--masks balanced`, which is the default of passes and so asks for the same passes as before there was a single one.

- A stack has `--pages` pages of 512x512 pixels, each with another noise and another part of the photographs.
- Above `--passes-up-to` megapixels real passes take too long. Their time is extrapolated: the passes, masks and sums of
  the largest image that was measured, by the number of pixels, and the rest as by default. For the stack, they are
  measured on `--pages-of-passes` pages, and extrapolated in the same way.
- `export --plain` is run on the smallest image in ONNX Runtime alone, and compared with the file that `denoise` wrote
  with the same fit: in one view of the image, and as the mean of the mirrored views that `denoise` takes. The last row
  compares these with `denoise` without the correction of local means, which no graph contains.

Seconds, the processor's seconds in the program and in the kernel, page faults and peak memory are those of the finished
process (`os.wait4`). `interpreter_bytes` is the peak of `self2self denoise --help`. PSNR is that of the written file
against the photographs without noise. A killed benchmark goes on where it stopped. On two quiet cores with VNNI all of
it takes about 12 minutes. `python -m benchmarks.pages README.md docs/performance.md` puts the figures into the pages.
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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.results_file import ResultsFile, result_parser

MEGAPIXELS = (0.25, 1.0, 4.0, 12.0, 24.0)
WAYS: dict[str, tuple[str, ...]] = {"default": (), "passes": ("--masks", "balanced")}
"""Ways to the image, with the options that ask for them."""
ENSEMBLE = ("masks", "passes", "reduce")
"""Parts of the time that grow with the number of passes and of pixels."""
CROP, CROP_SIDE = "128x128 crop", 128
PAGE_SIDE = 512
STACK = "stack of {} pages"
PLAIN = "export --plain"
ASPECT = 3 / 2
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Case:
    """An image, or a stack, that is denoised in some ways.

    Attributes:
        name: shown in results.
        clean: (H, W, 3) or (pages, H, W, 3), the photographs without noise.
        ways: names from `WAYS`.
        rounds: number of measurements of each way.
    """

    name: str
    clean: Pixels
    ways: tuple[str, ...]
    rounds: int


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


def in_lines(pixels: Pixels) -> Pixels:
    """The lines of an image, or of all pages of a stack, (lines, W, 3)."""
    return pixels.reshape(-1, *pixels.shape[-2:])


def psnr(result: Pixels, clean: Pixels) -> float:
    """Return the PSNR in dB, computed line by line."""
    squares = [np.mean(np.square(a.astype(np.float32) - b)) for a, b in zip(result, clean, strict=True)]
    return float(10 * math.log10(255**2 / np.mean(squares)))


def measure(case: Case, noisy: Path, way: str, more: Sequence[str]) -> dict[str, Any]:
    """Run `denoise` on `noisy` in one way; return what it took and how good the image is."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"result{noisy.suffix}"
        command = ["denoise", str(noisy), "-o", str(output), "--run", str(Path(folder) / "run"), "--json"]
        row = measured_command([*command, *WAYS[way], *more], Path(folder))
        document = row.pop("document")
        row["psnr"] = round(psnr(in_lines(read_pixels(output)), in_lines(case.clean)), 3)
    parts = document["seconds"]
    made = document["pages"][-1] if "pages" in document else document
    growing = sum(page["seconds"] for page in document["pages"]) if "pages" in document else growing_seconds(parts)
    row |= {"megapixels": case.clean.size / 3e6, "growing_seconds": round(growing, 3), "parts": parts}
    return row | {key: made[key] for key in ("engine", "plain", "passes")}


def growing_seconds(parts: dict[str, float]) -> float:
    """The part of the time for an image that grows with its pixels and with the number of passes."""
    return sum(parts[part] for part in ENSEMBLE)


def compare_plain(noisy: Path, engine: str, more: Sequence[str]) -> list[dict[str, Any]]:
    """Compare `export --plain`, run by ONNX Runtime alone, with what `denoise` makes with the same fit.

    Returns:
        a row for one view of the image, one for the mean of mirrored views, and one without corrections in `denoise`.
    """
    from self2self.jobs import Observer, OutputOptions
    from self2self.jobs.infer import infer_job
    from self2self.runtime.ensemble.options import EnsembleOptions

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        output, bare, run, model = folder / "result.png", folder / "bare.png", folder / "run", folder / "model.onnx"
        measured_command(["denoise", str(noisy), "-o", str(output), "--run", str(run), *more], folder)
        measured_command(["export", str(run), "--plain", "-o", str(model)], folder)
        options = EnsembleOptions(engine=engine, restore=False)
        infer_job(model, [noisy], options, OutputOptions(output=bare), Observer())
        pixels, rows = read_pixels(noisy), []
        for views, method, result in ((1, "1 view", output), (4, "4 views", output), (4, "uncorrected", bare)):
            difference = mean_of_views(model, pixels, views) - read_pixels(result).astype(np.float64)
            rms = round(math.sqrt(float(np.square(difference).mean())), 4)
            rows.append({"method": f"{PLAIN}: {method}", "greatest": float(np.abs(difference).max()), "rms": rms})
    return rows


def mean_of_views(model: Path, pixels: Pixels, views: int) -> NDArray[np.float64]:
    """The mean of mirrored views through a plain graph, rounded to grey levels, (H, W, 3)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    black, white = json.loads(session.get_modelmeta().custom_metadata_map["self2self.image_range"])
    image = ((pixels.astype(np.float32).transpose(2, 0, 1)[None] - black) / (white - black)).clip(0, 1)
    total = np.zeros(image.shape)
    for axes in ((), (3,), (2,), (2, 3))[:views]:
        (prediction,) = session.run(None, {"image": np.ascontiguousarray(np.flip(image, axes))})
        total += np.flip(prediction, axes)
    stored = np.rint(black + total[0] / views * (white - black)).clip(0, 255)
    return np.asarray(stored.transpose(1, 2, 0))


def extrapolated(default: dict[str, Any], measured: dict[str, Any]) -> float:
    """Seconds that real passes take for the image of the row `default`, from the row `measured` of a smaller one."""
    rest = default["seconds"] - default["growing_seconds"]
    return float(rest + measured["growing_seconds"] * default["megapixels"] / measured["megapixels"])


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Compare the ways of each image: medians, and ratios within the same round, or to an extrapolated time."""
    by_image: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        if "way" in row["inputs"]:
            by_image.setdefault(row["image"], {}).setdefault(row["inputs"]["way"], []).append(row)
    table = []
    # A process counts the memory that this program had when it was started, too; the smallest has least of that.
    own = min((row["interpreter_bytes"] for row in rows if "interpreter_bytes" in row), default=0)
    for image, by_way in by_image.items():
        if "default" not in by_way:
            continue
        entry: dict[str, Any] = {"image": image, "extrapolated": "passes" not in by_way}
        for way, measured in by_way.items():
            cpu = [row["user_seconds"] + row["system_seconds"] for row in measured]
            entry[way] = {
                "seconds": median(row["seconds"] for row in measured),
                "cpu_seconds": round(median(cpu), 3),
                "system_share": round(median(r["system_seconds"] / c for r, c in zip(measured, cpu, strict=True)), 4),
                "page_faults": median(row["page_faults"] for row in measured),
                "peak_bytes": max(row["peak_bytes"] for row in measured) - own,
                "psnr": measured[0]["psnr"],
            }
        if not entry["extrapolated"]:
            pairs = zip(by_way["default"], by_way["passes"], strict=False)
            entry["ratio"] = round(median(new["seconds"] / old["seconds"] for new, old in pairs), 4)
        elif (source := _source_of(rows, image)) is not None:
            seconds = extrapolated(by_way["default"][0], source)
            entry["passes"] = {"seconds": round(seconds, 1)}
            entry["ratio"] = round(by_way["default"][0]["seconds"] / seconds, 4)
        table.append(entry)
    return table


def _source_of(rows: list[dict[str, Any]], image: str) -> dict[str, Any] | None:
    """The measurement of real passes from which those of `image` are extrapolated: of pages for a stack, else the
    largest image.
    """
    measured = [row for row in rows if row["inputs"].get("way") == "passes" and "megapixels" in row]
    alike = [row for row in measured if is_stack(row["image"]) == is_stack(image)]
    return max(alike, key=lambda row: float(row["megapixels"]), default=None)


def is_stack(image: str) -> bool:
    """Whether an image of the results is a stack."""
    return image.startswith(STACK.split()[0])


def page_table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The lines of the table in the pages, the first of which has the names of the columns."""
    lines = [["image", "seconds", "with real passes", "ratio", "PSNR", "with real passes", "system time", "memory"]]
    for entry in summary(rows):
        default, passes = entry["default"], entry.get("passes", {})
        about = "about " if entry["extrapolated"] else ""
        lines.append(
            [
                entry["image"],
                f"{default['seconds']:.1f}",
                f"{about}{passes['seconds']:.0f}" if passes else "",
                f"{about}{entry['ratio']:.2f}" if "ratio" in entry else "",
                f"{default['psnr']:.2f}",
                f"{passes['psnr']:.2f}" if "psnr" in passes else "",
                f"{100 * default['system_share']:.0f} %",
                f"{default['peak_bytes'] / 1e9:.2f} GB",
            ]
        )
    return lines


def draw(table: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds against megapixels, with logarithmic axes; extrapolated times are hollow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    images = [entry for entry in table if not is_stack(entry["image"])]
    for way, label in (("passes", "real passes"), ("default", "default")):
        shown = [entry for entry in images if way in entry]
        sizes = [megapixels_of(entry["image"]) for entry in shown]
        seconds = [entry[way]["seconds"] for entry in shown]
        (line,) = axes.loglog(sizes, seconds, "-", label=label)
        for size, time_taken, entry in zip(sizes, seconds, shown, strict=True):
            filled = way == "default" or not entry["extrapolated"]
            axes.plot(size, time_taken, "o", color=line.get_color(), fillstyle="full" if filled else "none")
    axes.set_xlabel("megapixels")
    axes.set_ylabel("seconds, from command to file")
    axes.legend()
    figure.savefig(path)


def megapixels_of(image: str) -> float:
    """The size that the name of a single image tells."""
    return CROP_SIDE**2 / 1e6 if image == CROP else float(image.split()[0])


def cases(photos: Sequence[Pixels], options: argparse.Namespace) -> Iterator[Case]:
    """Make the images one after the other, from small to large, and then the stacks."""
    both = tuple(WAYS)
    yield Case(CROP, tiled(photos, CROP_SIDE, CROP_SIDE), both, options.rounds)
    for megapixels in sorted(options.megapixels):
        ways = both if megapixels <= options.passes_up_to else ("default",)
        yield Case(f"{megapixels:g} megapixels", tiled(photos, *size_of(megapixels)), ways, options.rounds)
    for pages, way in ((min(options.pages, options.pages_of_passes), "passes"), (options.pages, "default")):
        if pages > 1:
            yield Case(STACK.format(pages), stack_of(photos, pages), (way,), 1)


def stack_of(photos: Sequence[Pixels], pages: int) -> Pixels:
    """Pages of `PAGE_SIDE` pixels a side, (pages, H, W, 3), each from another place of the photographs."""
    side = PAGE_SIDE
    whole = tiled(photos, side, side * pages)
    return np.ascontiguousarray(whole.reshape(side, pages, side, 3).swapaxes(0, 1))


def write_noisy(case: Case, sigma: float, folder: Path) -> Path:
    """Write the images of `case` with noise: a PNG, or a TIFF for a stack."""
    import tifffile
    from PIL import Image

    noisy = with_noise(in_lines(case.clean), sigma).reshape(case.clean.shape)
    if noisy.ndim == 3:
        path = folder / "noisy.png"
        Image.fromarray(noisy).save(path, compress_level=1)
    else:
        path = folder / "noisy.tif"
        tifffile.imwrite(path, noisy, photometric="rgb")
    return path


def read_pixels(path: Path) -> Pixels:
    """Read what `write_noisy` or `denoise` wrote."""
    import tifffile
    from PIL import Image

    if path.suffix == ".tif":
        return np.asarray(tifffile.imread(path))
    with Image.open(path) as image:
        return np.asarray(image)


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
    parser.add_argument("--megapixels", type=float, nargs="*", default=list(MEGAPIXELS))
    parser.add_argument("--passes-up-to", type=float, default=4.0, metavar="MEGAPIXELS")
    parser.add_argument("--pages", type=int, default=100, help="pages of the stack; 0 for no stack")
    parser.add_argument("--pages-of-passes", type=int, default=5, metavar="PAGES")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each size and way")
    parser.add_argument("--sigma", type=float, default=15.0, help="standard deviation of the noise, in grey levels")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--steps", type=int, help="steps of the fits, for a trial of this program")
    parser.add_argument("--chart", type=Path, help="SVG of time against size")
    arguments: argparse.Namespace = parser.parse_args()
    # The photographs may be large, and Pillow warns of images that might be attacks.
    Image.MAX_IMAGE_PIXELS = None
    settings = {"sigma": arguments.sigma, "engine": arguments.engine}
    more = ["--engine", arguments.engine]
    if arguments.steps is not None:
        settings["steps"] = arguments.steps
        more += ["--steps", str(arguments.steps)]
    results = ResultsFile(arguments.output, "python -m benchmarks.megapixels", settings)
    for case in cases(read_photos(arguments.photos), arguments):
        with tempfile.TemporaryDirectory() as folder:
            noisy = write_noisy(case, arguments.sigma, Path(folder))
            for number in range(case.rounds):
                for way in case.ways:
                    method, inputs = f"{way} {number}", {"way": way, "round": number}
                    if results.find(case.name, method, inputs):
                        continue
                    own = measured_command(["denoise", "--help"], Path(folder))["peak_bytes"]
                    row = measure(case, noisy, way, more) | {"interpreter_bytes": own}
                    results.put({"image": case.name, "method": method, "inputs": inputs, **row})
                    print(f"{case.name:18} {method:12} {row['seconds']:9.1f} s {row['psnr']:.2f} dB", flush=True)
            if case.name == CROP and not any(row["method"].startswith(PLAIN) for row in results.rows):
                for row in compare_plain(noisy, arguments.engine, more):
                    results.put({"image": CROP, "inputs": {}, **row})
                    print(f"{row['method']:32} greatest {row['greatest']:g}, RMS {row['rms']}", flush=True)
    table = summary(results.rows)
    for entry in table:
        print(json.dumps(entry))
    if arguments.chart is not None:
        draw(table, arguments.chart)


if __name__ == "__main__":
    main()
