"""What the mean of an image is, around any of its pixels: that of the result is made the same.

A network that was fitted for a minute, or not at all, may see a patch of colour a little too light or too dark, by up
to two grey levels, and one that was fitted to impulses predicts their mean with the image's. Where noise is weak, that
is more than the noise, and whoever measures brightness would measure it. The mean of the noise over hundreds of pixels
is next to nothing, so the noisy image knows better than the network.

Not everywhere: a hot pixel has no part in the mean of what is around it, and where noise is cut off at an end of the
range, its mean is not zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise import GREY_LEVELS, NORMAL_MEDIAN, SATURATED_SHARE
from self2self.imaging.outliers import LINES_PER_STRIP

FloatArray = NDArray[np.float32]

BLOCK_SIDE = 16
"""Of the blocks that means are taken of, in pixels."""
MINIMUM_RADIUS = 16.0
RADIUS_PER_LEVEL = 2.8
"""Standard deviation of the Gaussian over which a mean is taken, in pixels, and its least. Of independent noise
its mean keeps 1 / (2 √π radius) (the square root of the Gaussian's own integral of squares): 0.1 grey levels."""
REACH_IN_RADII = 6.0
"""So many standard deviations around, blocks are looked at: float32 does not show what is beyond, 2e-9 of the Gaussian,
and looking at all blocks would take time and memory that grow as the square of the image."""
LARGEST_SIGMA = 15.0
"""Up to this standard deviation, in 8-bit grey levels, it gains; above, the fitted network knows as well
(dev/log)."""
OUTLIER_DEVIATIONS = 3.0
"""What differs by more standard deviations counts as differing by as many."""
CUT_OFF_DEVIATIONS = 2.5
"""Nearer to an end of the range than so many standard deviations, noise is cut off, if values there are equal to it."""


class LocalMeans:
    """Collects how a prediction differs from the noisy image, block by block, then takes the local mean of that away.

    Args:
        shape: (C, H, W) of both.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        channels, *sides = shape
        self._sides = (sides[0], sides[1])
        self._sums = np.zeros((channels, *(-(-side // BLOCK_SIDE) for side in sides)), np.float32)
        self._variance = 0.0
        self._seen = 0

    def see(self, top: int, noisy: FloatArray, prediction: FloatArray) -> None:
        """Lines of both from line `top` on, float32 (C, lines, W); every line once, in any order."""
        for start in range(0, noisy.shape[1], LINES_PER_STRIP):
            lines = slice(start, start + LINES_PER_STRIP)
            self._see_strip(top + start, noisy[:, lines], np.clip(prediction[:, lines], 0, 1))

    def _see_strip(self, top: int, noisy: FloatArray, prediction: FloatArray) -> None:
        difference = noisy - prediction
        scales = np.median(np.abs(difference), axis=(1, 2), keepdims=True) / np.float32(NORMAL_MEDIAN)
        np.clip(difference, -OUTLIER_DEVIATIONS * scales, OUTLIER_DEVIATIONS * scales, out=difference)
        for end in (0, 1):
            near = np.abs(prediction - end) < CUT_OFF_DEVIATIONS * scales
            cut_off = (near & (noisy == end)).sum((1, 2)) > SATURATED_SHARE * near.sum((1, 2))
            difference[near & cut_off[:, None, None]] = 0
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
        """Give `result` (C, H, W), of which every line was seen, the local means of the noisy image.

        Values in [0, 1] stay there, and others as they are. Nothing changes where noise is strong.
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
            for index, (beside, weights) in enumerate(across):
                pixels = result[:, top : top + LINES_PER_STRIP, index * LINES_PER_STRIP : (index + 1) * LINES_PER_STRIP]
                shifted = pixels + sums[:, :, beside] @ weights.T
                # Values beyond the range are those of the noisy image itself (`extremes`).
                np.copyto(pixels, np.clip(shifted, 0, 1), where=(pixels >= 0) & (pixels <= 1))


def _gaussian_weights(start: int, side: int, radius: float) -> tuple[slice, FloatArray]:
    """What sums of blocks count in the means around up to `LINES_PER_STRIP` positions from `start` on, of `side` pixels.

    Returns:
        the blocks within reach of any of the positions, and the weights of their sums, (positions, blocks).
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
