"""What rounding costs an ensemble, in dB of PSNR: measured with a clean image, bounded without one.

Let m be the mean in float32, d what half precision adds to it, x the clean and y = x + n the noisy
image; products and squares below are means over all values. With the error e = m - x,

    MSE(m + d) = MSE(m) + 2 <e, d> + <d, d>                                 (1)
    <e, d> = <m - y, d> + <n, d>                                            (2)

The first term of (2) needs no clean image. The second is not zero, because a little of the noise
passes through the network, and rounding passes a little more or less of it. It is taken from a
second ensemble whose noise is known (the wild bootstrap: Wu, Annals of Statistics 14, 1986): the
network gets m + b, where b is the residual y - m with random signs, so that it has the strength
of the noise in every place; then <b, d'> stands for <n, d>.

Both are means of many values, so their standard errors follow from the data. They are taken from
the means of 16x16 blocks, as neighbouring values depend on each other. `BOUND_ERRORS` of them are
added to the size of the estimate of (1).

MSE(m) is that of the second ensemble, whose clean image is m. As m is smoother than x it is denoised
better than y, so that its error is the smaller one, and the bound in dB the larger one. Where m is
far from x, as after a few steps of a fit, what the residual has beyond the noise that the image
shows (`diagnosis.measure_noise`) is part of the error, too: <y - m, y - m> = MSE(m) + <n, n> - 2 <m - x, n>,
and the last product is not negative, because denoising follows the noise rather than opposes it.

Noise that was cut off at black or white does not average to zero, and nothing in y tells so: there the
truth can be beyond the bound. How the two compare: `python -m benchmarks.precision`, dev/log.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.errors import InputError
from self2self.imaging.noise import GREY_LEVELS, measure_noise

Array = NDArray[Any]

BLOCK_SIDE = 16
"""Side of the blocks; images are multiples of 32."""
BOUND_ERRORS = 3.0
"""Standard errors that are added: a normal estimate is off by more once in 370 times."""
NOISE_MARGIN = 1.1
"""The estimate of the noise is at most so much too small on photographs with flat parts (dev/log)."""
LEAST_MSE = 1e-12


@dataclass(frozen=True, slots=True)
class RoundingLoss:
    """Change of the PSNR of an ensemble's mean, in dB; positive where it becomes worse.

    Attributes:
        estimate: most likely; with a clean image, the truth for these pixels and masks.
        bound: the most in either direction that is likely; with a clean image, the size of the truth.
    """

    estimate: float
    bound: float


def measured_loss(wide: Array, half: Array, clean: Array) -> RoundingLoss:
    """The change against a clean image; results are clamped as they are written.

    Args:
        wide: (C, H, W) in [0, 1], mean in float32.
        half: mean in half precision, from the same masks.
        clean: the clean image.
    """
    before, after = (max(_mean_square(np.clip(mean, 0, 1) - clean), LEAST_MSE) for mean in (wide, half))
    change = 10 * math.log10(after / before)
    return RoundingLoss(change, abs(change))


def signed_residual(noisy: Array, wide: Array, seed: int) -> NDArray[np.float32]:
    """b: the residual with random signs, float32 (C, H, W)."""
    signs = np.random.default_rng(seed).integers(0, 2, noisy.shape) * 2 - 1
    return ((noisy - wide) * signs).astype(np.float32)


def bounded_loss(noisy: Array, means: tuple[Array, Array], added: Array, again: tuple[Array, Array]) -> RoundingLoss:
    """The change that is likely, without a clean image (module docstring).

    Args:
        noisy: (C, H, W), y.
        means: in float32 and in half precision, from y.
        added: b, from `signed_residual`.
        again: in float32 and in half precision, from m + b and the same masks.
    """
    wide, half = (np.asarray(mean, np.float64) for mean in means)
    wide_again, half_again = (np.asarray(mean, np.float64) for mean in again)
    difference = half - wide
    seen, seen_error = _mean_and_error((wide - noisy) * difference)
    leaked, leaked_error = _mean_and_error(added * (half_again - wide_again))
    noise = NOISE_MARGIN * measure_noise(noisy).sigma / GREY_LEVELS
    mse = max(_mean_square(wide_again - wide), _mean_square(wide - noisy) - noise**2, LEAST_MSE)
    estimate = (2 * (seen + leaked) + _mean_square(difference)) / mse
    margin = 2 * BOUND_ERRORS * math.hypot(seen_error, leaked_error) / mse
    # The logarithm of an improvement is the larger one, and far from zero both mean a refusal.
    return RoundingLoss(10 * math.log10(max(1 + estimate, LEAST_MSE)), 10 * math.log10(1 + abs(estimate) + margin))


def _mean_square(values: Array) -> float:
    return float(np.mean(np.square(values, dtype=np.float64)))


def _mean_and_error(values: Array) -> tuple[float, float]:
    """Mean of (C, H, W) values, and its standard error from the spread of the means of blocks."""
    channels, height, width = values.shape
    if height % BLOCK_SIDE or width % BLOCK_SIDE:
        raise InputError(f"blocks of {BLOCK_SIDE} do not fit into {height}x{width}")
    blocks = (
        values.reshape(channels, height // BLOCK_SIDE, BLOCK_SIDE, width // BLOCK_SIDE, BLOCK_SIDE)
        .mean(axis=(0, 2, 4))
        .ravel()
    )
    return float(blocks.mean()), float(blocks.std(ddof=1)) / math.sqrt(blocks.size)
