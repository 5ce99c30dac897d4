"""Fuse a page of a stack with its neighbours, so that less noise is left and nothing that moves is smeared.

Each neighbour is registered to the page by parts (`imaging.registration`). Where it shows the same, page and neighbour
differ by independent noise alone. So the difference is split into bands from fine to coarse, and its mean square in
windows is compared with what noise explains. Where it is larger, the weight of the neighbour falls, smoothly and by
place. The windows hold so many pixels that the weights hardly depend on the noise of single pixels.

The brightness of the page over tens of pixels stays that of the page: there a neighbour is shifted to it. So bleaching
and flicker neither cost weight nor mix the brightness of frames.

A network is told one noise level, and the fused page has less noise where neighbours fit than elsewhere. So detail is
scaled: around its local mean, the contrast of each place shrinks until its noise is as weak as where all neighbours
fit. The network's result is scaled back (`Fused.restored`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.clipped_noise import Clipping
from self2self.imaging.noise import CORRELATION_THRESHOLD, estimate_correlation
from self2self.imaging.noise_curve import by_brightness
from self2self.imaging.registration import motion, moved_by
from self2self.imaging.smoothing import BAND_SHARES, bands, box_mean

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

RADII = (4, 6, 10, 16)
"""Radius of the windows in which each band of a difference is measured, in pixels: coarse noise needs larger ones."""
FREEDOM = (71.0, 38.0, 23.0, 15.0)
"""Number of independent values that the mean square of a band of independent noise has in such a window: 2 over its
relative variance."""
CALM_QUANTILE = 0.3
"""Quantile of the mean squares over the image that counts as noise alone."""
MARGIN = 2.0
"""Excess over what noise explains that costs no weight, in standard deviations of a mean square of noise."""
STRICTNESS = (15.0, 3.0, 1.5, 0.5)
"""How fast a weight falls: it is 1 / (1 + the sum of STRICTNESS d over the bands), where d is the excess of a band's
mean square in that of its noise. The network removes most of the fine noise, so there a small difference costs more
than a neighbour gains; it removes little of the coarse noise, which is weak."""
LARGEST_COLOUR = 1.3
"""Largest energy of a coarse band beside the finest one, compared with independent noise, that independent noise may
have by chance. More is texture."""
SAMPLE_STEP, SMALLEST_GROUP = 4, 24
"""Mean squares are sampled at every so many pixels, and sorted by brightness into groups of at least so many."""
MEAN_RADIUS = 12
"""Radius of the windows in which a neighbour takes the mean of the page, in pixels; applied twice."""
LEAST_WEIGHT = 1e-3
TINY = np.float32(np.finfo(np.float32).tiny)
GAIN_RADIUS = 10
"""Radius of the windows whose means tell the contrast of a page, in pixels."""
LARGEST_GAIN = 1.5
"""Largest ratio of the contrasts of two pages that is taken for bleaching or flicker."""
CLEARLY_OTHER_GAIN = 0.02
"""Smallest relative difference of the contrasts of two pages that counts."""
HELPING_GAIN = 0.8
"""A gain counts if it makes the typical difference of two pages this much smaller."""
DUPLICATE = 0.1
"""Variance of the difference, as a share of what independent noise explains, below which a page is a duplicate."""
SURELY_SHARED = 0.5
"""Share of the noise that two pages seem to have in common, above which they do. Below, it may be texture, which counts
as noise in a single page."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour, registered to a page.

    Attributes:
        values: float32 (C, H, W).
        weight: float32 (H, W), from 0 where it does not fit to 1.
        noise: variance of its noise, as a share of that of the page.
        shared: share of the page's noise that it has, too: 1 for a duplicate. Texture, which looks like noise in a
            single page, makes it too large.
    """

    values: FloatArray
    weight: FloatArray
    noise: float
    shared: float


@dataclass(frozen=True, slots=True)
class Fused:
    """A page that is fused with its neighbours, with detail scaled so that its noise is equally strong everywhere.

    Attributes:
        pixels: float32 (C, H, W), for the network.
        means: float32 (C, H, W), local means of the fused page, around which detail is scaled.
        contrast: float32 (H, W), the factor of detail, from the square root of the aim to 1.
        aim: `variance_aimed_at`.
        neighbours: what was found of each neighbour.
    """

    pixels: FloatArray
    means: FloatArray
    contrast: FloatArray
    aim: float
    neighbours: tuple[Fit, ...]

    def part(self, window: tuple[slice, slice]) -> Fused:
        """Some rows and columns of it."""
        return replace(
            self, pixels=self.pixels[:, *window], means=self.means[:, *window], contrast=self.contrast[window]
        )

    @property
    def share_of_neighbours(self) -> FloatArray:
        """How far neighbours have taken the noise of each place, float32 (H, W): from 0, not at all, to 1, the aim."""
        if self.aim >= 1:
            return np.zeros_like(self.contrast)
        variance = np.float32(self.aim) / np.square(self.contrast)
        return np.asarray((1 - variance) / np.float32(1 - self.aim), np.float32)

    def restored(self, result: FloatArray, clipping: Clipping | None = None) -> FloatArray:
        """A result for `pixels` with detail and brightness as they are in the page: float32 (C, H, W).

        The mean of clipped noise is not the image. In a page by itself, a network sees from the noise what was cut
        off. Of fused pages the noise is weak, and their mean is the result. So there the clipping is undone.

        Args:
            result: float32 (C, H, W).
            clipping: of the noise of the page; None if none of it was cut off.
        """
        restored = np.asarray(self.means + (result - self.means) / self.contrast, np.float32)
        if clipping is not None:
            restored += self.share_of_neighbours * (clipping.undone(restored) - restored)
        return restored

    def restored_deviations(self, deviations: FloatArray) -> FloatArray:
        """Standard deviations of a result for `pixels`, (C, H, W), in the unit of the page."""
        return np.asarray(deviations / self.contrast, np.float32)


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a neighbour fits: its mean weight, and `Neighbour.shared`."""

    weight: float
    shared: float

    @property
    def is_duplicate(self) -> bool:
        """Whether it is the same frame again, which tells nothing new."""
        return _is_duplicate(self.shared)


