"""Run BM3D on photon noise, with the variance stabilised first, as is usual for microscopes.

The variance of photon noise is a linear function of the brightness: a part from counting photons, and a constant part
from the detector. The generalised Anscombe transform gives such noise a standard deviation of 1 everywhere, as BM3D
expects. The mean of transformed values is not the transform of the mean. The inverse is therefore the closed form of
the exact unbiased inverse (Mäkitalo and Foi 2013, "Optimal inversion of the generalized Anscombe transformation for
Poisson-Gaussian noise", and 2011 for the closed form).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


class PhotonNoise(NamedTuple):
    """Noise whose variance is ``gain * brightness + offset``, with pixels in [0, 1].

    Attributes:
        gain: brightness of one photon; more than 0.
        offset: variance at black; at least 0.
    """

    gain: float
    offset: float


def photon_noise(noisy: NDArray[np.floating], clean: NDArray[np.floating]) -> PhotonNoise:
    """Fit the line of variance over brightness to the squared differences; this needs the clean image."""
    brightness = clean.astype(np.float64).ravel()
    squares = np.square(noisy - clean.astype(np.float64)).ravel()
    gain, offset = np.polyfit(brightness, squares, 1)
    if offset >= 0:
        return PhotonNoise(max(float(gain), 1e-6), float(offset))
    # A variance at black cannot be negative, so the line passes through 0 at black.
    return PhotonNoise(float(brightness @ squares / (brightness @ brightness)), 0.0)


def stabilised(values: NDArray[np.floating], noise: PhotonNoise) -> Values:
    """Transform `values` in [0, 1], so that their noise has standard deviation 1."""
    gain, offset = noise
    return 2 / gain * np.sqrt(np.maximum(gain * values.astype(np.float64) + 0.375 * gain**2 + offset, 0))


def unstabilised(values: Values, noise: PhotonNoise) -> Values:
    """Invert `stabilised` for means of values; return brightness in [0, 1]."""
    gain, offset = noise
    at_black = 2 * np.sqrt(0.375 + offset / gain**2)
    z = np.maximum(values, at_black)
    root = np.sqrt(1.5)
    photons = z**2 / 4 + root / (4 * z) - 11 / (8 * z**2) + 5 * root / (8 * z**3) - 1 / 8 - offset / gain**2
    return gain * photons


def bm3d_of_photons(noisy: NDArray[np.floating], noise: PhotonNoise) -> Values:
    """Run BM3D on one channel with known noise.

    Args:
        noisy: (H, W) in [0, 1].
        noise: the noise of `noisy`.

    Returns:
        (H, W), the brightness.
    """
    import bm3d

    values = stabilised(noisy, noise)
    # Package bm3d expects values in [0, 1].
    low, high = float(values.min()), float(values.max())
    scale = max(high - low, 1e-6)
    return unstabilised(bm3d.bm3d((values - low) / scale, 1 / scale) * scale + low, noise)
