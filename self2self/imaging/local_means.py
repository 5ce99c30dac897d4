"""Correct the local means of a result: make its mean around every pixel equal to that of the noisy image.

A network that was fitted for a minute, or not at all, may predict a patch of colour up to two grey levels too light or
too dark. A network that was fitted to impulses includes the mean of the impulses in its prediction. Where noise is
weak, such an error is larger than the noise and would falsify measurements of brightness. The mean of the noise over
hundreds of pixels is close to zero, so the noisy image has more accurate local means than the network.

There are three exceptions. A hot pixel does not count in the mean of its surroundings. And where noise is cut off at an
end of the range, its mean is not zero, so such pixels do not count either. Nor do pixels that were not measured.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise import GREY_LEVELS, NORMAL_MEDIAN, SATURATED_SHARE
from self2self.imaging.outliers import LINES_PER_STRIP

FloatArray = NDArray[np.float32]

BLOCK_SIDE = 16
"""Side of the blocks whose sums are kept, in pixels."""
MINIMUM_RADIUS = 16.0
RADIUS_PER_LEVEL = 2.8
"""Standard deviation of the Gaussian window of a local mean, in pixels: its minimum, and its growth per grey level of
the noise's standard deviation. The standard deviation of independent noise becomes 1 / (2 √π radius) times as large in
the mean (the square root of the integral of the squared Gaussian): 0.1 grey levels."""
REACH_IN_RADII = 6.0
"""Distance within which blocks count in a local mean, in standard deviations of the Gaussian. Blocks beyond have 2e-9
of its weight, which float32 does not resolve. Time and memory of a mean over all blocks would grow with the square of
the image's size."""
LARGEST_SIGMA = 15.0
"""Largest standard deviation of the noise, in 8-bit grey levels, at which the correction improves the result. Above it,
the fitted network predicts local means as well (dev/log)."""
LEAST_WEIGHT = 0.01
"""Smallest weight of measured pixels in a local mean: fainter traces of distant ones correct nothing."""
OUTLIER_DEVIATIONS = 3.0
"""Differences are limited to this many standard deviations."""
CUT_OFF_DEVIATIONS = 2.5
"""Noise may be cut off at an end of the range where the prediction is nearer to it than this many standard deviations.
It counts as cut off if enough noisy values there equal the end."""


