"""Noise that is cut off at black or white, and what a prediction has to be compared with there.

A camera, and an 8-bit file, store no value under black. Where an image is dark, half of its noise is cut off there, so
the mean of what is stored is brighter than the image: by 0.4 standard deviations of the noise at black. A fit that
learns from noisy values learns that mean. So what it predicts is brought through the same cut before it is compared
(Foi 2009, "Clipped noisy images: heteroskedastic modeling and practical denoising"), and the prediction itself stays
free of it.

How strong the noise is at an end is extrapolated from where nothing is cut off (`noise_curve`): noise that grows with
the light, as that of photons, vanishes at black, and nothing of it is cut off. Where it does not grow, it is measured
in darker and lighter places, too.
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
    image = center_crop(image)
    ends = [float(np.mean(cut)) >= SATURATED_SHARE for cut in (image <= 0, image >= 1)]
    if not any(ends):
        return None
    at_ends = deviations_at_range_ends(image)
    low, high = (tuple(pair[end] if ends[end] else 0.0 for pair in at_ends) for end in (0, 1))
    return Clipping(low, high) if any(low) or any(high) else None