def _is_duplicate(shared: float) -> bool:
    return shared > 1 - DUPLICATE


def variance_aimed_at(count: int) -> float:
    """Variance of the noise of a page that is fused with `count` neighbours on each side, as a share of its own."""
    return 1 / (1 + 2 * count)


def fuse(page: FloatArray, neighbours: Sequence[Neighbour], aim: float) -> Fused:
    """Fuse a page with its registered neighbours.

    Args:
        page: float32 (C, H, W), without outliers.
        neighbours: its neighbours (`neighbour_of`).
        aim: `variance_aimed_at`.
    """
    total, variance = np.ones(page.shape[1:], np.float32), np.ones(page.shape[1:], np.float32)
    sums = page.astype(np.float32)
    for neighbour in neighbours:
        if _is_duplicate(neighbour.shared):
            continue
        # A noisier neighbour counts less.
        weight = neighbour.weight / np.float32(neighbour.noise)
        total, sums = total + weight, sums + weight * neighbour.values
        variance += weight**2 * neighbour.noise
        if neighbour.shared > SURELY_SHARED:
            variance += 2 * neighbour.shared * weight
    variance = np.minimum(variance / total**2, 1)
    values = sums / total
    means = box_mean(box_mean(values, MEAN_RADIUS), MEAN_RADIUS)
    contrast = np.sqrt(np.minimum(1, np.float32(aim) / variance))
    return Fused(
        pixels=np.asarray(means + contrast * (values - means), np.float32),
        means=means,
        contrast=contrast,
        aim=aim,
        neighbours=tuple(Fit(0.0 if _is_duplicate(n.shared) else float(n.weight.mean()), n.shared) for n in neighbours),
    )


def neighbour_of(page: FloatArray, other: FloatArray, missing: BoolArray | None = None) -> Neighbour:
    """Register a neighbour to a page, and weigh it by place.

    Args:
        page: float32 (C, H, W), without outliers.
        other: the neighbour, of the same shape and in the same unit.
        missing: bool (H, W), pixels of the neighbour that were not measured; None for none.
    """
    shifts = motion(page, other)
    moved, inside = moved_by(other, shifts)
    if missing is not None:
        inside = inside & ~moved_by(missing, shifts)[0]
    gain = _contrast_ratio(page, moved)
    moved = moved * np.float32(gain)
    weight, shared = _fit(page, moved)
    weight = weight * inside
    offset, share = (page - moved) * weight, weight
    for _ in range(2):
        offset, share = box_mean(offset, MEAN_RADIUS), box_mean(share, MEAN_RADIUS)
    values = np.asarray(moved + offset / np.maximum(share, LEAST_WEIGHT), np.float32)
    return Neighbour(values, weight, gain**2, shared)


