"""How strong the noise of an image is at each brightness.

The variance of noise is taken as a line over the brightness (Foi et al. 2008, "Practical Poissonian-Gaussian noise
modeling and fitting for single-image raw-data"): what an amplifier adds is the same everywhere, and what photons add
grows with their number. It is measured in small squares, where nothing, or not all, is cut off at black or white.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float64]

BLOCK_SIDE = 8
"""Side of the squares, in pixels."""
BRIGHTNESS_GROUPS = 8
"""Squares are put into so many groups by their brightness."""
MINIMUM_SQUARES = 4
"""Squares that a group needs."""
FLAT_QUANTILE, FLAT_VARIANCE_SHARE = 0.25, 0.7445
"""Of a group's variances this quantile counts, as texture adds to the others; and what it is of the true variance where
there is none: the quantile of chi-squared with 16 degrees of freedom, over 16."""
SIGNIFICANT_SLOPE = 3.0
"""Standard errors from which on a slope is believed; else the noise counts as equally strong everywhere."""
MINIMUM_BRIGHTNESS_RANGE = 1e-4
"""Brightnesses that are nearer to each other tell no slope."""
CERTAIN_SLOPE, MINIMUM_VARIANCE_RATIO = 8.0, 2.0
"""Standard errors, and variance of the brightest squares over that of the darkest, from which on noise is said to
depend on the signal (dev/log)."""


def to_blocks(plane: Plane) -> Plane:
    """Squares [n, BLOCK, BLOCK]; what is over at the right and below is left out."""
    height, width = (side // BLOCK_SIDE for side in plane.shape)
    grid = plane[: height * BLOCK_SIDE, : width * BLOCK_SIDE].reshape(height, BLOCK_SIDE, width, BLOCK_SIDE)
    return grid.swapaxes(1, 2).reshape(-1, BLOCK_SIDE, BLOCK_SIDE)


def by_brightness(values: NDArray[np.floating], least: int) -> list[NDArray[np.intp]]:
    """Indices of `values` [n], from dark to bright, in up to `BRIGHTNESS_GROUPS` equal groups of at least `least`, or in one."""
    order = np.argsort(values, kind="stable")
    return np.array_split(order, max(1, min(BRIGHTNESS_GROUPS, values.size // least)))


def is_signal_dependent(image: NDArray[np.floating]) -> bool:
    """Whether the noise grows with the brightness, in every channel, as that of photons does.

    Args:
        image: (C, H, W) in [0, 1].
    """
    grouped = (_groups(*_square_statistics(plane)) for plane in image)
    return all(
        found is not None
        and _slope_in_errors(*found) >= CERTAIN_SLOPE
        and found[1][-1] >= MINIMUM_VARIANCE_RATIO * found[1][0]
        for found in grouped
    )


def deviations_at_range_ends(image: NDArray[np.floating]) -> list[tuple[float, float]]:
    """Standard deviation of the noise at 0 and at 1, of each channel.

    Args:
        image: (C, H, W) in [0, 1].

    Returns:
        pairs; zeros where there is too little that is not cut off to tell.
    """
    measured = [_square_statistics(plane) for plane in image]
    grouped = [found for brightness, variances in measured if (found := _groups(brightness, variances)) is not None]
    # All channels tell whether it grows with the brightness, and each of them how.
    if len(grouped) == len(measured):
        together = (np.concatenate(values) for values in zip(*grouped, strict=True))
        if abs(_slope_in_errors(*together)) >= SIGNIFICANT_SLOPE:
            return [_range_end_deviations(*values) for values in grouped]
    constant = [
        math.sqrt(_noise_variance(variances)) if len(variances) >= MINIMUM_SQUARES else 0.0 for _, variances in measured
    ]
    return [(deviation, deviation) for deviation in constant]


def _square_statistics(plane: NDArray[np.floating]) -> tuple[Plane, Plane]:
    """Brightness and variance of the noise of squares of which at most half is cut off."""
    squares = to_blocks(plane.astype(np.float64))
    cut_off = np.maximum(np.sum(squares <= 0, axis=(1, 2)), np.sum(squares >= 1, axis=(1, 2)))
    usable = cut_off <= BLOCK_SIDE * BLOCK_SIDE // 2
    squares, cut_off = squares[usable], cut_off[usable]
    # Smooth changes of the image vanish in the second difference of four neighbours, which has the noise's variance.
    corners = [squares[:, i::2, j::2] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
    variances = np.square((corners[0] + corners[1] - corners[2] - corners[3]) / 2).mean(axis=(1, 2))
    return squares.mean(axis=(1, 2)), variances / np.array(REMAINING_VARIANCE)[cut_off]


def _groups(brightness: Plane, variances: Plane) -> tuple[Plane, Plane] | None:
    """Mean brightness and variance of the noise of groups of squares, from dark to light; None of too few."""
    size = len(brightness) // BRIGHTNESS_GROUPS
    if size < MINIMUM_SQUARES:
        return None
    order = np.argsort(brightness, kind="stable")[: size * BRIGHTNESS_GROUPS].reshape(BRIGHTNESS_GROUPS, size)
    return brightness[order].mean(axis=1), np.array([_noise_variance(group) for group in variances[order]])


def _slope_in_errors(brightness: Plane, variances: Plane) -> float:
    """Slope of the line through the variances, in standard errors; 0 where there is none."""
    if np.ptp(brightness) < MINIMUM_BRIGHTNESS_RANGE:
        return 0.0
    (slope, _), covariance = np.polyfit(brightness, variances, 1, cov=True)
    error = math.sqrt(covariance[0, 0])
    return float(slope) / max(error, 1e-300)


def _range_end_deviations(brightness: Plane, variances: Plane) -> tuple[float, float]:
    """Standard deviations at 0 and at 1 by the line through the variances."""
    slope, at_zero = np.polyfit(brightness, variances, 1)
    low, high = (math.sqrt(max(0.0, float(value))) for value in (at_zero, at_zero + slope))
    return low, high


def _noise_variance(variances: Plane) -> float:
    """Variance of the noise, where texture has added to some of the variances."""
    return float(np.quantile(variances, FLAT_QUANTILE)) / FLAT_VARIANCE_SHARE


def _remaining_variance(share: float) -> float:
    """Variance of max(0, t + n) for a standard normal n that is cut off in `share` of all cases."""
    normal = NormalDist()
    t = -normal.inv_cdf(share)
    mean = normal.pdf(t) + t * normal.cdf(t)
    return (t * t + 1) * normal.cdf(t) + t * normal.pdf(t) - mean**2


REMAINING_VARIANCE = (1.0, *(_remaining_variance(count / BLOCK_SIDE**2) for count in range(1, BLOCK_SIDE**2 // 2 + 1)))
"""Share of the variance that is left in a square, by how many of its values are cut off."""
