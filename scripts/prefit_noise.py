"""Makes noisy versions of clean crops for the start weights: noise of many kinds, from none to strong.

Beside the kinds of `self2self.train.synthetic_noise` there are those that photographs arrive with: noise that JPEG has
changed, noise that the channels share, and grey images with three channels.

Clean crops are float32 (3, H, W) in [0, 1]; standard deviations are in 8-bit grey levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from self2self.train.synthetic_noise import (
    NOISES,
    FloatArray,
    Noise,
    as_jpeg,
    blended,
    camera,
    demosaiced,
    spread,
    tone_profile,
)

GREY, DEVELOPED = "grey", "developed"
KIND_SHARES = {
    "camera file": 0.28,
    DEVELOPED: 0.12,
    "gaussian": 0.22,
    GREY: 0.1,
    "poisson": 0.07,
    "correlated": 0.06,
    "shared": 0.05,
    "impulse": 0.05,
    "mixture": 0.04,
    "multiplicative": 0.01,
}
"""Share of the crops with each kind of noise: a key of `KINDS`, a grey image stored as RGB, or noise from before a tone
curve."""
GREY_KIND_SHARES = {"gaussian": 0.5, "correlated": 0.22, "poisson": 0.2, "mixture": 0.04, "impulse": 0.04}
"""Share of each kind of noise among grey images."""
LARGEST_SIGMA = 70.0
LARGEST_SIGMAS = {"camera file": 50.0, DEVELOPED: 50.0, "correlated": 50.0}
"""Largest standard deviation by kind of noise; `LARGEST_SIGMA` for the others."""
WEAKER_SHARE, NONE_SHARE = 0.3, 0.02
"""Shares of the crops whose noise is still weaker, and of those without any."""
QUALITIES = (55, 97)
"""Lowest and highest quality of JPEG."""
BLOCK = 16
"""Side of JPEG's blocks where colours have half the resolution, in pixels."""
CUT_OFF_SHARE = 0.1
"""Share of the crops that are cut off at black and white, noise and all, as in an image whose outliers did not set the
range: the network sees no values outside [0, 1]."""
LARGEST_CUT_OFF = 0.3
"""Largest part of the original range that is cut off at each end."""
ROUNDED_SHARE = 0.85
"""Share of the other crops with noisy values clipped and rounded to 8 bits."""
TABLE = np.linspace(0, 1, 4096) ** 2
"""Values in linear light at which tone curves are tabulated; they are denser in the dark, where curves are steep."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
"""Gauss-Hermite quadrature: the mean of a function of a standard normal variable, once the weights sum to 1."""


class Pair(NamedTuple):
    """A clean and a noisy version of the same crop, float32 (3, H, W)."""

    clean: FloatArray
    noisy: FloatArray


def noisy_pair(clean: FloatArray, kind: str, rng: np.random.Generator) -> Pair:
    """`clean`, and the same with noise of `kind`, a key of `KIND_SHARES`; both may have more contrast.

    A grey image is made of `clean` where the kind is `GREY`. Noise from before a tone curve changes the mean, and the
    clean version has the mean, because brightness is mended elsewhere (`self2self.imaging.tone_bias`).
    """
    if kind == GREY:
        grey = one_channel(clean, rng)
        pair = toned(grey, with_noise(grey, draw(GREY_KIND_SHARES, rng), rng), rng)
    elif kind == DEVELOPED:
        pair = developed(clean, draw_sigma(LARGEST_SIGMAS[kind], rng), rng)
    else:
        pair = Pair(clean, with_noise(clean, kind, rng))
    if rng.random() < CUT_OFF_SHARE:
        pair = cut_off(pair, rng)
    elif rng.random() < ROUNDED_SHARE:
        pair = pair._replace(noisy=np.round(np.clip(pair.noisy, 0, 1) * 255) / 255)
    return Pair(*(pixels.astype(np.float32) for pixels in pair))


def draw(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    """A random key of `shares`, whose values are probabilities."""
    return str(rng.choice(list(shares), p=list(shares.values())))


def with_noise(clean: FloatArray, kind: str, rng: np.random.Generator) -> NDArray[np.floating]:
    """`clean` (1 or 3, H, W) with noise of `kind`, a key of `KINDS`, at a random level."""
    return KINDS[kind](clean, draw_sigma(LARGEST_SIGMAS.get(kind, LARGEST_SIGMA), rng), rng)


def draw_sigma(largest: float, rng: np.random.Generator) -> float:
    """A random standard deviation from 0 to `largest`, more often low; in a share of the draws it is exactly 0."""
    sigma = largest * rng.random() ** 2
    if rng.random() < WEAKER_SHARE:
        sigma *= rng.random() ** 2
    return 0.0 if rng.random() < NONE_SHARE else sigma


def one_channel(clean: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The mean (1, H, W) of the channels, or one of them."""
    return clean.mean(0, keepdims=True) if rng.random() < 0.7 else clean[rng.integers(len(clean))][None]


def toned(clean: FloatArray, noisy: NDArray[np.floating], rng: np.random.Generator) -> Pair:
    """A grey pair (1, H, W) as RGB: three equal channels, or in a share of the draws between two colours."""
    gains, offset = np.ones((3, 1, 1)), 0.0
    if rng.random() < 0.2:
        gains, offset = rng.uniform(0.5, 1, (3, 1, 1)), rng.uniform(0, 0.1)
    return Pair(gains * clean + offset, gains * noisy + offset)


