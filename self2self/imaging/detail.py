"""Restore lost detail: where the denoising removed more than noise, return the excess to the result.

The difference between the noisy image and the result should be noise (Buades et al. 2005, "A review of image denoising
algorithms", call this difference the method noise). If the image has a lattice or a fabric that is finer than the
network resolves, the difference contains it, too. Where noise is weak, this loss is the visible effect of denoising.

The calmest squares of the difference show the strength of the noise. Two estimates are made for each square: from
squares of similar brightness, and from squares nearby on any side. The larger one counts. Where the difference has more
energy than the noise, the result gets back the share of the difference that is not noise, as in a Wiener filter.

Single pixels with a large difference hardly count, and stay removed. Nothing is restored in three cases, in which calm
squares do not show the noise of other squares: noise that is correlated between neighbours, noise that depends on the
signal, and noise of impulses or single photons, which the calmest of many squares do not have at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from self2self.imaging.missing import measured_part, smooth_fill
from self2self.imaging.noise import NORMAL_MEDIAN, measure_noise
from self2self.imaging.noise_curve import by_brightness
from self2self.imaging.outliers import LINES_PER_STRIP

FloatArray = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)

SQUARE_SIDE = 8
"""Side of the squares in which noise is measured, in pixels. `LINES_PER_STRIP` is a multiple of it."""
CELL_SIDE = 4
"""Side of the cells in which energy is measured, in pixels. Neighbouring cells count, too, about as with a Gaussian of
three pixels."""
MINIMUM_SQUARES_PER_GROUP = 16
"""Smallest number of squares in a group of similar brightness."""
NEIGHBOURHOOD_SIDE = 7
"""Side of the neighbourhood of a square, in squares."""
CALM_QUANTILE, CALM_VARIANCE_SHARE = 0.25, 0.86
"""A quarter of the squares count as calm. The largest variance among them is 0.86 times the variance of the noise: this
quantile of the variance of 64 values, for noise that is hardly correlated between neighbours."""
OUTLIER_DEVIATIONS = 4.0
"""Differences are limited to this many standard deviations of the noise, or robust standard deviations of the square if
those are larger."""
LARGEST_KURTOSIS = 3.4
"""Largest median over all squares of the kurtosis of their differences (fourth moment over squared variance). Up to
this value, calm squares show the noise of the other squares. Normal noise has 2.7 to 3.1, with lost texture up to 3.3;
noise of few photons has 3.6 and more, impulses 20 (dev/log)."""
ENERGY_MARGIN = 0.25
"""Share by which the energy may exceed that of the noise by chance (dev/log)."""


def restore_detail(
    result: FloatArray, noisy: FloatArray, *, even_noise: bool = False, missing: NDArray[np.bool_] | None = None
) -> None:
    """Return lost detail of `noisy` to `result`, in place.

    Values in [0, 1] stay in this range, and values outside it do not change. Nothing changes in images smaller than a
    square, or if the noise is correlated, depends on the signal, or comes in impulses or single photons.

    Args:
        result: float32 (C, H, W).
        noisy: the image that `result` was computed from, float32 of the same shape.
        even_noise: whether the noise is known not to depend on the signal, even if the image looks like it.
        missing: bool (H, W), pixels of `noisy` that were not measured and are filled smoothly; None for none.
    """
    if min(result.shape[1:]) < SQUARE_SIDE:
        return
    kind = measure_noise(measured_part(noisy, missing))
    if kind.correlated or (kind.signal_dependent and not even_noise):
        return
    statistics = _square_statistics(noisy, result)
    if missing is not None:
        _fill_touched_squares(statistics, missing)
    variances, scales, brightness, kurtoses = statistics
    if np.median(kurtoses) > LARGEST_KURTOSIS:
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
    """Yield strips: their lines, the difference (reflected to whole squares) and the result, both clamped to [0, 1]."""
    height = result.shape[1]
    for top in range(0, height, LINES_PER_STRIP):
        lines = slice(top, min(top + LINES_PER_STRIP, height))
        clamped = np.clip(result[:, lines], 0, 1)
        yield lines, _to_whole_squares(np.clip(noisy[:, lines], 0, 1) - clamped), clamped


def _to_whole_squares(values: NDArray[T]) -> NDArray[T]:
    """Extend (C, lines, W) to whole squares by reflection below and at the right."""
    below, right = (-side % SQUARE_SIDE for side in values.shape[1:])
    return np.pad(values, ((0, 0), (0, below), (0, right)), mode="symmetric")


def _cells(values: NDArray[T], side: int) -> NDArray[T]:
    """Rearrange (C, H, W) to (C, H / side, W / side, side²)."""
    channels, height, width = values.shape
    cut = values.reshape(channels, height // side, side, width // side, side).swapaxes(2, 3)
    return cut.reshape(channels, height // side, width // side, side * side)


def _square_statistics(noisy: FloatArray, result: FloatArray) -> FloatArray:
    """Measure every square: variance and robust standard deviation of the difference, brightness, and kurtosis.

    Returns:
        float32 (4, C, rows of squares, columns of squares) in this order.
    """
    parts = []
    for _, difference, clamped in _difference_strips(noisy, result):
        values = _cells(difference, SQUARE_SIDE)
        scales = np.median(np.abs(values), axis=-1) / np.float32(NORMAL_MEDIAN)
        squared = np.square(values - values.mean(-1, keepdims=True))
        variances = squared.mean(-1)
        # A square without any difference gets a kurtosis of 0.
        kurtoses = np.square(squared).mean(-1) / np.maximum(np.square(variances), np.finfo(np.float32).tiny)
        brightness = _cells(_to_whole_squares(clamped), SQUARE_SIDE).mean(-1)
        parts.append(np.stack([variances, scales, brightness, kurtoses]).astype(np.float32))
    return np.concatenate(parts, axis=2)


def _fill_touched_squares(statistics: FloatArray, missing: NDArray[np.bool_]) -> None:
    """Give squares with a missing pixel the statistics of whole ones nearby, in place.

    Args:
        statistics: from `_square_statistics`.
        missing: bool (H, W).
    """
    touched = _cells(_to_whole_squares(missing[None]), SQUARE_SIDE)[0].any(-1)
    for plane in statistics.reshape(-1, *touched.shape):
        plane[:] = smooth_fill(plane, touched)


def _noise_by_brightness(variances: FloatArray, brightness: FloatArray) -> FloatArray:
    """Estimate the variance of the noise in each square from calm squares of similar brightness."""
    noise = np.empty_like(variances)
    for out, values, levels in zip(noise, variances, brightness, strict=True):
        groups = by_brightness(levels.ravel(), MINIMUM_SQUARES_PER_GROUP)
        at = [float(levels.ravel()[group].mean()) for group in groups]
        out[:] = np.interp(levels, at, [float(np.quantile(values.ravel()[group], CALM_QUANTILE)) for group in groups])
    return noise / np.float32(CALM_VARIANCE_SHARE)


def _noise_nearby(variances: FloatArray) -> FloatArray:
    """Estimate the variance of the noise in each square from calm squares of its neighbourhood.

    The largest estimate of five counts: that of the neighbourhood around the square, and those of the four
    neighbourhoods shifted by half their side in both directions. At a border between weak and strong noise, most of the
    neighbourhood around a square may lie on the other side of the border.
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
    """Yield strips: their lines, and their differences limited to ± `limits` of each square."""
    for lines, difference, _ in _difference_strips(noisy, result):
        rows = slice(lines.start // SQUARE_SIDE, -(-lines.stop // SQUARE_SIDE))
        limit = limits[:, rows].repeat(SQUARE_SIDE, axis=1).repeat(SQUARE_SIDE, axis=2)
        yield lines, np.clip(difference, -limit, limit)


def _energy(cells: Iterable[FloatArray]) -> FloatArray:
    """Compute the smoothed variance around every cell, mean over the channels.

    The local mean does not count, because it is no detail, and `local_means` corrects it.

    Args:
        cells: the limited differences strip by strip, as `_cells` arranges them.
    """
    sums = [(np.square(part).mean((0, -1)), part.mean(-1)) for part in cells]
    squares = _smooth(np.concatenate([part for part, _ in sums]))
    means = np.stack([_smooth(mean) for mean in np.concatenate([part for _, part in sums], axis=1)])
    return np.asarray(squares - np.square(means).mean(0), np.float32)


def _smooth(cells: FloatArray) -> FloatArray:
    """Smooth with the weights 1/4, 1/2, 1/4 along both axes."""
    padded = np.pad(cells, 1, mode="edge")
    rows = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return np.asarray((rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 4)


def _interpolated(cells: FloatArray, lines: slice, width: int) -> FloatArray:
    """Interpolate values of cells linearly at the pixels of some lines."""

    def between(positions: NDArray[np.integer], count: int) -> tuple[NDArray[np.integer], FloatArray]:
        place = np.clip((positions + 0.5) / CELL_SIDE - 0.5, 0, count - 1)
        first = np.minimum(place.astype(int), max(0, count - 2))
        return first, np.asarray(place - first, np.float32)

    row, down = between(np.arange(lines.start, lines.stop), cells.shape[0])
    column, right = between(np.arange(width), cells.shape[1])
    rows = cells[row] + down[:, None] * (cells[np.minimum(row + 1, len(cells) - 1)] - cells[row])
    return np.asarray(rows[:, column] + right * (rows[:, np.minimum(column + 1, cells.shape[1] - 1)] - rows[:, column]))
