"""BM3D for noise of photons: on values whose noise is made equally strong, as is usual for microscopes.

The variance of such noise is a line over the brightness: what the detector counts, and what it adds by itself. Its
generalised Anscombe transform has noise of standard deviation 1 everywhere, which is what BM3D was made for. The mean
of transformed values is not the transform of the mean, so the way back is the closed form of the exact unbiased
inverse (Mäkitalo and Foi 2013, "Optimal inversion of the generalized Anscombe transformation for Poisson-Gaussian
noise", and 2011 for the closed form).
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
    """The line through the squares of all differences, which nobody knows without the clean image."""
    brightness = clean.astype(np.float64).ravel()
    squares = np.square(noisy - clean.astype(np.float64)).ravel()
    gain, offset = np.polyfit(brightness, squares, 1)
    if offset >= 0:
        return PhotonNoise(max(float(gain), 1e-6), float(offset))
    # Through black, where noise cannot be less than none.
    return PhotonNoise(float(brightness @ squares / (brightness @ brightness)), 0.0)


def stabilised(values: NDArray[np.floating], noise: PhotonNoise) -> Values:
    """`values` in [0, 1] with noise of standard deviation 1."""
    gain, offset = noise
    return 2 / gain * np.sqrt(np.maximum(gain * values.astype(np.float64) + 0.375 * gain**2 + offset, 0))


def unstabilised(values: Values, noise: PhotonNoise) -> Values:
    """Brightness in [0, 1] from means of `stabilised` values."""
    gain, offset = noise
    at_black = 2 * np.sqrt(0.375 + offset / gain**2)
    z = np.maximum(values, at_black)
    root = np.sqrt(1.5)
    photons = z**2 / 4 + root / (4 * z) - 11 / (8 * z**2) + 5 * root / (8 * z**3) - 1 / 8 - offset / gain**2
    return gain * photons


def bm3d_of_photons(noisy: NDArray[np.floating], noise: PhotonNoise) -> Values:
    """BM3D of one channel, which is told the noise.

    Args:
        noisy: (H, W) in [0, 1].
        noise: of it.
    """
    import bm3d

    values = stabilised(noisy, noise)
    # Package bm3d works in [0, 1], too.
    low, high = float(values.min()), float(values.max())
    scale = max(high - low, 1e-6)
    return unstabilised(bm3d.bm3d((values - low) / scale, 1 / scale) * scale + low, noise)