def cut_off(pair: Pair, rng: np.random.Generator) -> Pair:
    """The pair with a random part of its range mapped to [0, 1], and clipped."""
    low, high = rng.uniform(0, LARGEST_CUT_OFF), rng.uniform(1 - LARGEST_CUT_OFF, 1)
    return Pair(*(np.clip((pixels - low) / (high - low), 0, 1) for pixels in pair))


def camera_file(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """The noise of a camera, or of a sensor with three colours at each pixel; mostly after JPEG."""
    if rng.random() < 0.3:
        return camera(clean, sigma, rng)
    noise = camera if rng.random() < 0.5 else sensor
    quality = int(rng.integers(QUALITIES[0], QUALITIES[1], endpoint=True))
    return as_jpeg_part(noise(clean, sigma, rng), quality, rng.random() < 0.8, rng)


def as_jpeg_part(
    pixels: NDArray[np.floating], quality: int, halves_colours: bool, rng: np.random.Generator
) -> FloatArray:
    """`pixels` as a part of a larger image that was stored as JPEG, anywhere in its grid of blocks."""
    top, left = (int(offset) for offset in rng.integers(BLOCK, size=2))
    larger = np.pad(pixels, ((0, 0), (top, BLOCK), (left, BLOCK)), mode="reflect")
    _, height, width = pixels.shape
    return as_jpeg(larger, quality, halves_colours)[:, top : top + height, left : left + width]


def developed(clean: FloatArray, sigma: float, rng: np.random.Generator) -> Pair:
    """Photon and read noise in linear light, cut off at black and then brightened by a tone curve; at times as JPEG.

    The clean version is the mean of the noisy one over all draws of the noise.
    """
    curve = tone_curve(rng)
    light = np.interp(clean, curve, TABLE)
    grey = np.interp(0.5, curve, TABLE)
    read_share = rng.uniform(0, 0.3) if rng.random() < 0.7 else rng.random()
    deviation = np.sqrt(read_share + (1 - read_share) * light / grey) * rng.uniform(0.7, 1.6, (3, 1, 1))
    deviation *= sigma / 255 / np.interp(grey, TABLE, np.gradient(curve, TABLE))

    def displayed(noise: NDArray[np.floating] | float) -> FloatArray:
        return np.interp(light + noise * deviation, TABLE, curve).astype(np.float32)

    mean = np.tensordot(WEIGHTS / WEIGHTS.sum(), [displayed(node) for node in NODES], 1).astype(np.float32)
    noisy = displayed(sensor_noise(clean.shape, rng))
    if rng.random() < 0.4:
        quality = int(rng.integers(QUALITIES[0], QUALITIES[1], endpoint=True))
        noisy = as_jpeg_part(noisy, quality, rng.random() < 0.8, rng)
    return Pair(mean, noisy)


def sensor_noise(shape: tuple[int, ...], rng: np.random.Generator) -> FloatArray:
    """Gaussian noise (3, H, W) of standard deviation 1, at times interpolated from a Bayer pattern and smoothed."""
    noise = rng.standard_normal(shape, np.float32)
    if rng.random() < 0.5:
        noise = demosaiced(noise, rng)
    for _ in range(rng.integers(3)):
        noise = spread(noise, rng.uniform(0, 0.4))
    return np.asarray(noise / noise.std((1, 2), keepdims=True), np.float32)


def tone_curve(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random tone curve at the values of `TABLE`: a power with a straight foot, and in part an S."""
    exponent, foot = 1 / rng.uniform(1.6, 2.6), 10 ** rng.uniform(-3, -1.3)
    power = (TABLE + foot) ** exponent
    curve = np.asarray((power - power[0]) / (power[-1] - power[0]), np.float64)
    return curve + rng.uniform(0, 0.6) * (curve**2 * (3 - 2 * curve) - curve)


def sensor(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """Noise of another strength in each channel; it may be spread over neighbours, and in part shared by channels."""
    noise = rng.standard_normal(clean.shape, np.float32)
    if rng.random() < 0.5:
        noise = spread(noise, rng.uniform(0, 0.4))
    if rng.random() < 0.5:
        noise = blended(noise, rng.standard_normal(clean.shape[1:], np.float32), rng.uniform(0, 0.8))
    noise *= rng.uniform(0.7, 1.6, (len(clean), 1, 1)).astype(np.float32)
    return clean + noise * (sigma / 255 / float(noise.std())) * tone_profile(clean, rng)


def shared(clean: FloatArray, sigma: float, rng: np.random.Generator) -> NDArray[np.floating]:
    """The same Gaussian noise in all channels, as noise of the brightness; at times stronger in some of them."""
    noise = rng.standard_normal(clean.shape[1:], np.float32)[None]
    if rng.random() < 0.3:
        noise = spread(noise, rng.uniform(0, 0.3))
        noise /= noise.std()
    gains = rng.uniform(0.6, 1.3, (len(clean), 1, 1)).astype(np.float32) if rng.random() < 0.3 else np.float32(1)
    return clean + noise * gains * np.float32(sigma / 255)


KINDS: dict[str, Noise] = NOISES | {"camera file": camera_file, "shared": shared}
"""Kinds of noise by name."""
