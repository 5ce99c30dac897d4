"""Pairs of a noisy and a clean image that the benchmarks of quality share, and the scores against the clean one.

A list is a JSON file with one object for each pair. Either both images are files, by paths relative to
the list (`benchmarks.make_pairs` writes such lists):

    {"name": "church", "noisy": "noise25/0020.png", "clean": "clean/0020.png", "sigma": 25,
     "top": 60, "left": 240, "size": 128}

or the clean one is a sample of scikit-image, and the noise is made (`benchmarks/lists` has such lists):

    {"name": "page", "sample": "page", "noise": "gaussian", "sigma": 25, "top": 30, "left": 100, "size": 128}

`top`, `left` and `size` cut a square from both images before anything else sees them, and `channel` takes one of
their channels, from 0. `sigma` is in 8-bit grey levels; `self2self.train.synthetic_noise` has the kinds of noise. With
`blur` in its place it is Gaussian and spread over neighbouring pixels (`with_blurred_noise`). `photons` says of an
image of one channel that its noise is that of photons.
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
    """One image to denoise, (C, H, W) float32, in which 0 is black and 1 is white, but for `in_range`.

    Attributes:
        name: what the rows of a result call it.
        noisy: what the methods see.
        clean: for the scores alone.
        sigma: of white Gaussian noise, in 8-bit grey levels; None where it is unknown or means nothing.
        photons: whether the noise is that of photons, which grows with the brightness.
        dtype: in which it is stored.
        offset, scale: where the 0 of `noisy` and `clean` lies between black and white, and its 1 above that.
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
        """The same in the range that the product chooses for a file of it; itself where that is black to white."""
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
        """PSNR and SSIM of a `result`, clamped to black and white."""
        values, clean = (pixels * self.scale + self.offset for pixels in (result, self.clean))
        clamped = np.clip(values, 0, 1)
        return {"psnr": round(psnr(clamped, clean), 3), "ssim": round(ssim(clamped, clean), 4)}


def sample(name: str) -> FloatArray:
    """A sample of scikit-image, (C, H, W) in [0, 1] without alpha."""
    from skimage import data, img_as_float32

    pixels = np.atleast_3d(img_as_float32(getattr(data, name)()))[..., :3]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def cut(pixels: FloatArray, entry: Mapping[str, Any]) -> FloatArray:
    """The square and the channel that `entry` names, or all of `pixels`."""
    if "channel" in entry:
        pixels = pixels[entry["channel"]][None]
    if "size" not in entry:
        return pixels
    rows = slice(entry["top"], entry["top"] + entry["size"])
    columns = slice(entry["left"], entry["left"] + entry["size"])
    return np.ascontiguousarray(pixels[:, rows, columns])


def black_to_white(image: Image) -> FloatArray:
    """The pixels of an image, with 0 for black and 1 for the white of its type."""
    white = WHITE_VALUES[image.dtype.name]
    if image.range == (0, white):
        return image.pixels
    return ((image.pixels.astype(np.float64) * image.scale + image.offset) / white).astype(np.float32)


def with_blurred_noise(clean: FloatArray, sigma: float, blur: float, rng: np.random.Generator) -> FloatArray:
    """Gaussian noise of `sigma` grey levels, of which neighbours share a little, as after a resampling; 8 bits.

    Args:
        clean: float32 (C, H, W) in [0, 1].
        sigma: standard deviation of the noise, in 8-bit grey levels.
        blur: that of the Gaussian that spreads it, in pixels.
        rng: source of randomness.
    """
    noise = gaussian_filter(rng.standard_normal(clean.shape), (0, blur, blur))
    noisy = clean + noise * (sigma / 255 / noise.std())
    return np.asarray(np.round(np.clip(noisy, 0, 1) * 255) / 255, np.float32)


def load_pair(entry: Mapping[str, Any], folder: Path) -> Pair:
    """One pair of a list that lies in `folder`."""
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
    """All pairs of a list, or those whose names are in `only`, separated by commas."""
    entries = json.loads(path.read_text())
    names = [entry["name"] for entry in entries]
    chosen = names if only is None else only.split(",")
    if unknown := set(chosen) - set(names):
        raise SystemExit(f"--only names {', '.join(sorted(unknown))}; {path} has: {', '.join(names)}")
    return [load_pair(entry, path.parent) for entry in entries if entry["name"] in chosen]
