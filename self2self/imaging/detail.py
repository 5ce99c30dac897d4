"""Detail that a result lacks: where more was taken from the image than noise, what is too much comes back.

The difference between the noisy image and the result should be noise (Buades et al. 2005, "A review of image denoising
algorithms", call it the method's noise). A lattice or a fabric that is finer than what the network makes out is in it,
too, and where noise is weak, that is all that one sees of the denoising. How strong the noise is, the calmest squares
of the difference tell: among those as bright, and among those nearby on any side, whichever is strongest. Where the
difference has more energy than that, the result gets back the share of it that is not noise, as in Wiener's filter.

Single pixels that differ by far have hardly a part in this, and stay removed. Nothing comes back where neighbours share
their noise, as what one square has of it tells little of the next; where noise depends on the signal; and where it
comes in impulses or single photons, as the calmest of many squares have none at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from self2self.imaging.noise import NORMAL_MEDIAN, center_crop, measure_noise
from self2self.imaging.noise_curve import by_brightness
from self2self.imaging.outliers import LINES_PER_STRIP

FloatArray = NDArray[np.float32]

SQUARE_SIDE = 8
"""Side of the squares in which noise is measured, in pixels; `LINES_PER_STRIP` is a multiple of it."""
CELL_SIDE = 4
"""Side of the cells in which energy is, in pixels; those around them count, as a Gaussian of three pixels does."""
MINIMUM_SQUARES_PER_GROUP = 16
"""Of each brightness at which the noise is measured, at least."""
NEIGHBOURHOOD_SIDE = 7
"""Squares a side of what is nearby."""
CALM_QUANTILE, CALM_VARIANCE_SHARE = 0.25, 0.86
"""A quarter of the squares count as calm, and their most varied one has this share of the noise's variance: that
quantile of the variance of 64 values, for noise that neighbours hardly share."""
OUTLIER_DEVIATIONS = 4.0
"""What differs by more standard deviations, or robust ones of its square, counts as differing by as many."""
LARGEST_KURTOSIS = 3.4
"""Fourth moment of a square's differences, over its variance squared; the median of all squares. Up to this, what calm
squares tell holds for the others: normal noise has 2.7 to 3.1, with lost texture up to 3.3, that of few photons 3.6 and
more, and impulses 20 (dev/log)."""
ENERGY_MARGIN = 0.25
"""By which energy may exceed the noise, as chance has it (dev/log)."""


def restore_detail(result: FloatArray, noisy: FloatArray, *, even_noise: bool = False) -> None:
    """Give `result` back what it lacks of `noisy`, in place.

    Values in [0, 1] stay there, and others as they are. Nothing changes in images smaller than a square, and where
    noise is correlated or depends on the signal.

    Args:
        result: float32 (C, H, W).
        noisy: the image that it was made of, of the same shape.
        even_noise: whether the noise is known not to depend on the signal, though it may look like it.
    """
    if min(result.shape[1:]) < SQUARE_SIDE:
        return
    kind = measure_noise(center_crop(noisy))
    if kind.correlated or (kind.signal_dependent and not even_noise):
        return
    variances, scales, brightness, peaks = _square_statistics(noisy, result)
    if np.median(peaks) > LARGEST_KURTOSIS:
        return
    noise = np.maximum(_noise_by_brightness(variances, brightness), _noise_nearby(variances))
    limits = np.float32(OUTLIER_DEVIATIONS) * np.maximum(np.sqrt(noise), scales)
    energy = _energy(_cells(part, CELL_SIDE) for _, part in _limited_differences(noisy, result, limits))
    expected = noise.mean(0).repeat(SQUARE_SIDE // CELL_SIDE, axis=0).repeat(SQUARE_SIDE // CELL_SIDE, axis=1)
    expected = _smooth(expected * (1 + ENERGY_MARGIN))
    shares = np.where(energy > expected, 1 - expected / np.maximum(energy, np.finfo(np.float32).tiny), 0)
    for lines, part in _limited_differences(noisy, result, limits):
        target = result[:, lines]
        restored = (
            target + _interpolated(shares, lines, result.shape[2]) * part[:, : target.shape[1], : target.shape[2]]
        )
        np.copyto(target, np.clip(restored, 0, 1), where=(target >= 0) & (target <= 1))


def _difference_strips(noisy: FloatArray, result: FloatArray) -> Iterator[tuple[slice, FloatArray, FloatArray]]:
    """Lines, and of these the difference and the result; the former reflected to whole squares."""
    height = result.shape[1]
    for top in range(0, height, LINES_PER_STRIP):
        lines = slice(top, min(top + LINES_PER_STRIP, height))
        within = np.clip(result[:, lines], 0, 1)
        yield lines, _to_whole_squares(np.clip(noisy[:, lines], 0, 1) - within), within


def _to_whole_squares(values: FloatArray) -> FloatArray:
    """(C, lines, W), reflected below and at the right."""
    below, right = (-side % SQUARE_SIDE for side in values.shape[1:])
    return np.pad(values, ((0, 0), (0, below), (0, right)), mode="symmetric")


def _cells(values: FloatArray, side: int) -> FloatArray:
    """(C, H, W) as (C, H / side, W / side, side²)."""
    channels, height, width = values.shape
    cut = values.reshape(channels, height // side, side, width // side, side).swapaxes(2, 3)
    return cut.reshape(channels, height // side, width // side, side * side)


def _square_statistics(noisy: FloatArray, result: FloatArray) -> FloatArray:
    """Of the difference in every square variance, robust standard deviation, brightness and how peaked it is."""
    parts = []
    for _, difference, within in _difference_strips(noisy, result):
        values = _cells(difference, SQUARE_SIDE)
        scales = np.median(np.abs(values), axis=-1) / np.float32(NORMAL_MEDIAN)
        squared = np.square(values - values.mean(-1, keepdims=True))
        variances = squared.mean(-1)
        # Nothing at all is not peaked.
        peaks = np.square(squared).mean(-1) / np.maximum(np.square(variances), np.finfo(np.float32).tiny)
        brightness = _cells(_to_whole_squares(within), SQUARE_SIDE).mean(-1)
        parts.append(np.stack([variances, scales, brightness, peaks]).astype(np.float32))
    return np.concatenate(parts, axis=2)


def _noise_by_brightness(variances: FloatArray, brightness: FloatArray) -> FloatArray:
    """The noise of calm squares as bright as each."""
    noise = np.empty_like(variances)
    for out, values, levels in zip(noise, variances, brightness, strict=True):
        groups = by_brightness(levels.ravel(), MINIMUM_SQUARES_PER_GROUP)
        at = [float(levels.ravel()[group].mean()) for group in groups]
        out[:] = np.interp(levels, at, [float(np.quantile(values.ravel()[group], CALM_QUANTILE)) for group in groups])
    return noise / np.float32(CALM_VARIANCE_SHARE)


def _noise_nearby(variances: FloatArray) -> FloatArray:
    """The noise of calm squares around each, and in what lies beside it in each corner, whichever is strongest.

    Next to a border between weak noise and strong, most of what is around may be on the other side.
    """
    half = NEIGHBOURHOOD_SIDE // 2
    padded = np.pad(variances, ((0, 0), (half, half), (half, half)), mode="symmetric")
    rows = []
    for row in range(variances.shape[1]):
        windows = sliding_window_view(
            padded[:, row : row + NEIGHBOURHOOD_SIDE], (NEIGHBOURHOOD_SIDE, NEIGHBOURHOOD_SIDE), axis=(1, 2)
        )[:, 0]
        flat = windows.reshape(*windows.shape[:2], -1)
        calm = int(CALM_QUANTILE * flat.shape[-1])
        rows.append(np.partition(flat, calm, axis=-1)[..., calm])
    around = np.stack(rows, axis=1)
    height, width = around.shape[1:]
    padded = np.pad(around, ((0, 0), (half, half), (half, half)), mode="edge")
    last = 2 * half
    beside = [padded[:, row : row + height, column : column + width] for row in (0, last) for column in (0, last)]
    return np.asarray(np.maximum.reduce([around, *beside]) / np.float32(CALM_VARIANCE_SHARE))


def _limited_differences(
    noisy: FloatArray, result: FloatArray, limits: FloatArray
) -> Iterator[tuple[slice, FloatArray]]:
    """Lines and their differences, which are cut off at the `limits` of their squares."""
    for lines, difference, _ in _difference_strips(noisy, result):
        rows = slice(lines.start // SQUARE_SIDE, -(-lines.stop // SQUARE_SIDE))
        most = limits[:, rows].repeat(SQUARE_SIDE, axis=1).repeat(SQUARE_SIDE, axis=2)
        yield lines, np.clip(difference, -most, most)


def _energy(cells: Iterable[FloatArray]) -> FloatArray:
    """Variance around every cell, mean over the channels, from the values in cells, strip by strip.

    Without the mean, which is no detail, and which `local_means` sees to.
    """
    sums = [(np.square(part).mean((0, -1)), part.mean(-1)) for part in cells]
    squares = _smooth(np.concatenate([part for part, _ in sums]))
    means = np.stack([_smooth(mean) for mean in np.concatenate([part for _, part in sums], axis=1)])
    return np.asarray(squares - np.square(means).mean(0), np.float32)


def _smooth(cells: FloatArray) -> FloatArray:
    """Each cell with a quarter of what lies on both sides of it, along both axes."""
    padded = np.pad(cells, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4)


def _interpolated(cells: FloatArray, lines: slice, width: int) -> FloatArray:
    """Values of cells at the pixels of some lines, linear in between."""

    def between(positions: NDArray[np.integer], count: int) -> tuple[NDArray[np.integer], FloatArray]:
        place = np.clip((positions + 0.5) / CELL_SIDE - 0.5, 0, count - 1)
        first = np.minimum(place.astype(int), max(0, count - 2))
        return first, np.asarray(place - first, np.float32)

    row, down = between(np.arange(lines.start, lines.stop), cells.shape[0])
    column, right = between(np.arange(width), cells.shape[1])
    rows = cells[row] + down[:, None] * (cells[np.minimum(row + 1, len(cells) - 1)] - cells[row])
    return np.asarray(rows[:, column] + right * (rows[:, np.minimum(column + 1, cells.shape[1] - 1)] - rows[:, column]))
