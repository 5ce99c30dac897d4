"""Measure what `self2self denoise` makes of the kinds of files that people bring, against clean values.

    python -m benchmarks.kinds -o benchmarks/results/kinds.json

Each kind is a file made from a sample of scikit-image with noise: grey stored as RGB, luminance noise, JPEGs, mosaics,
missing values and others (docs/guide.md, "What an image may hold"). Each is denoised with the default settings and seed
0. PSNR is in stored values over the pixels that are measured. Its peak is 255 for 8 bits, and the range of the clean
values for other types. The row of a kind is written as soon as it is measured, and the same command continues.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as PillowImage
from skimage import data

from benchmarks.results_file import ResultsFile, result_parser
from self2self.image_io import Image, open_stack
from self2self.image_io.formats import dng
from self2self.image_io.image import Header, Metadata, StoredImage
from self2self.image_io.write import stored_values

Array = NDArray[Any]

GAINS = (0.5, 1.0, 0.6)
"""Sensitivity of a sensor's pixels for red, green and blue light."""
BLACK, WHITE = 512, 12512
"""Stored values of a sensor without light and of one that is saturated."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A file of some kind.

    Attributes:
        name: name of the file.
        clean: (H, W, C), the stored values without noise.
        measured: bool (H, W), where they count; None for everywhere.
        page: the page that is compared, from 0.
    """

    name: str
    clean: Array
    measured: Array | None = None
    page: int = 0


def rounded(values: Array) -> Array:
    """`values` as 8 bits."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def portrait() -> Array:
    """Colours, (128, 128, 3) in 8-bit grey levels."""
    return data.astronaut()[30:158, 150:278].astype(float)


def larger_portrait() -> Array:
    """Colours, (192, 192, 3) in 8-bit grey levels."""
    return data.astronaut()[20:212, 140:332].astype(float)


def cameraman() -> Array:
    """Grey, (128, 128, 1) in 8-bit grey levels."""
    return data.camera()[60:188, 180:308, None].astype(float)


def noise(shape: tuple[int, ...], seed: int) -> Array:
    """Normal noise of variance 1."""
    return np.random.default_rng(seed).normal(0, 1, shape)


def one_channel(folder: Path) -> Kind:
    """Grey with noise of its own in each value, for comparison with grey as RGB."""
    clean = cameraman()
    PillowImage.fromarray(rounded(clean + 20 * noise(clean.shape, 8))[..., 0]).save(folder / "grey.png")
    return Kind("grey.png", clean)


def grey_as_rgb(folder: Path) -> Kind:
    """The same, stored as RGB."""
    clean = cameraman()
    noisy = rounded(clean + 20 * noise(clean.shape, 8))
    PillowImage.fromarray(np.repeat(noisy, 3, 2)).save(folder / "grey-as-rgb.png")
    return Kind("grey-as-rgb.png", np.repeat(clean, 3, 2))


def luminance(folder: Path) -> Kind:
    """Colours whose channels share their noise."""
    clean = portrait()
    PillowImage.fromarray(rounded(clean + 20 * noise((128, 128, 1), 40))).save(folder / "luminance.png")
    return Kind("luminance.png", clean)


def jpeg(quality: int, sigma: float) -> Callable[[Path], Kind]:
    """Colours with noise, as a JPEG with colours of half the resolution."""

    def make(folder: Path) -> Kind:
        clean, name = larger_portrait(), f"quality-{quality}.jpg"
        noisy = rounded(clean + sigma * noise(clean.shape, quality))
        PillowImage.fromarray(noisy).save(folder / name, quality=quality, subsampling="4:2:0")
        return Kind(name, clean)

    return make


def sensor_values() -> tuple[Array, Array]:
    """A mosaic (red top left) without and with photon and read noise, each (128, 128, 1)."""
    linear = (data.coffee()[100:228, 250:378] / 255) ** 2.2 * GAINS
    rows, columns = np.indices((128, 128))
    channel = (rows % 2 + columns % 2)[..., None]
    clean = BLACK + (WHITE - BLACK) * np.take_along_axis(linear, channel, 2)
    noisy = clean + noise(clean.shape, 17) * np.sqrt(40**2 + 20 * (clean - BLACK))
    return clean, np.clip(np.rint(noisy), 0, 16383).astype(np.uint16)


def mosaic(folder: Path) -> Kind:
    """A mosaic of colour filters as grey TIFF."""
    clean, noisy = sensor_values()
    tifffile.imwrite(folder / "mosaic.tif", noisy[..., 0], metadata=None)
    return Kind("mosaic.tif", clean)


def camera_raw(folder: Path) -> Kind:
    """The same as camera raw."""
    clean, noisy = sensor_values()
    sensor = dng.Sensor((0, 1, 1, 2), (BLACK,) * 4, WHITE, dng.colour_tags(dng.SRGB_OF_XYZ, GAINS))
    path = folder / "raw.dng"
    path.touch()
    dng.write(path, [StoredImage(noisy, None, Metadata(header=Header("raw", sensor)))], 1)
    return Kind(path.name, clean)


def padded_ct(folder: Path) -> Kind:
    """Soft tissue in Hounsfield units inside a circle, with padding around it."""
    clean = cameraman() / 255 * 400 - 150
    rows, columns = np.indices((128, 128))
    inside = (rows - 63.5) ** 2 + (columns - 63.5) ** 2 < 60**2
    noisy = np.rint(clean + 30 * noise(clean.shape, 2)).astype(np.int16)
    tifffile.imwrite(folder / "ct.tif", np.where(inside[..., None], noisy, -3024).astype(np.int16)[..., 0])
    return Kind("ct.tif", clean, inside)


def height_model(folder: Path) -> Kind:
    """Hills in metres, one corner of which is GDAL's value for missing pixels."""
    from scipy.ndimage import gaussian_filter

    hills = gaussian_filter(noise((128, 128), 3), 8)
    clean = 300 + 40 * (hills - hills.min()) / np.ptp(hills)
    clean += np.where(gaussian_filter(noise((128, 128), 4), 3) > 0.06, 3, 0)
    measured = np.add(*np.indices((128, 128))) <= 170
    noisy = np.where(measured, clean + 0.5 * noise(clean.shape, 5), -9999).astype(np.float32)
    tifffile.imwrite(folder / "hills.tif", noisy, metadata=None, extratags=[(42113, 2, 0, b"-9999", True)])
    return Kind("hills.tif", clean[..., None], measured)


