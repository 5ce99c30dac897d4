"""Models noise that is clipped at black or white, so that the loss compares a prediction with the right mean.

A camera, and an 8-bit file, store no value below black. In dark parts of an image the lower half of the noise is cut
off, so the mean of the stored values is brighter than the image: at black by 0.4 standard deviations of the noise. A
fit that learns from noisy values learns that mean. So a prediction is mapped to the mean of its clipped noisy values
before it is compared with them (Foi 2009, "Clipped noisy images: heteroskedastic modeling and practical denoising").
The prediction itself stays free of the bias.

The noise at an end of the range is extrapolated from brightnesses at which nothing is cut off
(`imaging.noise_curve`). Noise that grows with the light, such as photon noise, vanishes at black, and none of it is
cut off there. Noise whose level does not depend on the brightness is measured at all brightnesses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from self2self.imaging.noise import SATURATED_SHARE, center_crop
from self2self.imaging.noise_curve import deviations_at_range_ends

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clipping:
    """Gaussian noise that is clipped to [0, 1].

    Attributes:
        low: standard deviation of each channel's noise at black, in the unit of the pixels; 0 where nothing is cut off.
        high: the same at white.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def expected(self, values: Tensor) -> Tensor:
        """The mean of noisy values that are clipped to [0, 1].

        The mean of max(0, x + n) for n ~ N(0, s^2) is x P(x / s) + s p(x / s), with the distribution function P and
        the density p of the standard normal distribution. Each end is treated as if it were the only one: noise so
        strong that both ends matter leaves no image. Outside [0, 1] the result continues as a straight line. The true
        mean would hardly change with x there, and a fit whose predictions went there would not come back.

        Args:
            values: float32 [N, C, H, W], without noise.

        Returns:
            float32 [N, C, H, W].
        """
        if any(self.low):
            values = values + _mean_shift(values, self.low)
        if any(self.high):
            values = values - _mean_shift(1 - values, self.high)
        return values


def _mean_shift(values: Tensor, deviations: tuple[float, ...]) -> Tensor:
    """The increase of the mean when noise is cut off at 0."""
    deviation = _deviation_tensor(deviations, values.device)
    nonnegative = values.clamp(min=0)
    ratio = nonnegative / deviation.clamp(min=1e-6)
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    # P(-x), as 1 - P(x) would be lost in rounding. The last term is the tangent for negative values, with slope 1/2.
    shift = deviation * density - nonnegative * torch.special.ndtr(-ratio) - 0.5 * (values - nonnegative)
    return torch.where(deviation > 0, shift, torch.zeros_like(values))


@lru_cache(maxsize=16)
def _deviation_tensor(deviations: tuple[float, ...], device: torch.device) -> Tensor:
    """`deviations` as [C, 1, 1] on the device; cached, as nothing can be copied to a GPU while it records a graph."""
    return torch.tensor(deviations, dtype=torch.float32, device=device)[:, None, None]


def measure_clipping(image: FloatArray) -> Clipping | None:
    """Measure the noise of `image` at the ends of the range that cut it off; None where neither end does.

    Args:
        image: float32 (C, H, W) in [0, 1].
    """
    image = center_crop(image)
    clips = [float(np.mean(cut)) >= SATURATED_SHARE for cut in (image <= 0, image >= 1)]
    if not any(clips):
        return None
    at_ends = deviations_at_range_ends(image)
    low, high = (tuple(pair[end] if clips[end] else 0.0 for pair in at_ends) for end in (0, 1))
    return Clipping(low, high) if any(low) or any(high) else None
