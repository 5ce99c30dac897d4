"""Noise that is cut off at black or white, and what a prediction has to be compared with there.

A camera, and an 8-bit file, store no value under black. Where an image is dark, half of its noise is cut off there, so
the mean of what is stored is brighter than the image: by 0.4 standard deviations of the noise at black. A fit that
learns from noisy values learns that mean. So what it predicts is brought through the same cut before it is compared
(Foi 2009, "Clipped noisy images: heteroskedastic modeling and practical denoising"), and the prediction itself stays
free of it.

How strong the noise is at an end is extrapolated from where nothing is cut off, as a variance that is linear in the
brightness (Foi et al. 2008, "Practical Poissonian-Gaussian noise modeling and fitting for single-image raw-data"):
noise that grows with the light, as that of photons, vanishes at black, and nothing of it is cut off. Where it does not
grow, it is measured in darker and lighter places, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.diagnosis import BLOCK, SATURATED_SHARE, blocks_of, central

FloatArray = NDArray[np.float32]

GROUPS = 8
"""Squares are put into so many groups by their brightness."""
FEWEST = 4
"""Squares that a group needs."""
FLAT_QUANTILE, FLAT_SHARE = 0.25, 0.7445
"""Of a group's variances this quantile counts, as texture adds to the others; and what it is of the true variance where
there is none: the quantile of chi-squared with 16 degrees of freedom, over 16."""
SIGNIFICANT = 3.0
"""Standard errors from which on a slope is believed; else the noise counts as equally strong everywhere."""


@dataclass(frozen=True, slots=True)
class Clipping:
    """Gaussian noise whose ends are cut off.

    Attributes:
        low: standard deviation at black, of each channel, in the unit of the pixels; 0 where nothing is cut off.
        high: the same at white.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def expected(self, values: Tensor) -> Tensor:
        """The mean of noisy values whose noise is cut off at 0 and 1.

        Args:
            values: float32 [N, C, H, W], without noise.

        The mean of max(0, x + n) for n ~ N(0, s^2) is x P(x / s) + s p(x / s), with P and p the distribution and
        density of a standard normal variable. Both ends are treated alone: an s for which both matter leaves no image.
        Beyond the ends, where no image is, the mean goes on as a straight line: it would hardly change with x, and a
        fit that went there would not come back.
        """
        if any(self.low):
            values = values + _gain(values, self.low)
        if any(self.high):
            values = values - _gain(1 - values, self.high)
        return values


def _gain(values: Tensor, deviations: tuple[float, ...]) -> Tensor:
    """By how much the mean grows when noise is cut off at 0."""
    spread = _spread(deviations, values.device)
    inside = values.clamp(min=0)
    ratio = inside / spread.clamp(min=1e-6)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    # The distribution at -x, as 1 less that at x would be lost in rounding; half of what lies beyond is its tangent.
    gain = spread * density - inside * torch.special.ndtr(-ratio) - 0.5 * (values - inside)
    return torch.where(spread > 0, gain, torch.zeros_like(values))


@lru_cache(maxsize=16)
def _spread(deviations: tuple[float, ...], device: torch.device) -> Tensor:
    # Kept, as nothing can be copied to a GPU while a graph is recorded there.
    return torch.tensor(deviations, dtype=torch.float32, device=device)[:, None, None]


def measure_clipping(image: FloatArray) -> Clipping | None:
    """The noise of `image` at the ends that cut it off; None where neither does.

    Args:
        image: float32 (C, H, W) in [0, 1].
    """
    image = central(image)
    ends = [float(np.mean(cut)) >= SATURATED_SHARE for cut in (image <= 0, image >= 1)]
    if not any(ends):
        return None
    at_ends = deviations_at_the_ends(image)
    low, high = (tuple(pair[end] if ends[end] else 0.0 for pair in at_ends) for end in (0, 1))
    return Clipping(low, high) if any(low) or any(high) else None


def deviations_at_the_ends(image: NDArray[np.floating]) -> list[tuple[float, float]]:
    """Standard deviation of the noise at 0 and at 1, of each channel.

    Args:
        image: (C, H, W) in [0, 1].

    Returns:
        pairs; zeros where there is too little that is not cut off to tell.
    """
    measured = [_squares(plane) for plane in image]
    grouped = [found for brightness, variances in measured if (found := _groups(brightness, variances)) is not None]
    # All channels tell whether it grows with the brightness, and each of them how.
    enough = len(grouped) == len(measured)
    if enough and _has_slope(*(np.concatenate(values) for values in zip(*grouped, strict=True))):
        return [_line(*values) for values in grouped]
    constant = [math.sqrt(_flat(variances)) if len(variances) >= FEWEST else 0.0 for _, variances in measured]
    return [(deviation, deviation) for deviation in constant]


def _squares(plane: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brightness and variance of the noise of squares of which at most half is cut off."""
    squares = blocks_of(plane.astype(np.float64))
    cut_off = np.maximum(np.sum(squares <= 0, axis=(1, 2)), np.sum(squares >= 1, axis=(1, 2)))
    usable = cut_off <= BLOCK * BLOCK // 2
    squares, cut_off = squares[usable], cut_off[usable]
    # Smooth changes of the image vanish in the second difference of four neighbours, which has the noise's variance.
    corners = [squares[:, i::2, j::2] for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
    variances = np.square((corners[0] + corners[1] - corners[2] - corners[3]) / 2).mean(axis=(1, 2))
    return squares.mean(axis=(1, 2)), variances / np.array(REMAINING)[cut_off]


def _groups(
    brightness: NDArray[np.float64], variances: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Mean brightness and variance of the noise of groups of squares, from dark to light; None of too few."""
    size = len(brightness) // GROUPS
    if size < FEWEST:
        return None
    order = np.argsort(brightness, kind="stable")[: size * GROUPS].reshape(GROUPS, size)
    return brightness[order].mean(axis=1), np.array([_flat(group) for group in variances[order]])


def _has_slope(brightness: NDArray[np.float64], variances: NDArray[np.float64]) -> bool:
    (slope, _), covariance = np.polyfit(brightness, variances, 1, cov=True)
    return abs(float(slope)) >= SIGNIFICANT * math.sqrt(covariance[0, 0])


def _line(brightness: NDArray[np.float64], variances: NDArray[np.float64]) -> tuple[float, float]:
    """Standard deviations at 0 and at 1 by the line through the variances."""
    slope, at_zero = np.polyfit(brightness, variances, 1)
    low, high = (math.sqrt(max(0.0, float(value))) for value in (at_zero, at_zero + slope))
    return low, high


def _flat(variances: NDArray[np.float64]) -> float:
    """Variance of the noise, where texture has added to some of the variances."""
    return float(np.quantile(variances, FLAT_QUANTILE)) / FLAT_SHARE


def _remaining(share: float) -> float:
    """Variance of max(0, t + n) for a standard normal n that is cut off in `share` of all cases."""
    normal = NormalDist()
    t = -normal.inv_cdf(share)
    mean = normal.pdf(t) + t * normal.cdf(t)
    return (t * t + 1) * normal.cdf(t) + t * normal.pdf(t) - mean**2


REMAINING = (1.0, *(_remaining(count / BLOCK**2) for count in range(1, BLOCK**2 // 2 + 1)))
"""Share of the variance that is left in a square, by how many of its values are cut off."""