def transparent(folder: Path) -> Kind:
    """Colours with noise, half of which is transparent and holds other colours there."""
    clean = portrait()
    visible = np.add(*np.indices((128, 128))) <= 127
    noisy = rounded(np.where(visible[..., None], clean + 20 * noise(clean.shape, 6), 255 * (clean % 7 < 3)))
    alpha = (255 * visible[..., None]).astype(np.uint8)
    PillowImage.fromarray(np.concatenate([noisy, alpha], 2)).save(folder / "alpha.png")
    return Kind("alpha.png", clean, visible)


def line_art(folder: Path) -> Kind:
    """Black and white without noise."""
    page = data.page()[20:148, 20:148]
    clean = np.where(page > page.mean() - 15, 255, 0).astype(np.uint8)
    PillowImage.fromarray(clean).save(folder / "lines.png")
    return Kind("lines.png", clean[..., None].astype(float))


def empty_first_page(folder: Path) -> Kind:
    """A stack whose first page is constant; the second is compared."""
    clean = cameraman()
    noisy = rounded(clean + 20 * noise(clean.shape, 8))[..., 0]
    tifffile.imwrite(folder / "stack.tif", np.stack([np.full_like(noisy, 7), noisy]), photometric="minisblack")
    return Kind("stack.tif", clean, page=1)


def impulses(folder: Path) -> Kind:
    """Grey with random values at 6 % of the pixels."""
    rng, clean = np.random.default_rng(0), cameraman()
    noisy = np.where(rng.random(clean.shape) < 0.06, rng.integers(0, 256, clean.shape), clean)
    PillowImage.fromarray(rounded(noisy)[..., 0]).save(folder / "impulses.png")
    return Kind("impulses.png", clean)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "grey": one_channel,
    "grey stored as RGB": grey_as_rgb,
    "luminance noise": luminance,
    "JPEG 4:2:0, quality 75": jpeg(75, 15),
    "JPEG 4:2:0, quality 90": jpeg(90, 20),
    "JPEG 4:2:0, quality 97": jpeg(97, 20),
    "mosaic stored as grey": mosaic,
    "camera raw": camera_raw,
    "CT with padding": padded_ct,
    "height model with a hole": height_model,
    "colours under alpha 0": transparent,
    "line art without noise": line_art,
    "stack with an empty first page": empty_first_page,
    "impulses": impulses,
}


def stored(path: Path, page: int) -> Array:
    """The stored values (H, W, C) of a page, as floats."""
    with open_stack(path) as stack:
        image: Image = stack.read_page(page)
    return stored_values(image.pixels, image).astype(float)


def psnr(values: Array, kind: Kind) -> float:
    """PSNR in dB of stored values (H, W, C) of a file of `kind`; infinite values become 99."""
    measured = np.ones(values.shape[:2], bool) if kind.measured is None else kind.measured
    error = float(np.mean(np.square((values - kind.clean)[measured])))
    is_8_bit = not kind.name.endswith((".tif", ".dng")) or kind.name == "stack.tif"
    peak = 255.0 if is_8_bit else float(np.ptp(kind.clean[measured]))
    return round(10 * np.log10(peak**2 / error), 2) if error else 99.0


def measure(make: Callable[[Path], Kind]) -> dict[str, Any]:
    """Make a file, denoise it, and return the scores."""
    from self2self.jobs import FitOptions, Observer, denoise_job

    with tempfile.TemporaryDirectory() as name:
        folder, notes = Path(name), list[str]()
        kind = make(folder)
        path = folder / kind.name
        began = time.process_time()
        result = denoise_job(path, FitOptions(run=folder / "run"), observer=Observer(note=notes.append))
        return {
            "processor_seconds": round(time.process_time() - began, 1),
            "noisy_psnr": psnr(stored(path, kind.page), kind),
            "psnr": psnr(stored(result.output, kind.page), kind),
            "notes": [note.replace(f"{path}: ", "") for note in notes],
        }


def main() -> None:
    """Measure, print and write."""
    parser = result_parser(__doc__)
    parser.add_argument("--only", metavar="KIND", action="append", help="measure this kind; may be repeated")
    args = parser.parse_args()
    file = ResultsFile(args.output, "python -m benchmarks.kinds", {})
    for name in args.only or KINDS:
        if file.find(name, "fast", {}) is None:
            row = measure(KINDS[name])
            file.put({"image": name, "method": "fast", "inputs": {}, **row})
            print(f"{name:34} {row['noisy_psnr']:6.2f} -> {row['psnr']:6.2f} dB", flush=True)


if __name__ == "__main__":
    main()
