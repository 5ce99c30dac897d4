"""Traces of JPEG in the pixels of an image, also of one that was stored in another format since.

JPEG divides an image into blocks of 8x8 pixels and rounds the coefficients of their cosine transform to multiples of
steps. If such an image is transformed again on the same grid, its coefficients still lie at these multiples, within the
rounding to 8 bits. No other image has that property, so it shows JPEG with certainty, and the steps show how much was
lost. Scaled or filtered since, an image has lost its traces.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from self2self.imaging.noise import GREY_LEVELS, center_crop

FloatArray = NDArray[np.floating]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance that JPEG stores (JFIF)."""
BLOCK_SIDE = 8
FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1))
"""Vertical and horizontal frequencies of the coefficients that are looked at: the lowest. Higher ones are mostly 0."""
LARGEST_STEP = 40
"""Largest step that is looked for, in 8-bit grey levels; it is 16 for the lowest quality of interest."""
BINS_PER_LEVEL = 8
LARGEST_VALUE = 128
"""Larger coefficients are rare, and left out."""
MOST_LEVELS = 4 * GREY_LEVELS
"""Values over a wider range, such as those of a file of floats, have been in no JPEG."""
SIDE = 512
"""Side of the part of the image that is looked at, in pixels."""
LEAST_CONCENTRATION = 0.4
"""Smallest concentration at the multiples of a step, from 0 to 1, that counts. Rounding to 8 bits leaves 0.4 to 0.5 for
a step of 2, and more for larger ones."""
LEAST_EVIDENCE = 20.0
"""Smallest evidence for JPEG, in standard errors, summed over the coefficients. It is at most 3 for images that are not
JPEGs, and from 55 on for JPEGs of 192x192 pixels with steps of 2 or more."""


def quantisation_step(pixels: FloatArray, levels: float = GREY_LEVELS) -> float:
    """Find the step to which JPEG has rounded the lowest frequencies of the luminance.

    Args:
        pixels: (C, H, W), grey or RGB; the first channel counts unless C is 3.
        levels: how many 8-bit grey levels of the JPEG lie between 0 and 1 in `pixels`; any grey level may be 0.

    Returns:
        the geometric mean of the steps that show, in 8-bit grey levels: 2 to 3 for quality 90 of the common encoders,
        6 for 75 and 10 for 60. 0 without traces of JPEG, which is also the answer for steps of 1 (quality 95 and more).
    """
    if not 0 < levels <= MOST_LEVELS:
        return 0.0
    middle = center_crop(pixels, SIDE).astype(np.float64) * levels
    luma = np.tensordot(LUMA, middle, 1) if len(middle) == len(LUMA) else middle[0]
    if min(luma.shape) < 2 * BLOCK_SIDE:
        return 0.0
    steps, evidence = _steps(_histograms(luma))
    grid = int(evidence.sum(axis=0).argmax())
    found = steps[:, grid][evidence[:, grid] > 0]
    if evidence[:, grid].sum() < LEAST_EVIDENCE:
        return 0.0
    return float(np.exp(np.log(found).mean()))


def _histograms(luma: NDArray[np.float64]) -> NDArray[np.int64]:
    """Histograms of absolute coefficients, (coefficient, position of the grid, bin)."""
    places = np.arange(BLOCK_SIDE)
    basis = np.cos(math.pi * (2 * places + 1) * places[:, None] / (2 * BLOCK_SIDE)) / 2
    basis[0] /= math.sqrt(2)
    bins = LARGEST_VALUE * BINS_PER_LEVEL
    rows = {down: sliding_window_view(luma, BLOCK_SIDE, axis=0) @ basis[down] for down in range(3)}
    found = []
    for down, right in FREQUENCIES:
        coefficients = np.abs(sliding_window_view(rows[down], BLOCK_SIDE, axis=1) @ basis[right])
        binned = np.minimum(np.rint(coefficients * BINS_PER_LEVEL), bins).astype(np.int64)
        grids = [binned[y::BLOCK_SIDE, x::BLOCK_SIDE].ravel() for y in places for x in places]
        found.append([np.bincount(grid, minlength=bins + 1)[:bins] for grid in grids])
    return np.array(found)


def _steps(histograms: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The most likely step of each coefficient and position of the grid, and the evidence for it; 0 without any.

    The evidence for a step is the mean of cos(2π value / step) over the values that are not rounded to 0, in standard
    errors of values that lie anywhere.
    """
    candidates = np.arange(2, LARGEST_STEP + 1)
    values = np.arange(histograms.shape[-1])[:, None] / BINS_PER_LEVEL
    counts = values > candidates / 2
    number = histograms @ counts
    sums = histograms @ np.where(counts, np.cos(2 * math.pi * values / candidates), 0.0)
    concentration = sums / np.maximum(number, 1)
    evidence = np.where(concentration >= LEAST_CONCENTRATION, concentration * np.sqrt(2 * number), 0.0)
    best = evidence.argmax(axis=-1)
    return candidates[best], np.take_along_axis(evidence, best[..., None], -1)[..., 0]
