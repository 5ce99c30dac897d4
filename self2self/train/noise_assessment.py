"""Assesses the noise of an image with start weights that are told a noise level.

Told a level above that of the noise, such a network removes the noise, and little else. Told a lower one, it removes
part of it. So the noise is found from above: the network is told a high level, then the level of what it removed, and
so on until both agree. This works for every kind of noise that the network has learnt, also for noise that its
neighbours or the other channels share, where a measurement in the image alone fails.

What is removed also shows the kind of the noise, by its correlation between neighbours and by how much of it each value
has of its own (`imaging.noise.independent_noise`). The limits below separate the kinds with a margin (dev/log); where
two kinds touch, the settings blend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from self2self.imaging.jpeg_traces import quantisation_step
from self2self.imaging.noise import (
    GREY_LEVELS,
    Noise,
    NoiseKind,
    autocorrelation,
    center_crop,
    independent_noise,
    neighbour_correlation,
    noise_with_outliers,
)
from self2self.imaging.noise_curve import median_kurtosis, to_blocks
from self2self.imaging.outliers import clip_to_range, has_impulses, remove_hot_pixels, remove_impulses
from self2self.imaging.smoothing import smooth_step
from self2self.train.prediction import predict
from self2self.train.recipes import Recipe
from self2self.train.start_weights import LARGEST_TOLD, SMALLEST_TOLD, TRIAL_SIDE

FloatArray = NDArray[np.float32]
ToldWeights = Callable[[float], dict[str, torch.Tensor]]
"""Maps a noise level, in 8-bit grey levels, to the weights of a network that is told this level."""

TAKEN_SHARE = 0.6
"""The levels agree if the network removes this share of the level that it is told. It removes all of the noise from
there on, and little more; told less, it takes part of the noise for texture."""
AGREEMENT = 0.03
"""Largest relative change of the told level at which the search ends."""
MAXIMUM_TRIALS = 12
MEAN_SIDE = 16
"""Side of the squares whose mean does not count in what is removed, in pixels."""
TRIAL_DROP_RATE = 0.02
"""Drop rate of the input in the trials: the network sees nearly all of the image."""
NOISE_IN_REMOVED = 0.9
"""Share of what the network removes that is noise where neighbours or channels share it; the rest is texture."""
LARGEST_KURTOSIS = 6.0
"""Largest kurtosis of what the network removes (median over squares) up to which it counts as one kind of noise. Above
it, impulses are the noise. It is up to 3.8 for other noise and for texture, and from 11 on for impulses."""
CORRELATION_WEIGHT = 0.6
INDEPENDENT_EVIDENCE = (0.4, 0.48)
"""Ratio of the independent noise to what the network removes, less `CORRELATION_WEIGHT` times the correlation of
neighbours in it: up to the first limit, the noise is not independent, or the image has none; from the second on, it is.
It is up to 0.37 for cameras and clean images, and from 0.49 on for independent noise of 2.5 grey levels or more."""
CORRELATIONS = (0.33, 0.45)
"""Correlation of neighbours in what the network removes from an image with weak noise: up to the first limit it may be
texture, from the second on it is noise."""
LEAST_REMOVED = (0.9, 1.1)
"""Standard deviation of what the network removes, in 8-bit grey levels: below the first limit it is the network's own
error, whatever its correlation. It is 1.1 and more for cameras."""
LEVELS_OF_TEXTURE = (4.5, 5.5)
"""Standard deviation of what the network removes, in 8-bit grey levels: up to the first limit it may be texture alone,
from the second on it is noise."""
LARGEST_LOSS = 4.0
"""Largest standard deviation of the detail that the network loses, in 8-bit grey levels: it is 2 to 4 for photographs
without noise."""
LEVELS_WITHOUT_LOSS = (8.0, 14.0)
"""Standard deviation of what is removed, in 8-bit grey levels, from which lost detail does not matter beside noise."""
HIDDEN_LOW_FREQUENCIES = 2.0
"""For correlated noise, the network is told what was removed times 1 plus this factor times its correlation between
neighbours. That is more than there is, because the fit learns from what the network makes of the image first: noise
that it leaves then is part of what the fit takes for the image."""
LEAST_COARSE_LEVEL = 8.0
"""Smallest level that the network is told for correlated noise, in 8-bit grey levels. For weak noise of cameras, more
costs little and less costs much."""
TEXTURE_LIKENESS = (0.56, 0.66)
"""Smallest correlation between two channels of what the network removes, without independent noise: up to the first
limit, it is noise; from the second on, it may be texture. It is at most 0.56 for cameras' noise that has not passed
JPEG, and from 0.64 on for sand and grass."""
TEXTURE_CORRELATIONS = ((0.1, 0.16), (0.4, 0.48))
"""The same for the correlation of neighbours: it may be texture between the second limit and the third. It is 0.14 to
0.43 for sand and grass; at most 0.1 for noise of the luminance, and 0.43 to 0.66 for noise whose colours JPEG took."""
TEXTURE_LEVELS = ((5.0, 8.0), (8.0, 14.0))
"""Standard deviation of what the network removes, in 8-bit grey levels: up to the first limit, `CORRELATIONS` decide
what is texture; from the second on, likeness does; and from the third to the fourth on, however coarse it is. It is at
most 4 for noise whose colours JPEG took, and 10 to 40 for sand, grass and gravel."""
STEP_OF_ERRORS = 4.0
"""Step of JPEG's rounding, in 8-bit grey levels, from which all that the network removes counts as noise: part of it is
what JPEG changed, and that is more than the detail which the network loses. With smaller steps, their share of this one
counts at least (dev/log)."""
STEADY_SHARE = 0.8
"""Beside strong noise that neighbours share, coarse texture looks like more of it. The largest level of which this
share is removed, if it is told, knows less of the texture than that of `TAKEN_SHARE`: it is 0.6 to 0.8 of it where
noise is strong, and 0.3 for a fabric in noise of 11 grey levels."""
LARGEST_TOLD_OF_STEADY, FOUND_OF_STEADY = 1.25, 0.85
"""The most that the network is told, and the noise that is found, relative to that level. It is 0.7 to 1.35 of the true
standard deviation (dev/log)."""
CORRELATED_FROM = 0.1
"""Correlation of neighbours in what the network removes above which noise counts as correlated. It is at most 0.05 for
independent noise and for noise that only channels share, also behind a JPEG; 0.18 for independent noise after a blur of
half a pixel; and from 0.28 on for cameras."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What a network removes from an image that it is told has noise of some level.

    Attributes:
        removed: standard deviation of the difference, in 8-bit grey levels.
        correlation: correlation of neighbouring pixels in it, mean of both directions.
        kurtosis: fourth moment over the squared variance of the difference in small squares, median over the squares.
        likeness: smallest correlation between two of its channels; 0 with a single channel.
    """

    removed: float
    correlation: float
    kurtosis: float
    likeness: float


def assess_noise(
    pixels: FloatArray,
    weights: ToldWeights,
    recipe: Recipe,
    sigma: float | None = None,
    levels: float = GREY_LEVELS,
) -> Noise:
    """Assess the noise of an image.

    Args:
        pixels: float32 (C, H, W), the image; its middle counts.
        weights: the start weights.
        recipe: recipe of the fit; gives the architecture.
        sigma: the level of the noise in 8-bit grey levels, if it is known; None to find it.
        levels: how many 8-bit grey levels of the file lie between 0 and 1 in `pixels`.

    Returns:
        The noise. Its numbers are rounded to three digits, because the last ones may differ between machines.
    """
    middle = remove_hot_pixels(center_crop(pixels).copy(), in_place=True)
    step = round(quantisation_step(middle, levels), 2)
    noise = _assess(middle, weights, recipe, sigma, step)
    cleaned = remove_impulses(middle) if noise.kind == NoiseKind.IMPULSES else middle
    if not has_impulses(middle, cleaned):
        return noise
    return replace(_assess(cleaned, weights, recipe, sigma, step), impulses=True)


class FirstLook:
    """What the network removes from an image if it is told the level that agrees with that, and what this shows.

    Args:
        middle: float32 (C, H, W), the middle of an image, without hot pixels.
        weights: the start weights.
        recipe: recipe of the fit; gives the architecture.

    Attributes:
        removed: standard deviation of what is removed, in 8-bit grey levels.
        seen: two passes at that level.
        own: the independent noise.
        rare: whether impulses are the noise.
    """

    def __init__(self, middle: FloatArray, weights: ToldWeights, recipe: Recipe) -> None:
        self._image = clip_to_range(center_crop(middle, TRIAL_SIDE))
        self._weights, self._recipe = weights, replace(recipe, pass_drop_rate=TRIAL_DROP_RATE)
        self.removed = self.removed_at(self.agreed())
        self.seen = self._trial(self.removed, passes=2)
        self.rare = self.seen.kurtosis > LARGEST_KURTOSIS
        self.own = (noise_with_outliers if self.rare else independent_noise)(middle)

    def _trial(self, level: float, passes: int = 1) -> Trial:
        return _trial(self._weights(_in_range(level)), self._image, self._recipe, passes)

    def removed_at(self, level: float) -> float:
        """Standard deviation of what the network removes if it is told `level`; both in 8-bit grey levels."""
        return self._trial(level).removed

    def agreed(self, share: float = TAKEN_SHARE) -> float:
        """The largest level of which `share` is removed if it is told (`find_level`)."""
        return find_level(self.removed_at, share)

    @property
    def correlation(self) -> float:
        """Correlation of neighbours in what is removed, 0 instead of negative values."""
        return max(0.0, self.seen.correlation)

    @property
    def independent(self) -> float:
        """How sure it is that the noise is independent, from 0 to 1."""
        ratio = self.own.sigma / self.removed if self.removed else 1.0
        return smooth_step(ratio - CORRELATION_WEIGHT * self.correlation, *INDEPENDENT_EVIDENCE)

    @property
    def coarse(self) -> float:
        """How sure it is that neighbours share noise, from 0 to 1."""
        return smooth_step(self.correlation, *CORRELATIONS) * smooth_step(self.removed, *LEAST_REMOVED)

    @property
    def shared(self) -> tuple[float, float]:
        """The likeness of channels and the correlation of neighbours in what is removed, without independent noise.

        Independent noise is part of what is removed, and is correlated with nothing. Both are 0 if it is all of it.
        """
        removed, own = self.seen.removed, self.own.sigma
        if own >= removed:
            return 0.0, 0.0
        share = 1 - (own / removed) ** 2
        return self.seen.likeness / share, self.seen.correlation / share

    @property
    def texture(self) -> float:
        """How sure it is that what is removed is texture, from 0 to 1.

        Texture that is as coarse as noise of cameras is lighter and darker, in all channels alike. Cameras' noise has
        colours; where JPEG has taken them, neighbours share more of it than they share of texture; and noise of the
        luminance alone that has not been filtered is shared by no neighbours.
        """
        likeness, correlation = self.shared
        fine, coarse = (smooth_step(correlation, *limits) for limits in TEXTURE_CORRELATIONS)
        strong, stronger = (smooth_step(self.removed, *limits) for limits in TEXTURE_LEVELS)
        return smooth_step(likeness, *TEXTURE_LIKENESS) * fine * max(1 - coarse, stronger) * strong


def _assess(middle: FloatArray, weights: ToldWeights, recipe: Recipe, sigma: float | None, jpeg_step: float) -> Noise:
    """As `assess_noise`, of the middle of an image that shows this step of JPEG."""
    look = FirstLook(middle, weights, recipe)
    own, removed = look.own, look.removed
    texture, is_independent = look.texture, max(look.independent, look.texture)
    coarse_level, coarse_told = _coarse_levels(look)
    level = _between(coarse_level, own.sigma, is_independent)
    told = _between(coarse_told, own.dominant, is_independent)
    certain = max(look.coarse, smooth_step(removed, *LEVELS_OF_TEXTURE))
    removed_share = max(_noise_share(own.sigma, removed), (1 - look.independent) * certain)
    if texture:
        # Only the noise that each value has of its own is certain beside texture.
        removed_share = _between(removed_share, _noise_share(own.sigma, look.removed_at(own.dominant)), texture)
    removed_share = max(removed_share, min(1.0, jpeg_step / STEP_OF_ERRORS))
    if sigma is not None:
        level, told, removed_share = sigma, sigma, _noise_share(sigma, look.removed_at(sigma))
    return Noise(
        _rounded(level),
        _rounded(told),
        _rounded(own.sigma),
        round(look.seen.correlation, 2),
        NoiseKind.IMPULSES if look.rare else _kind(is_independent, look.correlation),
        round(removed_share, 2),
        jpeg_step=jpeg_step,
    )


def _coarse_levels(look: FirstLook) -> tuple[float, float]:
    """The level of noise that is not independent, and the level that the network is told then."""
    # The network leaves the coarse part of correlated noise in the image.
    level = NOISE_IN_REMOVED * look.removed * (1 + look.correlation)
    told = look.removed * (1 + HIDDEN_LOW_FREQUENCIES * look.correlation)
    strong = (1 - look.independent) * look.coarse * smooth_step(look.removed, *LEVELS_WITHOUT_LOSS)
    if strong:
        steady = look.agreed(STEADY_SHARE)
        level = _between(level, min(level, FOUND_OF_STEADY * steady), strong)
        told = _between(told, min(told, LARGEST_TOLD_OF_STEADY * steady), strong)
    return level, max(told, LEAST_COARSE_LEVEL * look.coarse)


def _noise_share(independent: float, removed: float) -> float:
    """The share of the removed variance that is independent noise; the rest is detail that the network loses."""
    if not removed:
        return 1.0
    lost = min(max(0.0, removed**2 - independent**2), LARGEST_LOSS**2)
    # A small error of the measured noise would look like lost detail where noise is strong.
    return 1 - lost / removed**2 * (1 - smooth_step(removed, *LEVELS_WITHOUT_LOSS))


def find_level(removed: Callable[[float], float], share: float = TAKEN_SHARE) -> float:
    """Find the largest level of which `share` is removed if it is told, in 8-bit grey levels.

    Args:
        removed: standard deviation of what is removed by told level; it grows with the level, but slower.
        share: part of the told level.
    """
    level = LARGEST_TOLD
    for _ in range(MAXIMUM_TRIALS):
        following = max(SMALLEST_TOLD, removed(level) / share)
        if following >= (1 - AGREEMENT) * level:
            return min(following, LARGEST_TOLD)
        level = following
    return level


def _kind(is_independent: float, correlation: float) -> NoiseKind:
    if correlation > CORRELATED_FROM:
        return NoiseKind.CORRELATED
    return NoiseKind.INDEPENDENT if is_independent >= 0.5 else NoiseKind.SHARED


def _trial(weights: dict[str, torch.Tensor], image: FloatArray, recipe: Recipe, passes: int) -> Trial:
    prediction = predict(weights, image, recipe, passes=passes)
    removed = without_local_means(image - np.clip(prediction, 0, 1))
    return Trial(
        GREY_LEVELS * float(np.std(removed)),
        neighbour_correlation(autocorrelation(removed)),
        _kurtosis(removed),
        _likeness(removed),
    )


def without_local_means(difference: FloatArray) -> FloatArray:
    """Subtract the mean of each square of `MEAN_SIDE` pixels; lines that fill no square are cut off.

    The network predicts dark, even parts a little too bright or too dark. That is no noise, and `imaging.local_means`
    corrects it.

    Args:
        difference: float32 (C, H, W).
    """
    channels, *sides = difference.shape
    side = min(MEAN_SIDE, *sides)
    rows, columns = (length // side for length in sides)
    squares = difference[:, : rows * side, : columns * side].reshape(channels, rows, side, columns, side)
    squares = squares - squares.mean(axis=(2, 4), keepdims=True)
    return np.asarray(squares.reshape(channels, rows * side, columns * side), np.float32)


def _likeness(difference: FloatArray) -> float:
    planes = difference.reshape(len(difference), -1).astype(np.float64)
    products = planes @ planes.T
    scale = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    pairs = np.triu_indices(len(planes), 1)
    return float(min((products / np.where(scale > 0, scale, 1.0))[pairs], default=0.0))


def _kurtosis(difference: FloatArray) -> float:
    squares = np.concatenate([to_blocks(channel.astype(np.float64)) for channel in difference])
    return median_kurtosis(squares - squares.mean(axis=(1, 2), keepdims=True))


def _between(first: float, second: float, share: float) -> float:
    """`first` where `share` is 0, `second` where it is 1."""
    return (1 - share) * first + share * second


def _in_range(level: float) -> float:
    return min(LARGEST_TOLD, max(SMALLEST_TOLD, level))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
