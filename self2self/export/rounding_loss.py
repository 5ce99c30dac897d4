"""Computes how much PSNR an ensemble loses by rounding, in dB: measured with a clean image, bounded without one.

Let m be the ensemble's mean in float32, and m + d its mean in half precision. Let x be the clean image and y = x + n
the noisy one. Products and squares below are means over all values. With the error e = m - x,

    MSE(m + d) = MSE(m) + 2 <e, d> + <d, d>                                 (1)
    <e, d> = <m - y, d> + <n, d>                                            (2)

The first term of (2) needs no clean image. The second term is not zero: a little of the noise passes through the
network, and rounding changes how much. A second ensemble whose noise is known estimates this term (the wild bootstrap:
Wu, Annals of Statistics 14, 1986). Its noisy image is m + b, where b is the residual y - m with random signs. So b has
the strength of the noise at every place. If d' is the difference that half precision makes to the second ensemble,
<b, d'> estimates <n, d>.

Both terms are means of many values, so their standard errors follow from the data. The errors are computed from the
means of 16x16 blocks, because neighbouring values depend on each other. The bound is the absolute estimate of (1) plus
`BOUND_ERRORS` standard errors.

MSE(m) is estimated by the MSE of the second ensemble, whose clean image is m. As m is smoother than x, the second
ensemble has the smaller error, and the bound in dB becomes larger. Where m is far from x, as after a few steps of a
fit, the error also shows in the residual, as the part that exceeds the measured noise (`imaging.noise.measure_noise`):
<y - m, y - m> = MSE(m) + <n, n> - 2 <m - x, n>. The last product is not negative, because a denoised image follows the
noise rather than opposes it.

Noise that was clipped at black or white does not average to zero, and y does not show this. There the true loss can
exceed the bound. `python -m benchmarks.precision` compares the two; dev/log has the results.
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
"""Side of the blocks in pixels; the sides of the images are multiples of 32."""
BOUND_ERRORS = 3.0
"""Standard errors in the bound; a normally distributed estimate exceeds them once in 370 times."""
NOISE_MARGIN = 1.1
"""Factor by which the noise estimate may be too small on photographs with flat parts (dev/log)."""
MINIMUM_MSE = 1e-12
"""Keeps logarithms and quotients finite."""


@dataclass(frozen=True, slots=True)
class RoundingLoss:
    """Loss of PSNR of an ensemble's mean, in dB; positive if the mean becomes worse.

    Attributes:
        estimate: the most likely loss; with a clean image, the true loss for these pixels and masks.
        bound: largest likely change in either direction; with a clean image, the absolute value of the true loss.
    """

    estimate: float
    bound: float


def measured_loss(full: Array, half: Array, clean: Array) -> RoundingLoss:
    """Measure the loss against a clean image; the means are clipped to [0, 1], as in an output file.

    Args:
        full: (C, H, W) in [0, 1], mean in float32.
        half: mean in half precision, from the same masks.
        clean: the clean image.
    """
    before, after = (max(_mean_square(np.clip(mean, 0, 1) - clean), MINIMUM_MSE) for mean in (full, half))
    loss = 10 * math.log10(after / before)
    return RoundingLoss(loss, abs(loss))


def signed_residual(noisy: Array, full: Array, seed: int) -> NDArray[np.float32]:
    """The residual with random signs, b of the module docstring, float32 (C, H, W).

    Args:
        noisy: (C, H, W), y.
        full: m, the mean in float32.
        seed: of the signs.
    """
    signs = np.random.default_rng(seed).integers(0, 2, noisy.shape) * 2 - 1
    return ((noisy - full) * signs).astype(np.float32)


def bounded_loss(noisy: Array, means: tuple[Array, Array], added: Array, again: tuple[Array, Array]) -> RoundingLoss:
    """Estimate and bound the loss without a clean image, by the method of the module docstring.

    Args:
        noisy: (C, H, W), y; the sides are multiples of `BLOCK_SIDE`.
        means: means in float32 and in half precision, from y.
        added: b, from `signed_residual`.
        again: means of the second ensemble in float32 and in half precision, from m + b and the same masks.

    Raises:
        InputError: the sides of the image are no multiples of `BLOCK_SIDE`.
    """
    full, half = (np.asarray(mean, np.float64) for mean in means)
    full_again, half_again = (np.asarray(mean, np.float64) for mean in again)
    difference = half - full
    residual_product, residual_error = _mean_and_error((full - noisy) * difference)
    noise_product, noise_error = _mean_and_error(added * (half_again - full_again))
    noise = NOISE_MARGIN * measure_noise(noisy).sigma / GREY_LEVELS
    mse = max(_mean_square(full_again - full), _mean_square(full - noisy) - noise**2, MINIMUM_MSE)
    estimate = (2 * (residual_product + noise_product) + _mean_square(difference)) / mse
    margin = 2 * BOUND_ERRORS * math.hypot(residual_error, noise_error) / mse
    # For an improvement, log10(1 - |estimate|) is larger in size. Where that matters, the change is refused anyway.
    return RoundingLoss(10 * math.log10(max(1 + estimate, MINIMUM_MSE)), 10 * math.log10(1 + abs(estimate) + margin))


def _mean_square(values: Array) -> float:
    return float(np.mean(np.square(values, dtype=np.float64)))


def _mean_and_error(values: Array) -> tuple[float, float]:
    """Mean of (C, H, W) values, and its standard error, computed from the spread of block means."""
    channels, height, width = values.shape
    if height % BLOCK_SIDE or width % BLOCK_SIDE:
        raise InputError(f"blocks of {BLOCK_SIDE} do not fit into {height}x{width}")
    blocks = (
        values.reshape(channels, height // BLOCK_SIDE, BLOCK_SIDE, width // BLOCK_SIDE, BLOCK_SIDE)
        .mean(axis=(0, 2, 4))
        .ravel()
    )
    return float(blocks.mean()), float(blocks.std(ddof=1)) / math.sqrt(blocks.size)