class LocalMeans:
    """Sums the differences between the noisy image and a prediction by blocks, then corrects a result by their mean.

    Args:
        shape: (C, H, W) of the image and the prediction.
        missing: bool (H, W), pixels of the noisy image that were not measured; None for none.
    """

    note = ""

    def __init__(self, shape: tuple[int, ...], missing: NDArray[np.bool_] | None = None) -> None:
        channels, *sides = shape
        self._sides = (sides[0], sides[1])
        self._sums = np.zeros((channels, *(-(-side // BLOCK_SIDE) for side in sides)), np.float32)
        self._missing = missing
        self._missing_sums = None if missing is None else _block_sums(missing)
        self._variance = 0.0
        self._seen = 0

    def see(self, top: int, noisy: FloatArray, prediction: FloatArray) -> None:
        """Add some lines of both images; every line has to be added once, in any order.

        Args:
            top: index of the first of these lines.
            noisy: lines of the noisy image, float32 (C, lines, W).
            prediction: the same lines of the prediction, float32 (C, lines, W); its values are clamped to [0, 1].
        """
        for start in range(0, noisy.shape[1], LINES_PER_STRIP):
            lines = slice(start, start + LINES_PER_STRIP)
            self._see_strip(top + start, noisy[:, lines], np.clip(prediction[:, lines], 0, 1))

    def _see_strip(self, top: int, noisy: FloatArray, prediction: FloatArray) -> None:
        difference = noisy - prediction
        measured = None if self._missing is None else ~self._missing[top : top + noisy.shape[1]]
        if measured is not None and not measured.any():
            return
        counted = np.abs(difference if measured is None else difference[:, measured])
        scales = np.median(counted.reshape(len(noisy), -1), axis=1)[:, None, None] / np.float32(NORMAL_MEDIAN)
        np.clip(difference, -OUTLIER_DEVIATIONS * scales, OUTLIER_DEVIATIONS * scales, out=difference)
        for end in (0, 1):
            near = np.abs(prediction - end) < CUT_OFF_DEVIATIONS * scales
            cut_off = (near & (noisy == end)).sum((1, 2)) > SATURATED_SHARE * near.sum((1, 2))
            difference[near & cut_off[:, None, None]] = 0
        if measured is not None:
            difference *= measured
        by_column = np.add.reduceat(difference, np.arange(0, self._sides[1], BLOCK_SIDE), axis=2)
        lines = noisy.shape[1]
        blocks = (top + np.arange(lines)) // BLOCK_SIDE
        for channel, values in zip(self._sums, by_column, strict=True):
            np.add.at(channel, blocks, values)
        self._variance += lines * float(np.mean(np.square(scales)))
        self._seen += lines

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, without outliers, in 8-bit grey levels: RMS over channels and lines."""
        return GREY_LEVELS * float(np.sqrt(self._variance / max(1, self._seen)))

    def restore(self, result: FloatArray) -> None:
        """Give `result` the local means of the noisy image, in place; call this after `see` had every line.

        Values in [0, 1] stay in this range, and values outside it do not change. Nothing changes if the noise is
        stronger than `LARGEST_SIGMA`.

        Args:
            result: float32 (C, H, W).
        """
        sigma = self.sigma
        if sigma > LARGEST_SIGMA:
            return
        radius = max(MINIMUM_RADIUS, RADIUS_PER_LEVEL * sigma)
        height, width = self._sides
        across = [_gaussian_weights(left, width, radius) for left in range(0, width, LINES_PER_STRIP)]
        for top in range(0, height, LINES_PER_STRIP):
            near, down = _gaussian_weights(top, height, radius)
            sums = down @ self._sums[:, near]
            lost = None if self._missing_sums is None else down @ self._missing_sums[near]
            for index, (beside, weights) in enumerate(across):
                pixels = result[:, top : top + LINES_PER_STRIP, index * LINES_PER_STRIP : (index + 1) * LINES_PER_STRIP]
                means = sums[:, :, beside] @ weights.T
                if lost is not None:
                    # The weights sum to 1 over all pixels of the image; the measured ones have the rest of it.
                    means /= np.maximum(1 - lost[:, beside] @ weights.T, LEAST_WEIGHT)
                shifted = pixels + means
                # Values outside the range come from the noisy image (`outliers`).
                np.copyto(pixels, np.clip(shifted, 0, 1), where=(pixels >= 0) & (pixels <= 1))


def _block_sums(where: NDArray[np.bool_]) -> FloatArray:
    """The number of true pixels in each block, float32 (rows of blocks, columns of blocks)."""
    for axis in (0, 1):
        where = np.add.reduceat(where, np.arange(0, where.shape[axis], BLOCK_SIDE), axis=axis, dtype=np.float32)
    return np.asarray(where, np.float32)


def _gaussian_weights(start: int, side: int, radius: float) -> tuple[slice, FloatArray]:
    """Compute the weights of block sums in the local means along one axis.

    Args:
        start: first position of up to `LINES_PER_STRIP` positions.
        side: number of pixels along the axis.
        radius: standard deviation of the Gaussian, in pixels.

    Returns:
        the blocks within reach of any of the positions, and the weights of their sums, float32 (positions, blocks).
    """
    positions = np.arange(start, min(start + LINES_PER_STRIP, side))
    first, last = (
        int(start - REACH_IN_RADII * radius) // BLOCK_SIDE,
        int(positions[-1] + REACH_IN_RADII * radius) // BLOCK_SIDE,
    )
    near = slice(max(0, first), last + 1)
    starts = np.arange(0, side, BLOCK_SIDE)[near]
    ends = np.minimum(starts + BLOCK_SIDE, side)
    distances = positions[:, None] - (starts + ends - 1) / 2
    weights = np.exp(-0.5 * np.square(distances / radius))
    return near, np.asarray(weights / (weights * (ends - starts)).sum(1, keepdims=True), np.float32)
