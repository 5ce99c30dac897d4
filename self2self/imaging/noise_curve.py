"""Measure how strong the noise of an image is at each brightness.

The model is a line: the variance of the noise as a function of the brightness (Foi et al. 2008, "Practical
Poissonian-Gaussian noise modeling and fitting for single-image raw-data"). The noise of an amplifier is the same
everywhere, and the noise of photons grows with their number. The variance is measured in small squares in which at most
half of the values are cut off at black or white.
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
"""Number of groups into which squares are sorted by their brightness."""
MINIMUM_SQUARES = 4
"""Smallest number of squares in a group."""
FLAT_QUANTILE, FLAT_VARIANCE_SHARE = 0.25, 0.7445
"""Quantile of a group's variances that counts, because texture adds to the larger ones; and the ratio of this quantile
to the true variance without texture: the quantile of chi-squared with 16 degrees of freedom, over 16."""
SIGNIFICANT_SLOPE = 3.0
"""Smallest slope that counts, in standard errors; below it, the noise counts as equally strong at every brightness."""
MINIMUM_BRIGHTNESS_RANGE = 1e-4
"""Smallest range of brightness from which a slope is computed."""


def to_blocks(plane: Plane) -> Plane:
    """Cut [H, W] into squares [n, BLOCK_SIDE, BLOCK_SIDE]; incomplete squares at the right and below are left out."""
    height, width = (side // BLOCK_SIDE for side in plane.shape)
    grid = plane[: height * BLOCK_SIDE, : width * BLOCK_SIDE].reshape(height, BLOCK_SIDE, width, BLOCK_SIDE)
    return grid.swapaxes(1, 2).reshape(-1, BLOCK_SIDE, BLOCK_SIDE)


def median_kurtosis(blocks: NDArray[np.floating]) -> float:
    """Kurtosis of blocks, median over those that vary; 0 if none does. It is 3 for Gaussian values.

    Args:
        blocks: [n, H, W], each of mean zero.
    """
    squared = np.square(blocks)
    variances = squared.mean(axis=(1, 2))
    noisy = variances > 0
    kurtoses = np.square(squared[noisy]).mean(axis=(1, 2)) / np.square(variances[noisy])
    return float(np.median(kurtoses)) if len(kurtoses) else 0.0


def by_brightness(values: NDArray[np.floating], minimum: int) -> list[NDArray[np.intp]]:
    """Sort values into groups of similar brightness.

    Args:
        values: [n], brightnesses.
        minimum: smallest size of a group.

    Returns:
        indices of `values` in up to `BRIGHTNESS_GROUPS` groups of equal size, from dark to bright; one group if there
        are too few values for two.
    """
    order = np.argsort(values, kind="stable")
    return np.array_split(order, max(1, min(BRIGHTNESS_GROUPS, values.size // minimum)))


def deviations_at_range_ends(image: NDArray[np.floating]) -> list[tuple[float, float]]:
    """Estimate the standard deviation of the noise at brightness 0 and at brightness 1.

    Args:
        image: (C, H, W) in [0, 1].

    Returns:
        a pair for each channel, in the unit of `image`; zeros if too few squares are not cut off.
    """
    measured = [_square_statistics(plane) for plane in image]
    grouped = [found for brightness, variances in measured if (found := _groups(brightness, variances)) is not None]
    # All channels together decide whether the noise changes with the brightness; each channel has its own line.
    if len(grouped) == len(measured):
        together = (np.concatenate(values) for values in zip(*grouped, strict=True))
        if abs(_slope_in_errors(*together)) >= SIGNIFICANT_SLOPE:
            return [_range_end_deviations(*values) for values in grouped]
    constant = [
        math.sqrt(_noise_variance(variances)) if len(variances) >= MINIMUM_SQUARES else 0.0 for _, variances in measured
    ]
    return [(deviation, deviation) for deviation in constant]


def _square_statistics(plane: NDArray[np.floating]) -> tuple[Plane, Plane]:
    """Measure the brightness and the variance of the noise in each square of which at most half is cut off."""
    squares = to_blocks(plane.astype(np.float64))
    cut_off = np.maximum(np.sum(squares <= 0, axis=(1, 2)), np.sum(squares >= 1, axis=(1, 2)))
    usable = cut_off <= BLOCK_SIDE * BLOCK_SIDE // 2
    squares, cut_off = squares[usable], cut_off[usable]
    # Half the second difference of four neighbours has the noise's variance, and smooth changes of the image vanish.
    corners = [squares[:, i::2, j::2] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
    variances = np.square((corners[0] + corners[1] - corners[2] - corners[3]) / 2).mean(axis=(1, 2))
    return squares.mean(axis=(1, 2)), variances / np.array(REMAINING_VARIANCE)[cut_off]


def _groups(brightness: Plane, variances: Plane) -> tuple[Plane, Plane] | None:
    """Measure the mean brightness and the variance of the noise of groups of squares, from dark to bright.

    Returns:
        both as [BRIGHTNESS_GROUPS]; None if there are too few squares.
    """
    size = len(brightness) // BRIGHTNESS_GROUPS
    if size < MINIMUM_SQUARES:
        return None
    order = np.argsort(brightness, kind="stable")[: size * BRIGHTNESS_GROUPS].reshape(BRIGHTNESS_GROUPS, size)
    return brightness[order].mean(axis=1), np.array([_noise_variance(group) for group in variances[order]])


def _slope_in_errors(brightness: Plane, variances: Plane) -> float:
    """Fit a line to the variances and return its slope in standard errors; 0 if the brightness hardly varies."""
    if np.ptp(brightness) < MINIMUM_BRIGHTNESS_RANGE:
        return 0.0
    (slope, _), covariance = np.polyfit(brightness, variances, 1, cov=True)
    error = math.sqrt(covariance[0, 0])
    return float(slope) / max(error, 1e-300)


def _range_end_deviations(brightness: Plane, variances: Plane) -> tuple[float, float]:
    """Fit a line to the variances and return the standard deviations at brightness 0 and 1."""
    slope, at_zero = np.polyfit(brightness, variances, 1)
    low, high = (math.sqrt(max(0.0, float(value))) for value in (at_zero, at_zero + slope))
    return low, high


def _noise_variance(variances: Plane) -> float:
    """Estimate the variance of the noise from variances of squares, of which texture has increased some."""
    return float(np.quantile(variances, FLAT_QUANTILE)) / FLAT_VARIANCE_SHARE


def _remaining_variance(share: float) -> float:
    """Return the variance of max(0, t + n), with n standard normal and t such that `share` of all cases are cut off."""
    normal = NormalDist()
    t = -normal.inv_cdf(share)
    mean = normal.pdf(t) + t * normal.cdf(t)
    return (t * t + 1) * normal.cdf(t) + t * normal.pdf(t) - mean**2


REMAINING_VARIANCE = (1.0, *(_remaining_variance(count / BLOCK_SIDE**2) for count in range(1, BLOCK_SIDE**2 // 2 + 1)))
"""Share of the variance that remains in a square, by the number of its values that are cut off."""
