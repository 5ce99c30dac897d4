"""Register an image to another one by parts, in whole pixels.

A shift by whole pixels moves the noise of an image, and does not smooth it, as an interpolation would. First a few
shifts are found that many parts of the image may have: peaks of the correlation of both images, and of parts of them.
Then each place takes one of these shifts: the commonest, unless another fits clearly better. The best of many shifts is
also the one whose noise is by chance most alike.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.smoothing import box_mean, spline_smoothed

FloatArray = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)
Shift = tuple[int, int]
"""(down, right): the pixel (y, x) of one image shows what is at (y + down, x + right) in the other."""

GLOBAL_PEAKS, LOCAL_PEAKS = 2, 8
"""Largest numbers of shifts that are tried: peaks of the correlation of the whole images, and of their parts."""
PART_SIDE = 64
"""Side of the parts whose correlation is computed, in pixels; they overlap by a half."""
SIGNIFICANT_PEAK = 5.0
"""Smallest height of a peak of a correlation that counts, in standard deviations of the correlation."""
WINDOW_RADIUS = 7
"""Radius of the windows in which shifts are compared, in pixels."""
BETTER_BY = 0.5
"""A shift replaces a commoner one where its squared difference is smaller by this share of what noise explains."""
LEAST_SHARE = 1e-6
CALM_QUANTILE = 0.3
"""Quantile of the squared differences that counts as what noise explains."""


def motion(page: FloatArray, other: FloatArray) -> NDArray[np.intp]:
    """Find where `other` shows what each pixel of `page` shows.

    Args:
        page: float32 (C, H, W).
        other: of the same shape; another contrast or brightness does no harm.

    Returns:
        the shift of each pixel, down and right, integers (2, H, W).
    """
    fine = [_detail(image) for image in (page, other)]
    shifts = common_shifts(*fine)
    costs = []
    for shift in shifts:
        moved, inside = shifted(fine[1], shift)
        squares = np.where(inside, np.square(fine[0] - moved), 0)
        share = box_mean(inside.astype(np.float32), WINDOW_RADIUS)
        costs.append(np.where(inside, box_mean(squares, WINDOW_RADIUS) / np.maximum(share, LEAST_SHARE), np.inf))
    order = sorted(range(len(shifts)), key=lambda index: float(np.median(costs[index])))
    explained = float(np.quantile(np.min(costs, axis=0), CALM_QUANTILE))
    best, lowest = np.full(page.shape[1:], order[0]), costs[order[0]].copy()
    for index in order[1:]:
        better = costs[index] < lowest - BETTER_BY * explained
        best[better], lowest[better] = index, costs[index][better]
    return np.moveaxis(np.array(shifts, np.intp)[best], 2, 0)


def moved_by(image: NDArray[T], shifts: NDArray[np.intp]) -> tuple[NDArray[T], NDArray[np.bool_]]:
    """Move each pixel of [..., H, W] by `shifts` of `motion`.

    Returns:
        the moved image, with the value of the nearest pixel where it has none; and where it has one, bool (H, W).
    """
    height, width = image.shape[-2:]
    rows, columns = np.arange(height)[:, None] + shifts[0], np.arange(width) + shifts[1]
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return image[..., np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)], inside


def shifted(image: FloatArray, shift: Shift) -> tuple[FloatArray, NDArray[np.bool_]]:
    """The image [..., H, W] moved by `shift`, 0 where it has no pixel; and where it has one, bool (H, W)."""
    height, width = image.shape[-2:]
    down, right = shift
    moved, inside = np.zeros_like(image), np.zeros((height, width), bool)
    rows, columns = (slice(max(0, -by), max(0, min(side, side - by))) for by, side in ((down, height), (right, width)))
    from_rows, from_columns = (
        slice(max(0, by), max(0, min(side, side + by))) for by, side in ((down, height), (right, width))
    )
    moved[..., rows, columns] = image[..., from_rows, from_columns]
    inside[rows, columns] = True
    return moved, inside


def common_shifts(page: FloatArray, other: FloatArray) -> list[Shift]:
    """The shifts that the whole image or some of its parts may have; no shift is one of them.

    Args:
        page: (H, W), detail of an image without its coarse part.
        other: the same of the other image.
    """
    whole = _peaks(_correlation(page[None], other[None])[0], GLOBAL_PEAKS)
    found: list[Shift] = [(0, 0), *whole]
    votes: Counter[Shift] = Counter()
    for start in dict.fromkeys([(0, 0), *whole[:1]]):
        moved, _ = shifted(other, start)
        correlations = _correlation(_parts(page), _parts(moved))
        for correlation in correlations:
            for down, right in _peaks(correlation, 1):
                votes[(down + start[0], right + start[1])] += 1
    found += [shift for shift, _ in votes.most_common(LOCAL_PEAKS)]
    limits = [side // 2 for side in page.shape]
    return [s for s in dict.fromkeys(found) if abs(s[0]) <= limits[0] and abs(s[1]) <= limits[1]]


def _detail(image: FloatArray) -> FloatArray:
    """The mean channel of (C, H, W), slightly smoothed, without its coarse part: (H, W)."""
    plane = spline_smoothed(image.mean(axis=0), 0)
    coarse = plane
    for level in (1, 2, 3):
        coarse = spline_smoothed(coarse, level)
    return plane - coarse


def _parts(plane: FloatArray) -> FloatArray:
    """Overlapping parts of (H, W): (n, side, side)."""
    sides = [min(PART_SIDE, side) for side in plane.shape]
    starts = [
        np.unique(np.linspace(0, whole - side, max(1, -(-2 * (whole - side) // side) + 1)).astype(int))
        for whole, side in zip(plane.shape, sides, strict=True)
    ]
    return np.stack([plane[y : y + sides[0], x : x + sides[1]] for y in starts[0] for x in starts[1]])


def _correlation(first: FloatArray, second: FloatArray) -> FloatArray:
    """The correlation of pairs of planes (n, H, W) at every shift, in its own standard deviations; ends are faded."""
    height, width = first.shape[1:]
    window = np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]).astype(np.float32)
    spectra = [np.fft.rfft2(planes * window) for planes in (first, second)]
    correlation = np.fft.irfft2(np.conj(spectra[0]) * spectra[1], (height, width)).astype(np.float32)
    deviation = correlation.std(axis=(1, 2), keepdims=True)
    return np.asarray(correlation / np.maximum(deviation, np.finfo(np.float32).tiny))


def _peaks(correlation: FloatArray, count: int) -> list[Shift]:
    """The shifts of up to `count` highest peaks of (H, W) that are significant."""
    height, width = correlation.shape
    left = correlation.copy()
    found = []
    for _ in range(count):
        place = int(left.argmax())
        if left.flat[place] < SIGNIFICANT_PEAK:
            break
        row, column = divmod(place, width)
        found.append(((row + height // 2) % height - height // 2, (column + width // 2) % width - width // 2))
        rows, columns = (np.arange(at - 1, at + 2) % side for at, side in ((row, height), (column, width)))
        left[np.ix_(rows, columns)] = -np.inf
    return found
