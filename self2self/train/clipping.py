"""Compares predictions with noise that is clipped at black or white (`imaging.clipped_noise`).

A fit that learns from noisy values learns their mean, which is not the image where noise is cut off. So a prediction is
mapped to the mean of its clipped noisy values before it is compared with them. The prediction itself stays free of the
bias.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from self2self.imaging.clipped_noise import Clipping


def expected(clipping: Clipping, values: Tensor) -> Tensor:
    """The mean of noisy values that are clipped to [0, 1].

    The formula is that of `Clipping.undone`. Each end is treated as if it were the only one: noise so strong that both
    ends matter leaves no image. Outside [0, 1] the result continues as a straight line. The true mean would hardly
    change with x there, and a fit whose predictions went there would not come back.

    Args:
        clipping: the noise.
        values: float32 [N, C, H, W], without noise.

    Returns:
        float32 [N, C, H, W].
    """
    if any(clipping.low):
        values = values + _mean_shift(values, clipping.low)
    if any(clipping.high):
        values = values - _mean_shift(1 - values, clipping.high)
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
