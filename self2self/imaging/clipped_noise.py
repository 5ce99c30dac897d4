"""Models noise that is clipped at black or white.

A camera, and an 8-bit file, store no value below black. In dark parts of an image the lower half of the noise is cut
off, so the mean of the stored values is brighter than the image: at black by 0.4 standard deviations of the noise
(Foi 2009, "Clipped noisy images: heteroskedastic modeling and practical denoising").

The noise at an end of the range is extrapolated from brightnesses at which nothing is cut off
(`imaging.noise_curve`). Noise that grows with the light, such as photon noise, vanishes at black, and none of it is
cut off there. Noise whose level does not depend on the brightness is measured at all brightnesses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise import SATURATED_SHARE, center_crop
from self2self.imaging.noise_curve import deviations_at_range_ends, to_blocks
from self2self.imaging.smoothing import smooth_step

FloatArray = NDArray[np.float32]

TABLE_SIZE = 1025
"""Number of values from black to white for which the mean of clipped noisy values is computed."""
LEAST_CUT, CUT_QUANTILE = 0.25, 0.9
"""Smallest share of values at an end in squares that count, and the quantile of this share over the squares."""
LARGEST_CUT = (0.62, 0.7)
"""This quantile: up to the first limit, noise was cut off; from the second on, it was not. It is up to 0.64 for noise
around black, and from 0.7 on for dark places with few photons (dev/log)."""


@dataclass(frozen=True, slots=True)
class Clipping:
    """Gaussian noise that is clipped to [0, 1].

    Attributes:
        low: standard deviation of each channel's noise at black, in the unit of the pixels; 0 where nothing is cut off.
        high: the same at white.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def undone(self, means: FloatArray) -> FloatArray:
        """The values whose clipped noisy values have these means.

        The mean of max(0, x + n) for n ~ N(0, s^2) is x P(x / s) + s p(x / s), with the distribution function P and
        the density p of the standard normal distribution. Smaller means than that at black become black.

        Args:
            means: float32 (C, H, W); what lies outside [0, 1] is moved as the nearest end.

        Returns:
            float32 (C, H, W).
        """
        values = np.linspace(0, 1, TABLE_SIZE)
        found = means.astype(np.float32, copy=True)
        for channel, low, high in zip(found, self.low, self.high, strict=True):
            if low or high:
                expected = values + _shift_of_mean(values, low) - _shift_of_mean(1 - values, high)
                inside = np.clip(channel, 0, 1)
                channel += np.interp(inside, expected, values).astype(np.float32) - inside
        return found


def _shift_of_mean(values: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """The increase of the mean when noise of this standard deviation around `values` is cut off at 0."""
    if not deviation:
        return np.zeros_like(values)
    normal = NormalDist()
    return np.array([deviation * normal.pdf(x / deviation) - x * normal.cdf(-x / deviation) for x in values])


def measure_clipping(image: FloatArray) -> Clipping | None:
    """Measure the noise of `image` at the ends of the range that cut it off; None where neither end does.

    Args:
        image: float32 (C, H, W) in [0, 1].
    """
    return _measured(image, lambda cut: 1.0)


def certain_clipping(image: FloatArray) -> Clipping | None:
    """As `measure_clipping`, but noise counts as weaker at an end where something else than clipping made its values.

    Noise around black is cut off at half of the values. Where most values of dark places are black, they are what there
    is, such as the empty pixels of a photon counter, and their mean is the image.
    """
    return _measured(image, _certainty)


def _measured(image: FloatArray, certainty: Callable[[NDArray[np.bool_]], float]) -> Clipping | None:
    """The noise of `image` at the ends that may cut it off, times how sure that is by where values are at an end."""
    image = center_crop(image)
    cuts = (image <= 0, image >= 1)
    shares = [certainty(cut) if np.mean(cut) >= SATURATED_SHARE else 0.0 for cut in cuts]
    if not any(shares):
        return None
    at_ends = deviations_at_range_ends(image)
    low, high = (tuple(pair[end] * shares[end] for pair in at_ends) for end in (0, 1))
    return Clipping(low, high) if any(low) or any(high) else None


def _certainty(cut: NDArray[np.bool_]) -> float:
    """How sure it is that noise was cut off where values are at an end of the range, (C, H, W), from 0 to 1."""
    squares = np.concatenate([to_blocks(plane.astype(np.float64)).mean(axis=(1, 2)) for plane in cut])
    squares = squares[squares >= LEAST_CUT]
    if not len(squares):
        return 1.0
    return 1 - smooth_step(float(np.quantile(squares, CUT_QUANTILE)), *LARGEST_CUT)
