"""Measure the noise of an image from the image alone, without a clean image: its strength and its kind.

The method removes noise that is independent from pixel to pixel, because it predicts each hidden pixel from its
neighbours. For noise that is correlated between neighbours, the recipe `fast` fits simulated noise instead.
`measure_noise` finds the kind of noise in the noisy image before the fit; `fast` chooses its settings from it.
`measure_residual` finds it in the difference that was removed, after the passes.

Strengths are in 8-bit grey levels: 255 times the unit of the pixels, most of which lie in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise_curve import BLOCK_SIDE, is_signal_dependent, to_blocks

FloatArray = NDArray[np.floating]
Plane = NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

GREY_LEVELS = 255.0

NORMAL_MEDIAN = 0.6744897501960817
"""Median of |x| for a standard normal x."""

CLIP_DEVIATIONS = 3.0
"""Values beyond this many standard deviations are left out of an estimate of the standard deviation."""
CLIPPED_VARIANCE = 0.9733369246625415
"""Variance of a standard normal that is cut off at ±`CLIP_DEVIATIONS`."""

FLATTEST_SHARE = 0.25
"""Share of an image in which noise is measured: the part where the image changes least."""

MINIMUM_POSITIONS = 64
"""Smallest number of positions for an estimate; in a small image they are more than `FLATTEST_SHARE`."""

MINIMUM_BLOCKS = 16
"""Smallest number of blocks for an estimate, in the same way."""

SATURATED_SHARE = 0.01
"""If this share of all values equals an end of the range, values count as cut off there, and are left out."""

LAGS = 4
"""Number of lags of the autocorrelation, 0 to 3, down and to the right."""

CORRELATION_THRESHOLD = 0.2
"""Noise counts as correlated if the correlation of neighbouring pixels is larger than this.

The threshold was chosen on scikit-image's photographs (`python -m benchmarks.diagnosis`): noise of
independent pixels stays below it unless texture hides weak noise, and a camera's interpolation is
above it.
"""

LARGEST_SIDE = 1536
"""Side of the part in which noise is measured, in pixels; more than two million values do not improve an estimate."""

SHARED_NOTE = "neighbouring pixels share their noise (correlation {:.2f}; fine texture can look the same)"
BETTER_SOURCE = "Better denoise the raw file, or the frame before it was scaled or compressed."
CORRELATED_NOTE = f"{SHARED_NOTE}, and a fit learns such noise instead of removing it. {BETTER_SOURCE}"


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of an image, estimated from the image itself.

    Attributes:
        sigma: standard deviation, in 8-bit grey levels; RMS over the channels.
        sigma_by_channel: the same for each channel.
        correlation: correlation of neighbouring pixels, mean of both directions; 0 for independent pixels.
        horizontal, vertical: correlation of a pixel with the next one to the right, and with the one below.
        signal_dependent: whether the noise grows with the brightness, as photon noise does.
    """

    sigma: float
    sigma_by_channel: tuple[float, ...]
    correlation: float
    horizontal: float
    vertical: float
    signal_dependent: bool = False

    @property
    def correlated(self) -> bool:
        """Whether neighbours share their noise, so that a fit to hidden pixels would learn it."""
        return self.correlation > CORRELATION_THRESHOLD

    @property
    def text(self) -> str:
        """The strength of the noise in words."""
        # The strength is measured in flat parts, mostly dark ones, and would read 0.0 here.
        if self.signal_dependent and self.sigma < 0.05:
            return "noise in bright parts, and none where there is no light"
        grows = ", stronger where it is brighter" if self.signal_dependent else ""
        return f"noise of about {self.sigma:.1f} grey levels{grows}"

    def to_json(self) -> dict[str, Any]:
        """Return the value of ``"noise"`` in the JSON of a command."""
        return {
            "sigma": round(self.sigma, 3),
            "sigma_by_channel": [round(value, 3) for value in self.sigma_by_channel],
            "correlation": round(self.correlation, 4),
            "correlation_horizontal": round(self.horizontal, 4),
            "correlation_vertical": round(self.vertical, 4),
            "correlated": self.correlated,
            "signal_dependent": self.signal_dependent,
        }


@dataclass(frozen=True, slots=True)
class Residual:
    """The difference that denoising removed: noisy minus denoised, with the denoised image clamped to its range.

    Attributes:
        mean, standard_deviation: of the difference, in 8-bit grey levels.
        autocorrelation: `LAGS` × `LAGS`, by lag down and lag to the right; 1 at lag (0, 0), and all 0
            if nothing was removed. Structure of the image that was removed counts, too.
        noise: the same estimates as for the noisy image, in the flattest parts of the difference.
    """

    mean: float
    standard_deviation: float
    autocorrelation: tuple[tuple[float, ...], ...]
    noise: Noise

    @property
    def correlated(self) -> bool:
        """Whether neighbours are correlated in the difference, both over the whole image and in its flat parts."""
        return neighbour_correlation(self.autocorrelation) > CORRELATION_THRESHOLD and self.noise.correlated

    def to_json(self) -> dict[str, Any]:
        """Return the value of ``"residual"`` in the JSON of a command."""
        return {
            "mean": round(self.mean, 4),
            "standard_deviation": round(self.standard_deviation, 3),
            "sigma": round(self.noise.sigma, 3),
            "autocorrelation": [[round(value, 4) for value in row] for row in self.autocorrelation],
            "correlated": self.correlated,
        }


