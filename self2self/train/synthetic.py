"""Noise of the kinds that cameras and microscopes make, for start weights and for benchmarks.

All functions take and return float32 arrays in [0, 1] of shape (C, H, W); standard deviations
are in 8-bit grey levels. The result is clipped and rounded to 8 bits, as a stored image is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
Noise = Callable[[FloatArray, float, np.random.Generator], NDArray[np.floating]]


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
    """Gaussian noise that a camera's interpolation has spread over neighbouring pixels."""
    white = rng.standard_normal(clean.shape, np.float32)
    weight = rng.uniform(0.1, 0.5)
    for axis in (1, 2):
        white = white + weight * (np.roll(white, 1, axis) + np.roll(white, -1, axis))
    return clean + white * (sigma / 255 / float(white.std()))


NOISES: dict[str, Noise] = {
    "gaussian": gaussian,
    "poisson": poisson,
    "multiplicative": multiplicative,
    "impulse": impulse,
    "mixture": mixture,
    "correlated": correlated,
}


def add_noise(clean: FloatArray, kind: str, sigma: float, rng: np.random.Generator) -> FloatArray:
    """Noisy version of `clean`, clipped to [0, 1] and rounded to 8 bits.

    Args:
        clean: float32 (C, H, W) in [0, 1].
        kind: a key of `NOISES`.
        sigma: standard deviation in 8-bit grey levels.
        rng: source of randomness.
    """
    noisy = NOISES[kind](clean, sigma, rng)
    return (np.round(np.clip(noisy, 0, 1) * 255) / 255).astype(np.float32)
