"""Adds synthetic noise of the kinds that cameras and microscopes produce, for start weights and benchmarks.

Clean images are float32 (C, H, W) in [0, 1]; standard deviations are in 8-bit grey levels. The functions in `NOISES`
return unclipped values, apart from JPEG. `add_noise` clips and rounds them to 8 bits, as in a stored image.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FloatArray = NDArray[np.float32]
Noise = Callable[[FloatArray, float, np.random.Generator], NDArray[np.floating]]
"""Maps a clean image, a standard deviation in grey levels and a source of randomness to a noisy image."""


def gaussian(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Additive white Gaussian noise."""
    return clean + rng.standard_normal(clean.shape, np.float32) * (sigma / 255)


def poisson(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Photon noise whose standard deviation at mid-grey is `sigma`."""
    photons = 0.5 / max(sigma / 255, 1e-3) ** 2
    return rng.poisson(clean * photons) / photons


def multiplicative(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Speckle whose standard deviation at mid-grey is `sigma`."""
    return clean * (1 + rng.standard_normal(clean.shape, np.float32) * (2 * sigma / 255))


def impulse(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Random-valued impulses on a share of the values that gives about standard deviation `sigma`."""
    share = min(0.5, (sigma / 255 / 0.4) ** 2)
    hit = rng.random(clean.shape, np.float32) < share
    return np.where(hit, rng.random(clean.shape, np.float32), clean)


def mixture(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Photon noise, Gaussian read noise and a few impulses."""
    noisy = gaussian(poisson(clean, 0.7 * sigma, rng).astype(np.float32), 0.7 * sigma, rng)
    hit = rng.random(clean.shape, np.float32) < 0.002
    return np.where(hit, rng.random(clean.shape, np.float32), noisy)


def correlated(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Gaussian noise that is spread over neighbouring pixels, as by a camera's interpolation."""
    noise = spread(rng.standard_normal(clean.shape, np.float32), rng.uniform(0.1, 0.5))
    return clean + noise * (sigma / 255 / float(noise.std()))


def camera(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Read and photon noise after the processing of a camera with a Bayer sensor, in half of the images also JPEG.

    The noise of the sensor's pixels is interpolated to all pixels of each colour (bilinear), amplified by the white
    balance, mixed by the colour correction, and smoothed: brightness a little, colour up to blotches. Shares and
    smoothness vary around those of the 15 photographs of Nam et al. (CVPR 2016), for which no result is reported.
    The noise level depends on the brightness of a pixel (`tone_profile`).
    """
    channels, *size = clean.shape
    noise = demosaiced(rng.standard_normal((3, *size), np.float32), rng)
    noise *= rng.uniform(1, 2, (3, 1, 1)).astype(np.float32)
    noise -= rng.uniform(0, 0.3) * (noise.sum(0) - noise)
    for _ in range(rng.integers(5)):
        noise = spread(noise, rng.uniform(0, 0.5))
    brightness = noise.mean(0, keepdims=True)
    if channels == 1:
        noise = brightness
    else:
        noise = blended(brightness, smoothed_colour(noise - brightness, rng), rng.uniform(0.1, 0.7))
    at_mid_grey = noise * (sigma / 255 / float(noise.std()))
    noisy = clean + at_mid_grey * tone_profile(clean, rng)
    return as_jpeg(noisy, int(rng.integers(80, 100))) if rng.random() < 0.5 else noisy


def smoothed_colour(colour: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Colour noise smoothed as by a camera, over up to a dozen pixels; a small part stays as fine as it was."""
    smooth = colour
    for _ in range(rng.integers(17)):
        smooth = spread(smooth, 0.5) * np.float32(0.25)
    return blended(smooth, colour, rng.uniform(0, 0.35) ** 2)


def blended(first: FloatArray, second: FloatArray, share: float) -> FloatArray:
    """The sum of two independent noises with variance 1, of which the second has the share `share`."""
    weights = np.sqrt([1 - share, share]) / (float(first.std()), float(second.std()))
    return np.asarray(weights[0] * first + weights[1] * second, np.float32)


def tone_profile(clean: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The standard deviation of the noise at each value of `clean`, relative to mid-grey.

    After a camera's tone curve the noise is strongest somewhere in the darker half and falls toward black and white.
    Otherwise it grows with the brightness, as photon noise does, or falls with it, as read noise does.
    """
    if rng.random() < 0.5:
        return np.asarray(np.sqrt(1 + rng.uniform(-1, 1) * (2 * clean - 1)), np.float32)
    peak, sharpness = rng.uniform(0.15, 0.6), rng.uniform(0.3, 2.5)

    def height(values: FloatArray) -> FloatArray:
        rise, fall = sharpness * peak, sharpness * (1 - peak)
        return np.asarray(0.15 + (values / peak) ** rise * ((1 - values) / (1 - peak)) ** fall, np.float32)

    return height(clean) / height(np.full((), 0.5, np.float32))


def spread(noise: FloatArray, weight: float) -> FloatArray:
    """Add `weight` times both neighbours to every value, along one axis after the other; the image is periodic."""
    for axis in (1, 2):
        noise = noise + np.float32(weight) * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    return noise


def demosaiced(noise: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Sample `noise` (3, H, W) by a Bayer pattern of random phase, and interpolate each colour to all pixels."""
    row, column = rng.integers(2, size=2)
    y, x = np.ogrid[: noise.shape[1], : noise.shape[2]]
    even_row, even_column = (y + row) % 2 == 0, (x + column) % 2 == 0
    red, green, blue = noise * np.stack([even_row & even_column, even_row ^ even_column, ~even_row & ~even_column])
    red, blue = spread(np.stack([red, blue]), 0.5)
    green = green + sum(np.roll(green, shift, axis) for axis in (0, 1) for shift in (1, -1)) / 4
    return np.stack([red, green, blue])


def as_jpeg(pixels: NDArray[np.floating], quality: int, halves_colours: bool | None = None) -> FloatArray:
    """`pixels` after storage as JPEG.

    Args:
        pixels: (C, H, W) in [0, 1], C is 1 or 3; other values are clipped.
        quality: from 1 to 100.
        halves_colours: whether colours have half the resolution. None is as in cameras: up to quality 90.
    """
    if halves_colours is None:
        halves_colours = quality <= 90
    levels = np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(levels.transpose(1, 2, 0) if len(levels) == 3 else levels[0])
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0" if halves_colours else "4:4:4")
    stored = np.atleast_3d(np.asarray(Image.open(file), np.float32)).transpose(2, 0, 1)
    return np.asarray(stored / 255, np.float32)


NOISES: dict[str, Noise] = {
    "gaussian": gaussian,
    "poisson": poisson,
    "multiplicative": multiplicative,
    "impulse": impulse,
    "mixture": mixture,
    "correlated": correlated,
    "camera": camera,
}


def add_noise(clean: FloatArray, kind: str, sigma: float, rng: np.random.Generator) -> FloatArray:
    """A noisy version of `clean`, clipped to [0, 1] and rounded to 8 bits.

    Args:
        clean: float32 (C, H, W) in [0, 1].
        kind: a key of `NOISES`.
        sigma: standard deviation in 8-bit grey levels.
        rng: source of randomness.

    Returns:
        float32 (C, H, W).
    """
    noisy = NOISES[kind](clean, sigma, rng)
    return (np.round(np.clip(noisy, 0, 1) * 255) / 255).astype(np.float32)