def center_crop(pixels: NDArray[T], side: int = LARGEST_SIDE) -> NDArray[T]:
    """Return a view of the middle of `pixels` [..., H, W], at most `side` pixels a side; the default suits noise."""
    starts = [max(0, (size - side) // 2) for size in pixels.shape[-2:]]
    rows, columns = (slice(start, start + side) for start in starts)
    return pixels[..., rows, columns]


def measure_noise(pixels: FloatArray) -> Noise:
    """Measure the noise of an image.

    Args:
        pixels: (C, H, W) of at least 8x8, finite, most values in [0, 1]. An affine scale of the values scales the
            strength and does not change the correlation. The dependence on the signal is measured in [0, 1] only.
    """
    return replace(_level_and_correlation(pixels), signal_dependent=is_signal_dependent(pixels))


def _level_and_correlation(pixels: FloatArray) -> Noise:
    overall, channels = estimate_sigma(pixels)
    horizontal, vertical = estimate_correlation(pixels)
    return Noise(overall, channels, (horizontal + vertical) / 2, horizontal, vertical)


def has_noise(pixels: FloatArray) -> bool:
    """Return whether (C, H, W) has any noise; an empty page has none, so its difference to a result is not noise."""
    return estimate_sigma(pixels)[0] > 0


def measure_residual(noisy: FloatArray, denoised: FloatArray) -> Residual:
    """Measure the difference between two images of the same shape (C, H, W)."""
    difference = np.subtract(noisy, denoised, dtype=np.float64)
    return Residual(
        float(difference.mean()) * GREY_LEVELS,
        float(difference.std()) * GREY_LEVELS,
        autocorrelation(difference),
        _level_and_correlation(difference),
    )


def autocorrelation(values: FloatArray) -> tuple[tuple[float, ...], ...]:
    """Return the normalised autocorrelation of (C, H, W), by lag down and lag to the right.

    The mean of each channel is subtracted first. The result is `LAGS` × `LAGS`: 1 at lag (0, 0), and all 0 for channels
    without any variance.
    """
    total = np.zeros((LAGS, LAGS))
    for channel in values:
        plane = channel - np.mean(channel, dtype=np.float64)
        height, width = plane.shape
        for down in range(LAGS):
            for right in range(LAGS):
                product = plane[: height - down, : width - right] * plane[down:, right:]
                total[down, right] += product.mean()
    # Rounding errors alone do not count as variance.
    if total[0, 0] <= 1e-14 * float(np.square(values, dtype=np.float64).mean()) * len(values):
        return ((0.0,) * LAGS,) * LAGS
    return tuple(tuple(float(value) for value in row) for row in total / total[0, 0])


def neighbour_correlation(lags: tuple[tuple[float, ...], ...]) -> float:
    """Return the correlation of neighbouring pixels from an `autocorrelation`, mean of both directions."""
    return (lags[0][1] + lags[1][0]) / 2


def estimate_sigma(pixels: FloatArray) -> tuple[float, tuple[float, ...]]:
    """Estimate the standard deviation of the noise in 8-bit grey levels.

    The first estimate is the median absolute deviation of the finest diagonal Haar coefficients
    over 0.6745 (Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage",
    section 5). An average refines it, which leaves out coefficients beyond three standard
    deviations. Only the quarter of the image counts where the low-pass coefficients change least.
    For independent Gaussian noise, low-pass and diagonal coefficients are independent, so this choice
    does not bias the result. Noise that is correlated between neighbours is underestimated. In an
    image without any flat part, texture counts as noise.

    Args:
        pixels: (C, H, W) of at least 8x8, finite.

    Returns:
        the RMS over the channels, and the estimate of each channel.
    """
    sigmas = tuple(_sigma(channel.astype(np.float64)) * GREY_LEVELS for channel in pixels)
    return float(np.sqrt(np.mean(np.square(sigmas)))), sigmas


def estimate_correlation(pixels: FloatArray) -> tuple[float, float]:
    """Estimate the correlation of the noise between neighbouring pixels.

    The best-fitting quadratic surface is subtracted from each block of 8x8 pixels. The quarter of all
    blocks with the smallest remainder counts. The subtraction makes independent noise look slightly
    anticorrelated; this known amount is added back.

    Args:
        pixels: (C, H, W) of at least 8x8, finite.

    Returns:
        the correlation of a pixel with the next one to the right, and with the one below; 0 without noise.
    """
    projector = _surface_remover()
    sums = np.zeros(3)
    for channel in pixels:
        sums += _neighbour_products(channel.astype(np.float64), projector)
    if sums[0] == 0:
        return 0.0, 0.0
    white = _white_noise_correlation(projector)
    scale = BLOCK_SIDE / (BLOCK_SIDE - 1)
    horizontal, vertical = (float((total / sums[0] - white) * scale) for total in sums[1:])
    return horizontal, vertical


def _sigma(plane: Plane) -> float:
    a, b, c, d = plane[:-1:2, :-1:2], plane[:-1:2, 1::2], plane[1::2, :-1:2], plane[1::2, 1::2]
    diagonal = (a - b - c + d) / 2
    smooth = _smooth((a + b + c + d) / 4)
    slope = np.hypot(*np.gradient(smooth))
    sigma = robust_scale(diagonal[_flattest_positions(slope, np.ones(slope.shape, bool))])
    usable = np.ones(slope.shape, bool)
    for end in _cut_off_ends(plane):
        usable &= np.abs(smooth - end) > CLIP_DEVIATIONS * sigma
    if not usable.all() and np.count_nonzero(usable) >= MINIMUM_POSITIONS:
        sigma = robust_scale(diagonal[_flattest_positions(slope, usable)])
    return sigma


def _smooth(plane: Plane) -> Plane:
    """Return the mean over 3x3 pixels."""
    padded = np.pad(plane, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9)


def _flattest_positions(slope: Plane, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    values = slope[usable]
    count = max(min(MINIMUM_POSITIONS, values.size), int(FLATTEST_SHARE * values.size))
    return np.asarray(usable & (slope <= np.partition(values, count - 1)[count - 1]))


def robust_scale(values: Plane) -> float:
    """Estimate the standard deviation of the normal part of `values`.

    The median of absolute values is only the start, because in an 8-bit image it has the steps of 8 bits.
    """
    sigma = float(np.median(np.abs(values))) / NORMAL_MEDIAN
    for _ in range(8):
        kept = values[np.abs(values) <= CLIP_DEVIATIONS * sigma]
        if sigma == 0 or kept.size == 0:
            break
        sigma = float(np.sqrt(np.mean(kept * kept) / CLIPPED_VARIANCE))
    return sigma


def _cut_off_ends(plane: Plane) -> list[float]:
    """Return those of the smallest and the largest value at which so many pixels lie that values were cut off there."""
    return [float(end) for end in (plane.min(), plane.max()) if np.mean(plane == end) > SATURATED_SHARE]


def _surface_remover() -> Plane:
    """Return the matrix (64, 64) that removes the best-fitting quadratic surface from a flattened block."""
    y, x = np.mgrid[:BLOCK_SIDE, :BLOCK_SIDE] / (BLOCK_SIDE - 1) - 0.5
    surface = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1).reshape(-1, 6)
    basis, _ = np.linalg.qr(surface)
    return np.asarray(np.eye(BLOCK_SIDE * BLOCK_SIDE) - basis @ basis.T)


def _white_noise_correlation(projector: Plane) -> float:
    """Return the correlation of neighbours that independent noise has after `projector`.

    This is the expected sum of products of neighbours over the expected sum of squares.
    """
    index = np.arange(BLOCK_SIDE * BLOCK_SIDE).reshape(BLOCK_SIDE, BLOCK_SIDE)
    return float(projector[index[:, :-1].ravel(), index[:, 1:].ravel()].sum() / np.trace(projector))


def _neighbour_products(plane: Plane, projector: Plane) -> Plane:
    """Sum squares, products with the right neighbour, and products with the lower one, over the flattest blocks."""
    blocks = to_blocks(plane).reshape(-1, BLOCK_SIDE * BLOCK_SIDE)
    usable = np.ones(len(blocks), bool)
    for end in _cut_off_ends(plane):
        usable &= np.mean(blocks == end, axis=1) < 2 * SATURATED_SHARE
    if np.count_nonzero(usable) >= MINIMUM_BLOCKS:
        blocks = blocks[usable]
    remainder = (blocks - blocks.mean(axis=1, keepdims=True)) @ projector
    energy = np.square(remainder).sum(axis=1)
    # A flat block leaves only rounding errors, which are not noise.
    noisy = energy > 1e-20 * np.square(blocks).sum(axis=1)
    remainder, energy = remainder[noisy], energy[noisy]
    count = max(min(MINIMUM_BLOCKS, len(remainder)), int(FLATTEST_SHARE * len(remainder)))
    chosen = remainder[np.argsort(energy, kind="stable")[:count]].reshape(-1, BLOCK_SIDE, BLOCK_SIDE)
    right = (chosen[:, :, :-1] * chosen[:, :, 1:]).sum()
    below = (chosen[:, :-1] * chosen[:, 1:]).sum()
    return np.array([np.square(chosen).sum(), right, below])
