"""Correct the brightness of photographs whose noise was there before their tone curve.

A camera's noise arises in linear light. The tone curve with which a photograph is stored, such as that of sRGB, rises
steeply in the dark and flatly in the light. So it stretches noise that darkens a pixel more than noise that brightens
it, and the mean of the stored noisy values is darker than the scene: by 8 of 255 grey levels for the noise of a
smartphone in dim light. A network that predicts means keeps this error, which then is the largest one of the result.

For a pixel of stored brightness c = g(x), with noise of standard deviation s as it is stored, the second-order Taylor
expansion of the mean is c + g''(x) s² / (2 g'(x)²). A tone curve is nearly a square root, g(x) = x^(1/2), for which
this is c - s² / (2 c). Near black, where noise is cut off as well, the mean is brighter again, by an amount that
depends on the order of a camera's steps. There nothing is corrected.

Whether the noise of an image has passed a tone curve shows in its skewness. By the same expansion, the third central
moment over 6 s² equals the error of the mean. Noise that was added to stored values is symmetric, except at black
and white, where it is cut off. Noise that a camera has smoothed or compressed has lost its skewness, and is left alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise import GREY_LEVELS
from self2self.imaging.outliers import LINES_PER_STRIP
from self2self.imaging.smoothing import smooth_step

FloatArray = NDArray[np.float32]
Levels = NDArray[np.float64]

TONE_EXPONENT = 2
"""The tone curve that noise may have passed is g(x) = x^(1 / this)."""
LEVELS = 12
"""Number of brightnesses at which the noise of a channel is measured, each over as many pixels."""
BRIGHTNESS_BINS, DIFFERENCE_BINS = 128, 511
"""Numbers of bins of the predicted brightness, from 0 to 1, and of the difference to it, from -1 to 1."""
LARGEST_NUMBER = 2**21
"""About as many pixels are looked at in a large image, in lines that are spread over it."""
OUTLIER_DEVIATIONS = 4.0
"""Differences are limited to this many standard deviations."""
EVIDENCE = (0.15, 0.45)
"""Position of the measured skewness between that of noise without tone curve (0) and with it (1): nothing is corrected
up to the first limit, all of it from the second on. It is at most 0.1 for microscopes, for noise that was added to
stored values and for cameras that smooth or compress their noise, and 0.5 to 1.1 for smartphones (dev/log)."""
CERTAINTY = 2.0
"""Number of standard errors that are subtracted from the position."""
FROM_BLACK = (0.75, 1.25)
"""Mean of the noisy values, in standard deviations of the noise, up to which nothing is corrected, and from which on
all is."""


LEAST_NOTED = 1.0
"""Smallest correction that a note tells, in 8-bit grey levels."""


class Skewed(NamedTuple):
    """Noise at some brightnesses, in the unit of the pixels; arrays of any shape.

    Attributes:
        mean: mean of the noisy values.
        deviation: standard deviation of the noise.
        asymmetry: third central moment over 6 times the variance, which has the unit of the pixels, too.
        number: of the values that were measured.
    """

    mean: Levels
    deviation: Levels
    asymmetry: Levels
    number: Levels


@dataclass(frozen=True, slots=True)
class BrightnessShift:
    """How much is added to a result, by channel and brightness.

    Attributes:
        brightness: (C, levels), ascending, in [0, 1].
        added: (C, levels), what is added there, 0 or more.
    """

    brightness: Levels
    added: Levels

    def at(self, channel: int, values: NDArray[np.floating]) -> Levels:
        """What is added to `values` of a channel."""
        return np.asarray(np.interp(values, self.brightness[channel], self.added[channel]))


class ToneBias:
    """Measures the noise by brightness, from the noisy image and a prediction, then corrects a result.

    Args:
        shape: (C, H, W) of the image and the prediction.
        missing: bool (H, W), pixels of the noisy image that were not measured; None for none.
    """

    def __init__(self, shape: tuple[int, ...], missing: NDArray[np.bool_] | None = None) -> None:
        channels, height, width = shape
        self._step = max(1, height * width // LARGEST_NUMBER)
        self._missing = missing
        self.note = ""
        self._counts = np.zeros((channels, BRIGHTNESS_BINS, DIFFERENCE_BINS), np.int64)

    def see(self, top: int, noisy: FloatArray, prediction: FloatArray) -> None:
        """Add some lines of both images; every line has to be added once, in any order.

        Args:
            top: index of the first of these lines.
            noisy: lines of the noisy image, float32 (C, lines, W).
            prediction: the same lines of the prediction, float32 (C, lines, W); its values are clamped to [0, 1].
        """
        first = -top % self._step
        missing = None if self._missing is None else self._missing[top + first : top + noisy.shape[1] : self._step]
        lines = slice(first, None, self._step)
        for channel, (values, results) in enumerate(zip(noisy[:, lines], prediction[:, lines], strict=True)):
            if missing is not None:
                values, results = values[~missing], results[~missing]
            for start in range(0, values.shape[0], LINES_PER_STRIP):
                strip = slice(start, start + LINES_PER_STRIP)
                self._see_values(channel, values[strip].ravel(), np.clip(results[strip], 0, 1).ravel())

    def _see_values(self, channel: int, noisy: FloatArray, prediction: FloatArray) -> None:
        row = np.minimum(prediction * BRIGHTNESS_BINS, BRIGHTNESS_BINS - 1).astype(np.intp)
        difference = np.clip(noisy - prediction, -1, 1)
        column = np.rint((difference + 1) * ((DIFFERENCE_BINS - 1) / 2)).astype(np.intp)
        counts = self._counts[channel]
        counts += np.bincount(row * DIFFERENCE_BINS + column, minlength=counts.size).reshape(counts.shape)

    def position(self) -> float:
        """`passed_tone_curve` of the noise that was seen."""
        return passed_tone_curve(self._noise()[1])

    def _noise(self) -> tuple[Levels, Skewed]:
        """Brightnesses and the noise there, (C, levels)."""
        levels, measured = zip(*map(_by_level, self._counts), strict=True)
        return np.array(levels), Skewed(*map(np.array, zip(*measured, strict=True)))

    def shift(self) -> BrightnessShift:
        """What the noise asks for; call this after `see` had every line."""
        brightness, noise = self._noise()
        share = smooth_step(passed_tone_curve(noise), *EVIDENCE)
        low, high = FROM_BLACK
        lit = np.clip((noise.mean - low * noise.deviation) / ((high - low) * np.maximum(noise.deviation, 1e-12)), 0, 1)
        size = np.maximum(np.hypot(brightness, noise.deviation), 1e-12)
        return BrightnessShift(brightness, share * lit * (TONE_EXPONENT - 1) / 2 * noise.deviation**2 / size)

    def restore(self, result: FloatArray) -> None:
        """Brighten `result` in place, as its noise asks for. Values in [0, 1] stay in this range, others stay.

        Args:
            result: float32 (C, H, W).
        """
        shift = self.shift()
        largest = GREY_LEVELS * float(shift.added.max(initial=0))
        if not largest:
            return
        if largest >= LEAST_NOTED:
            self.note = f"noise has darkened this photograph; the result is up to {largest:.1f} grey levels brighter."
        for channel, plane in enumerate(result):
            for top in range(0, plane.shape[0], LINES_PER_STRIP):
                pixels = plane[top : top + LINES_PER_STRIP]
                inside = (pixels >= 0) & (pixels <= 1)
                if self._missing is not None:
                    inside &= ~self._missing[top : top + LINES_PER_STRIP]
                shifted = np.minimum(pixels + shift.at(channel, np.clip(pixels, 0, 1)), 1)
                np.copyto(pixels, shifted, where=inside, casting="same_kind")


def passed_tone_curve(noise: Skewed) -> float:
    """Position of the measured asymmetry between that of noise without tone curve (0) and that with it (1).

    Both are computed for the measured means and standard deviations. The asymmetry of n normal values has a standard
    error of √15 / 6 times their standard deviation, over √n; so many errors as `CERTAINTY` are subtracted from the
    position. 0 if there is no noise.
    """
    without, with_curve = (_asymmetry(exponent, noise.mean, noise.deviation) for exponent in (1, TONE_EXPONENT))
    # In the dark, noise is skewed by the end of the range alone, and that of few photons by itself.
    difference = np.where(with_curve < 0, with_curve - without, 0)
    power = float(np.sum(np.square(difference)))
    if not power:
        return 0.0
    errors = math.sqrt(15) / 6 * noise.deviation / np.sqrt(np.maximum(noise.number, 1))
    error = math.sqrt(float(np.sum(np.square(errors * difference)))) / power
    return float(np.sum((noise.asymmetry - without) * difference)) / power - CERTAINTY * error


def _by_level(counts: NDArray[np.int64]) -> tuple[Levels, Skewed]:
    """Brightness and noise of a channel at `LEVELS` brightnesses, from its histogram."""
    number = counts.sum(1)
    brightness = (np.arange(BRIGHTNESS_BINS) + 0.5) / BRIGHTNESS_BINS
    # Bins that two levels share are split.
    ends = np.interp(
        np.linspace(0, number.sum(), LEVELS + 1), np.append(0, np.cumsum(number)), np.arange(BRIGHTNESS_BINS + 1)
    )
    shares = np.diff(np.clip(ends[:, None] - np.arange(BRIGHTNESS_BINS), 0, 1), axis=0)
    weights = shares @ counts
    total = np.maximum(weights.sum(1, keepdims=True), 1)
    centre = (shares * number) @ brightness / total[:, 0]
    differences = np.broadcast_to(np.linspace(-1, 1, DIFFERENCE_BINS), weights.shape)
    mean, deviation = _moments(weights / total, differences)
    limits = OUTLIER_DEVIATIONS * deviation
    differences = np.clip(differences, mean - limits, mean + limits)
    mean, deviation = _moments(weights / total, differences)
    moment = (weights / total * (differences - mean) ** 3).sum(1)
    variance = np.square(deviation[:, 0])
    asymmetry = np.divide(moment, 6 * variance, out=np.zeros_like(moment), where=variance > 0)
    return centre, Skewed(centre + mean[:, 0], deviation[:, 0], asymmetry, weights.sum(1))


def _moments(weights: Levels, values: Levels) -> tuple[Levels, Levels]:
    """Mean and standard deviation of each row of `values`, (levels, 1), with `weights` that sum to 1."""
    mean = (weights * values).sum(1, keepdims=True)
    return mean, np.sqrt((weights * np.square(values - mean)).sum(1, keepdims=True))


def _asymmetry(exponent: float, mean: Levels, deviation: Levels) -> Levels:
    """Asymmetry of normal noise after a tone curve, where the stored values have this mean and standard deviation."""
    table = _normal_noise(exponent)
    distance = np.square(table.mean - mean[..., None]) + np.square(table.deviation - deviation[..., None])
    return np.asarray(table.asymmetry[np.argmin(distance, axis=-1)])


@lru_cache(maxsize=2)
def _normal_noise(exponent: float) -> Skewed:
    """Normal noise of many strengths, added to many brightnesses, cut off to [0, 1] and raised to 1 / `exponent`."""
    normal = np.array([NormalDist().inv_cdf((index + 0.5) / 64) for index in range(64)])
    linear = np.linspace(0, 1, 64) ** (2 * exponent)
    strengths = np.geomspace(1e-4, 1.5, 72)
    stored = np.clip(linear[:, None, None] + strengths[:, None] * normal, 0, 1) ** (1 / exponent)
    mean = stored.mean(-1)
    centred = stored - mean[..., None]
    variance = np.square(centred).mean(-1)
    asymmetry = (centred**3).mean(-1) / (6 * variance)
    return Skewed(mean.ravel(), np.sqrt(variance).ravel(), asymmetry.ravel(), np.full(mean.size, np.inf))
