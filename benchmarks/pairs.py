"""Load pairs of a noisy and a clean image for the benchmarks of quality, and score results against the clean image.

A list of pairs is a JSON file with one object for each pair. In the first form, both images are files; their paths are
relative to the list (`benchmarks.make_pairs` writes such lists):

    {"name": "church", "noisy": "noise25/0020.png", "clean": "clean/0020.png", "sigma": 25,
     "top": 60, "left": 240, "size": 128}

In the second form, the clean image is a sample of scikit-image, and noise is added (`benchmarks/lists` has such lists):

    {"name": "page", "sample": "page", "noise": "gaussian", "sigma": 25, "top": 30, "left": 100, "size": 128}

`top`, `left` and `size` select a square of both images, and `channel` selects one channel, from 0. `sigma` is in 8-bit
grey levels. `noise` is a kind of noise of `self2self.train.synthetic_noise`; with `blur` in its place, the noise is
Gaussian and correlated between neighbouring pixels (`with_blurred_noise`). `photons` is true for an image of one
channel with photon noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from self2self.image_io import Image, read_image
from self2self.image_io.value_range import WHITE_VALUES, choose_value_range, normalise
from self2self.imaging.metrics import psnr, ssim
from self2self.train.synthetic_noise import add_noise

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """One image to denoise: float32 (C, H, W) with 0 for black and 1 for white, unless `in_range` changed the scale.

    Attributes:
        name: name of the image in the rows of a result.
        noisy: the input of the methods.
        clean: the clean image, used for the scores alone.
        sigma: standard deviation of white Gaussian noise, in 8-bit grey levels; None where it is unknown or undefined.
        photons: whether the noise is photon noise, whose variance grows with the brightness.
        dtype: NumPy type of the stored values.
        offset, scale: a value v of `noisy` or `clean` is v * scale + offset in units with 0 for black and 1 for white.
    """

    name: str
    noisy: FloatArray
    clean: FloatArray
    sigma: float | None
    photons: bool = False
    dtype: str = "uint8"
    offset: float = 0.0
    scale: float = 1.0

    def in_range(self) -> Pair:
        """Return the pair in the range that the product chooses for its file; `self` if that is black to white."""
        white = WHITE_VALUES[self.dtype]
        values = np.moveaxis(self.noisy, 0, 2).astype(np.float64) * white
        stored = (np.rint(values) if white > 1 else values).astype(self.dtype)
        chosen = choose_value_range(stored)
        offset, scale = chosen.offset / white, chosen.scale / white
        if (offset, scale) == (0, 1):
            return self
        noisy = normalise(stored, chosen.offset, chosen.scale)
        clean = ((self.clean.astype(np.float64) - offset) / scale).astype(np.float32)
        return replace(self, noisy=noisy, clean=clean, offset=offset, scale=scale)

    def scores(self, result: FloatArray) -> dict[str, float]:
        """Return PSNR in dB and SSIM of `result`, clamped to black and white."""
        values, clean = (pixels * self.scale + self.offset for pixels in (result, self.clean))
        clamped = np.clip(values, 0, 1)
        return {"psnr": round(psnr(clamped, clean), 3), "ssim": round(ssim(clamped, clean), 4)}


def sample(name: str) -> FloatArray:
    """Load a sample of scikit-image as float32 (C, H, W) in [0, 1], without alpha.

    `motorcycle_left` is the left image of `skimage.data.stereo_motorcycle`.
    """
    from skimage import data, img_as_float32

    image = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
    pixels = np.atleast_3d(img_as_float32(image))[..., :3]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def middle_of_sample(name: str, side: int) -> FloatArray:
    """Load the middle of a sample of scikit-image, float32 (C, H, W) in [0, 1], H and W at most `side`."""
    pixels = sample(name)
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[1:])
    return cut(pixels, {"top": top, "left": left, "size": side})


def cut(pixels: FloatArray, entry: Mapping[str, Any]) -> FloatArray:
    """Return the square and the channel of `pixels` that `entry` names; without these keys, all of `pixels`."""
    if "channel" in entry:
        pixels = pixels[entry["channel"]][None]
    if "size" not in entry:
        return pixels
    rows = slice(entry["top"], entry["top"] + entry["size"])
    columns = slice(entry["left"], entry["left"] + entry["size"])
    return np.ascontiguousarray(pixels[:, rows, columns])


def black_to_white(image: Image) -> FloatArray:
    """Return the pixels of an image, scaled to 0 for black and 1 for the white of its type."""
    white = WHITE_VALUES[image.dtype.name]
    if image.range == (0, white):
        return image.pixels
    return ((image.pixels.astype(np.float64) * image.scale + image.offset) / white).astype(np.float32)


def with_blurred_noise(clean: FloatArray, sigma: float, blur: float, rng: np.random.Generator) -> FloatArray:
    """Add Gaussian noise that is correlated between neighbours, as after a resampling, and round to 8 bits.

    Args:
        clean: float32 (C, H, W) in [0, 1].
        sigma: standard deviation of the noise, in 8-bit grey levels.
        blur: standard deviation in pixels of the Gaussian filter that correlates the noise.
        rng: source of randomness.
    """
    noise = gaussian_filter(rng.standard_normal(clean.shape), (0, blur, blur))
    noisy = clean + noise * (sigma / 255 / noise.std())
    return np.asarray(np.round(np.clip(noisy, 0, 1) * 255) / 255, np.float32)


def load_pair(entry: Mapping[str, Any], folder: Path) -> Pair:
    """Load one entry of a list; its paths are relative to `folder`."""
    if "sample" not in entry:
        images = [read_image(folder / entry[key], whole_range=True) for key in ("noisy", "clean")]
        noisy, clean = (cut(black_to_white(image), entry) for image in images)
        return Pair(entry["name"], noisy, clean, entry.get("sigma"), entry.get("photons", False), images[0].dtype.name)
    clean = cut(sample(entry["sample"]), entry)
    rng = np.random.default_rng(0)
    if "blur" in entry:
        return Pair(entry["name"], with_blurred_noise(clean, entry["sigma"], entry["blur"], rng), clean, entry["sigma"])
    noisy = add_noise(clean, entry["noise"], entry["sigma"], rng)
    return Pair(entry["name"], noisy, clean, entry["sigma"] if entry["noise"] == "gaussian" else None)


def load_pairs(path: Path, only: str | None = None) -> list[Pair]:
    """Load all pairs of a list, or those with a name in `only`, which separates names by commas."""
    entries = json.loads(path.read_text())
    names = [entry["name"] for entry in entries]
    chosen = names if only is None else only.split(",")
    if unknown := set(chosen) - set(names):
        raise SystemExit(f"--only names {', '.join(sorted(unknown))}; {path} has: {', '.join(names)}")
    return [load_pair(entry, path.parent) for entry in entries if entry["name"] in chosen]


def rms_grey_levels(difference: NDArray[np.floating]) -> float:
    """Return the root mean square of a difference of images in [0, 1], in 8-bit grey levels."""
    return 255 * float(np.sqrt(np.mean(np.square(difference))))


def parse_changes(text: str) -> dict[str, Any]:
    """Parse `key=value,key=value` with values in JSON, for example fields of a recipe."""
    return {key: json.loads(value) for key, _, value in (part.partition("=") for part in text.split(",") if part)}