def _contrast_ratio(page: FloatArray, moved: FloatArray) -> float:
    """The factor that gives a neighbour the contrast of the page, for bleaching and flicker; 1 if it hardly helps."""
    coarse = [box_mean(image.mean(axis=0), GAIN_RADIUS) for image in (page, moved)]
    deviations = [float(plane.std()) for plane in coarse]
    if min(deviations) <= 0:
        return 1.0
    ratio = deviations[0] / deviations[1]
    if not abs(ratio - 1) > CLEARLY_OTHER_GAIN or not 1 / LARGEST_GAIN < ratio < LARGEST_GAIN:
        return 1.0
    misfits = [_spread(coarse[0] - factor * coarse[1]) for factor in (1, ratio)]
    return ratio if misfits[1] < HELPING_GAIN * misfits[0] else 1.0


def _spread(values: FloatArray) -> float:
    """The median distance of values from their median, which a few places that moved do not change."""
    return float(np.median(np.abs(values - np.median(values))))


def _fit(page: FloatArray, moved: FloatArray) -> tuple[FloatArray, float]:
    """The weight of a registered neighbour by place, float32 (H, W); and `Neighbour.shared`."""
    of_page, rest = bands(page, len(RADII))
    of_difference, _ = bands(page - moved, len(RADII))
    brightness = rest.mean(axis=0)
    groups = _Groups.by_brightness(brightness)
    independent = estimate_correlation(page) <= CORRELATION_THRESHOLD
    excess: FloatArray = np.zeros(page.shape[1:], np.float32)
    finest = excess
    shared = 0.0
    for level, radius in enumerate(RADII):
        freedom = FREEDOM[level] * len(page)
        alone, together = (box_mean(np.square(of[level]).mean(axis=0), radius) for of in (of_page, of_difference))
        noise_of_two, noise_of_difference = groups.calm(2 * alone, freedom), groups.calm(together, freedom)
        explained = groups.at(np.minimum(noise_of_two, noise_of_difference), brightness)
        if level == 0:
            finest = explained
            shared = 1 - min(1.0, float(np.median(noise_of_difference / np.maximum(noise_of_two, TINY))))
        elif independent:
            explained = np.minimum(explained, LARGEST_COLOUR * BAND_SHARES[level] / BAND_SHARES[0] * finest)
        margin = 1 + MARGIN * math.sqrt(2 / freedom)
        over = np.maximum(0, together / np.maximum(explained, TINY) - margin)
        excess = np.asarray(excess + STRICTNESS[level] * over, np.float32)
    return np.asarray(1 / (1 + excess), np.float32), shared


@dataclass(frozen=True, slots=True)
class _Groups:
    """A sample of the places of an image, sorted into groups of similar brightness.

    Attributes:
        places: indices in the flattened sample, for each group.
        centers: mean brightness of each group.
    """

    places: list[NDArray[np.intp]]
    centers: NDArray[np.float64]

    @classmethod
    def by_brightness(cls, brightness: FloatArray) -> _Groups:
        """Groups of the places of `brightness` (H, W)."""
        sample = brightness[::SAMPLE_STEP, ::SAMPLE_STEP].ravel()
        places = by_brightness(sample, SMALLEST_GROUP)
        return cls(places, np.array([sample[group].mean() for group in places], np.float64))

    def calm(self, squares: FloatArray, freedom: float) -> NDArray[np.float64]:
        """For each group, the mean square in places that hold noise alone.

        Args:
            squares: (H, W), mean squares in windows.
            freedom: number of independent values in such a window.
        """
        sample = squares[::SAMPLE_STEP, ::SAMPLE_STEP].ravel()
        quantiles = [np.quantile(sample[group], CALM_QUANTILE) for group in self.places]
        # Wilson and Hilferty's approximation of the quantile of chi-squared, over its mean.
        step = 2 / (9 * freedom)
        return np.array(quantiles, np.float64) / (1 - step + NormalDist().inv_cdf(CALM_QUANTILE) * math.sqrt(step)) ** 3

    def at(self, values: NDArray[np.float64], brightness: FloatArray) -> FloatArray:
        """The values of the groups at each brightness (H, W), with straight lines between the groups."""
        return np.interp(brightness, self.centers, values).astype(np.float32)
