"""Measure the noise of an image from the image alone, without a clean image: its strength and its kind.

The method removes noise that is independent from pixel to pixel, because it predicts each hidden pixel from its
neighbours. Noise that is shared by the channels of a pixel, or by neighbouring pixels, needs another fit
(`NoiseKind`). `measure_noise` measures an image before the fit; where start weights ship with the package,
`train.noise_assessment` also asks the network. `measure_residual` measures what was removed, after the passes.

Strengths are in 8-bit grey levels: 255 times the unit of the pixels, most of which lie in [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from self2self.imaging.noise_curve import BLOCK_SIDE, by_brightness, to_blocks

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

PATCH_SIDE = 5
"""Side of the patches whose principal components are computed, in pixels."""
PATCHES_PER_VALUE = 8
"""Smallest number of patches for each value of a patch; with fewer, the patches are smaller."""
MAXIMUM_PATCHES = 60_000
"""Largest number of patches that are used; they are spread evenly over the image."""
RESIDUAL_PATCHES = 15_000
"""The same for what was removed. Every page is measured, and nothing depends on the result."""
MINIMUM_COMPONENT_SHARE = 0.25
"""Smallest share of the components that counts as noise; these have the smallest variances."""
MINIMUM_PATCHES_PER_GROUP = 16
"""Smallest number of patches in a group of similar brightness; each group has its own noise variance."""
CALM_QUANTILE = 0.25
"""Quantile of the noise energies of a group that counts; edges and lines add to the larger ones."""

FLATTEST_SHARE = 0.25
"""Share of the blocks in which correlation is measured: those where the image changes least."""

MINIMUM_BLOCKS = 16
"""Smallest number of blocks for an estimate of correlation; in a small image they are more than `FLATTEST_SHARE`."""

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
CORRELATED_NOTE = f"{SHARED_NOTE}, and a fit learns such noise instead of removing it."


class NoiseKind(StrEnum):
    """What a value's noise depends on. The kind decides how a fit learns (`train.recipes.FOR_KIND`)."""

    INDEPENDENT = "independent"
    """Each value has noise of its own."""
    IMPULSES = "impulses"
    """Some values are replaced by any others."""
    SHARED = "shared by channels"
    """The channels of a pixel share noise; neighbouring pixels do not."""
    CORRELATED = "correlated"
    """Neighbouring pixels share noise."""


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of an image, estimated from the image itself. It is decided once, stored, and read by all later steps.

    Attributes:
        sigma: standard deviation, in 8-bit grey levels.
        told: level that start weights are told, in the same unit: more than `sigma` where noise depends on the
            brightness, and for weak noise of cameras.
        independent: standard deviation of the part that each value has of its own, in the same unit.
        correlation: correlation of neighbouring pixels, mean of both directions; 0 for independent pixels.
        kind: what a value's noise depends on.
        removed_share: share of the difference between image and prediction that is removed, from 0 to 1. It is less
            than 1 if the prediction loses more detail than the noise hides.
        impulses: whether there are impulses as well, which are replaced first (`imaging.outliers`); everything else is
            said of the image without them.
        jpeg_step: step of JPEG's rounding that shows in the image, in 8-bit grey levels (`imaging.jpeg_traces`); 0
            without traces of JPEG.
    """

    sigma: float
    told: float
    independent: float
    correlation: float
    kind: NoiseKind = NoiseKind.INDEPENDENT
    removed_share: float = 1.0
    impulses: bool = False
    jpeg_step: float = 0.0

    @property
    def correlated(self) -> bool:
        """Whether neighbours share their noise, so that a fit to hidden pixels would learn it."""
        return self.kind == NoiseKind.CORRELATED

    @property
    def text(self) -> str:
        """The strength of the noise in words."""
        return f"noise of about {self.sigma:.1f} grey levels"

    def to_json(self) -> dict[str, Any]:
        """Return the value of ``"noise"`` in the JSON of a command; `from_json` reads it."""
        return {
            "sigma": self.sigma,
            "told": self.told,
            "independent": self.independent,
            "correlation": self.correlation,
            "kind": str(self.kind),
            "correlated": self.correlated,
            "removed_share": self.removed_share,
            "impulses": self.impulses,
            "jpeg_step": self.jpeg_step,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Noise:
        """Read what `to_json` returned, also in earlier versions, which told start weights `sigma`.

        Raises:
            KeyError, TypeError, ValueError: a value is missing, or has the wrong type or range.
        """
        values = {"told": values["sigma"], "jpeg_step": 0.0, **values}
        levels = [float(values[key]) for key in ("sigma", "told", "independent", "jpeg_step")]
        correlation, removed_share = (float(values[key]) for key in ("correlation", "removed_share"))
        if not all(map(math.isfinite, [*levels, correlation])) or min(levels) < 0 or not 0 <= removed_share <= 1:
            raise ValueError(f"noise {values!r}")
        sigma, told, independent, jpeg_step = levels
        return cls(
            sigma,
            told,
            independent,
            correlation,
            NoiseKind(values["kind"]),
            removed_share,
            bool(values.get("impulses", False)),
            jpeg_step,
        )


@dataclass(frozen=True, slots=True)
class Residual:
    """The difference that denoising removed: noisy minus denoised, with the denoised image clamped to its range.

    Attributes:
        mean, standard_deviation: of the difference, in 8-bit grey levels.
        autocorrelation: `LAGS` × `LAGS`, by lag down and lag to the right; 1 at lag (0, 0), and all 0
            if nothing was removed. Structure of the image that was removed counts, too.
        noise: the same estimates as for the noisy image.
    """

    mean: float
    standard_deviation: float
    autocorrelation: tuple[tuple[float, ...], ...]
    noise: Noise

    @property
    def correlated(self) -> bool:
        """Whether neighbours are correlated in the difference, both over the whole image and in its flat parts."""
        return is_correlated(neighbour_correlation(self.autocorrelation)) and self.noise.correlated

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


def measure_noise(pixels: FloatArray, patches: int = MAXIMUM_PATCHES) -> Noise:
    """Measure the noise of an image.

    Correlated noise is underestimated: only the part that each value has of its own is measured.

    Args:
        pixels: (C, H, W) of at least 8x8, finite. An affine scale of the values scales the strength and does not change
            the correlation.
        patches: as for `independent_noise`.
    """
    noise = independent_noise(pixels, patches)
    correlation = estimate_correlation(pixels)
    kind = NoiseKind.CORRELATED if is_correlated(correlation) else NoiseKind.INDEPENDENT
    return Noise(noise.sigma, noise.dominant, noise.sigma, correlation, kind)


def is_correlated(correlation: float) -> bool:
    """Whether noise whose neighbours have this correlation, measured in an image, counts as correlated."""
    return correlation > CORRELATION_THRESHOLD


def has_noise(pixels: FloatArray) -> bool:
    """Return whether (C, H, W) has any noise; an empty page has none, so its difference to a result is not noise."""
    return independent_noise(pixels).sigma > 0


def measure_residual(noisy: FloatArray, denoised: FloatArray) -> Residual:
    """Measure the difference between two images of the same shape (C, H, W)."""
    difference = np.subtract(noisy, denoised, dtype=np.float64)
    return Residual(
        float(difference.mean()) * GREY_LEVELS,
        float(difference.std()) * GREY_LEVELS,
        autocorrelation(difference),
        measure_noise(difference, RESIDUAL_PATCHES),
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


class IndependentNoise(NamedTuple):
    """The strength of noise that each value has of its own, in 8-bit grey levels.

    Attributes:
        sigma: standard deviation over the whole image.
        dominant: the same where most of the noise is: the root mean square over the image, weighted by the variance of
            the noise. It equals `sigma` for noise that is the same everywhere, and is larger for photon noise.
    """

    sigma: float
    dominant: float


def independent_noise(pixels: FloatArray, patches: int = MAXIMUM_PATCHES) -> IndependentNoise:
    """Estimate the strength of noise that each value has of its own.

    Small patches of an image, all channels together, lie close to a space of few dimensions; such noise fills all
    dimensions alike. So the smallest variances along the principal components of the patches are those of the noise
    (Chen et al. 2015, "An efficient statistical method for image noise level estimation", whose rule decides how many:
    the largest variances are left out until the mean of the rest is at most its median). Edges add to all components,
    but only in some patches. Therefore the energy along the chosen components is measured for each patch, and a low
    quantile of it counts in each group of patches of similar brightness. Noise may grow with the brightness, as that of
    photons does, but no group has more of it than a brighter one: where it seems so, the darker group has edges.

    Args:
        pixels: (C, H, W) of at least 8x8, finite.
        patches: about as many patches are looked at in a large image.
    """
    variances = [_independent_variances(channel[None], patches) for channel in pixels]
    by_channel = np.array([values.mean() for values in variances])
    mean = float(by_channel.mean())
    variance = mean
    if len(pixels) > 1 and min(by_channel) > 0:
        # Of unequal channels, the smallest variances are those of the channel with the weakest noise. With channels
        # that were scaled to equal noise they are not, but the scales are uncertain.
        scaled = float(_independent_variances(pixels / np.sqrt(by_channel)[:, None, None], patches).mean())
        variance = max(min(1.0, scaled) * mean, float(_independent_variances(pixels, patches).mean()))
    sigma = GREY_LEVELS * math.sqrt(variance)
    together = np.concatenate(variances)
    unevenness = math.sqrt(float(np.square(together).mean())) / mean if mean > 0 else 1.0
    return IndependentNoise(sigma, unevenness * sigma)


def _independent_variances(pixels: FloatArray, largest_number: int) -> Plane:
    """The variance of independent noise of equal strength in all channels, in the squared unit of `pixels`.

    Returns:
        a value for each group of patches of similar brightness, from bright to dark; the groups are of equal size.
    """
    patches = _patches(pixels, largest_number)
    variances, components = np.linalg.eigh(np.cov(patches, bias=True))
    count = _noise_components(variances)
    patches = _not_cut_off_above(patches)
    brightness = patches.mean(axis=0)
    structure = patches - brightness
    structure -= np.array([_median(row) for row in structure])[:, None]
    energies = np.square(components[:, :count].T @ structure).mean(axis=0)
    groups = by_brightness(brightness, MINIMUM_PATCHES_PER_GROUP)
    calm = np.array([np.quantile(energies[group], CALM_QUANTILE) for group in groups])
    falling: Plane = np.minimum.accumulate(calm[::-1]) / _calm_share(count)
    # An even patch leaves only rounding errors, which are not noise.
    return falling if falling.mean() > 1e-24 * float(np.square(patches).mean()) else np.zeros_like(falling)


def _median(values: Plane) -> float:
    """The median of one axis of finite values. `np.median` takes five times as long."""
    middle = values.size // 2
    halves = np.partition(values, middle)
    return float(halves[middle] if values.size % 2 else (halves[:middle].max() + halves[middle]) / 2)


def noise_with_outliers(pixels: FloatArray) -> IndependentNoise:
    """Estimate the same as `independent_noise`, but let all patches count alike: those with impulses, but also edges.

    Args:
        pixels: (C, H, W) of at least 8x8, finite.
    """
    variances = np.linalg.eigvalsh(np.cov(_patches(pixels, MAXIMUM_PATCHES), bias=True))
    sigma = GREY_LEVELS * math.sqrt(max(0.0, float(variances[: _noise_components(variances)].mean())))
    return IndependentNoise(sigma, sigma)


def _not_cut_off_above(patches: Plane) -> Plane:
    """The patches that have no value at which noise is cut off above; all of them if few would remain."""
    at_end = patches == patches.max()
    if at_end.mean() <= SATURATED_SHARE:
        return patches
    kept = ~at_end.any(axis=0)
    return patches if np.count_nonzero(kept) < MINIMUM_PATCHES_PER_GROUP else patches[:, kept]


def _patches(pixels: FloatArray, largest_number: int) -> Plane:
    """Cut (C, H, W) into overlapping patches (C side², n), which are smaller in an image of few pixels."""
    channels, height, width = pixels.shape

    def enough(side: int) -> bool:
        patches = (height - side + 1) * (width - side + 1)
        return bool(patches >= PATCHES_PER_VALUE * channels * side * side)

    side = next((side for side in range(PATCH_SIDE, 2, -1) if enough(side)), 2)
    windows = sliding_window_view(pixels, (side, side), axis=(1, 2))
    stride = max(1, math.isqrt(windows.shape[1] * windows.shape[2] // largest_number))
    windows = windows[:, ::stride, ::stride].transpose(0, 3, 4, 1, 2)
    return windows.astype(np.float64, order="C").reshape(channels * side * side, -1)


def _noise_components(variances: FloatArray) -> int:
    """How many of the components, ordered by their variances from the smallest, count as noise."""
    count = len(variances)
    while count > 1 and variances[:count].mean() > np.median(variances[:count]):
        count -= 1
    return max(count, math.ceil(MINIMUM_COMPONENT_SHARE * len(variances)))


def _calm_share(components: int) -> float:
    """`CALM_QUANTILE` of the mean square of `components` normal values of variance 1 (Wilson and Hilferty 1931)."""
    variance = 2 / (9 * components)
    return (1 - variance + NormalDist().inv_cdf(CALM_QUANTILE) * math.sqrt(variance)) ** 3


def estimate_correlation(pixels: FloatArray) -> float:
    """Estimate the correlation of the noise between neighbouring pixels.

    The best-fitting quadratic surface is subtracted from each block of 8x8 pixels. The quarter of all
    blocks with the smallest remainder counts. The subtraction makes independent noise look slightly
    anticorrelated; this known amount is added back.

    Args:
        pixels: (C, H, W) of at least 8x8, finite.

    Returns:
        the correlation of a pixel with the next ones to the right and below, mean of both; 0 without noise.
    """
    projector = _surface_remover()
    sums = np.zeros(3)
    for channel in pixels:
        sums += _neighbour_products(channel.astype(np.float64), projector)
    if sums[0] == 0:
        return 0.0
    white = _white_noise_correlation(projector)
    return float((sums[1:].mean() / sums[0] - white) * BLOCK_SIDE / (BLOCK_SIDE - 1))


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
