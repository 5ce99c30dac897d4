"""Smooth planes: means over square windows, and the bands of the à trous wavelet transform; and a smooth step."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

SPLINE = (6 / 16, 4 / 16, 1 / 16)
"""The cubic B-spline, the symmetric kernel of the transform along one axis, from its middle."""
BAND_SHARES = (0.7935, 0.0403, 0.00731, 0.0017)
"""Variance of independent noise in each band, as a share of its variance in the image. Each band is the difference of
two smoothed images; the noise of the last smoothed image is in no band."""


def box_mean(values: NDArray[np.floating], radius: int) -> FloatArray:
    """The mean over the square window of 2 `radius` + 1 pixels around each pixel of [..., H, W].

    At the borders, the window has only the pixels that exist.
    """
    means = _line_means(values.astype(np.float64), radius, -2)
    return _line_means(means, radius, -1).astype(np.float32)


def _line_means(values: NDArray[np.float64], radius: int, axis: Literal[-2, -1]) -> NDArray[np.float64]:
    side = values.shape[axis]
    shape = list(values.shape)
    shape[axis] += 1
    sums = np.zeros(shape)
    if axis == -1:
        np.cumsum(values, axis=-1, out=sums[..., 1:])
    else:
        # NumPy adds up columns value by value, which takes three times as long.
        for row in range(side):
            np.add(sums[..., row, :], values[..., row, :], out=sums[..., row + 1, :])
    places = np.arange(side)
    ends, starts = np.minimum(places + radius + 1, side), np.maximum(places - radius, 0)
    counts = np.expand_dims((ends - starts).astype(np.float64), tuple(range(1, -axis)))
    means = sums.take(ends, axis)
    means -= sums.take(starts, axis)
    means /= counts
    return means


def spline_smoothed(values: FloatArray, level: int) -> FloatArray:
    """Smooth [..., H, W] with the cubic B-spline, whose taps are 2^`level` pixels apart; borders are mirrored."""
    distance = 2**level
    for axis in (-2, -1):
        side = values.shape[axis]
        padded = values.take(_mirrored(np.arange(-2 * distance, side + 2 * distance), side), axis)
        starts = (tap * distance for tap in range(2 * len(SPLINE) - 1))
        first, second, middle, fourth, fifth = (
            padded[..., start : start + side, :] if axis == -2 else padded[..., start : start + side]
            for start in starts
        )
        values = SPLINE[2] * (first + fifth) + SPLINE[1] * (second + fourth) + SPLINE[0] * middle
    return np.asarray(values, np.float32)


def _mirrored(places: NDArray[np.intp], side: int) -> NDArray[np.intp]:
    """Indices of a line of `side` pixels that is mirrored at its ends, as often as needed."""
    within = np.mod(places, 2 * side)
    return np.where(within < side, within, 2 * side - 1 - within)


def bands(values: FloatArray, count: int) -> tuple[list[FloatArray], FloatArray]:
    """Split [..., H, W] into `count` bands, from fine to coarse, and the smooth rest; their sum is `values`."""
    found = []
    for level in range(count):
        smooth = spline_smoothed(values, level)
        found.append(values - smooth)
        values = smooth
    return found, values


def smooth_step(value: float, low: float, high: float) -> float:
    """0 up to `low`, 1 from `high` on, and a smooth rise in between."""
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return share * share * (3 - 2 * share)
