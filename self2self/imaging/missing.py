"""Pixels that were not measured: fill them for the network, and find the part of an image that tells of its noise.

A map of missing pixels, bool (H, W), goes with an image from its reader to its writer; None stands for none missing.
They take part in no statistics and in no loss, and the writer gives them their stored values back. The network still
needs values there, which add no edge and look as noisy as the rest: `fill`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise import CLIP_DEVIATIONS, LARGEST_SIDE, robust_scale

BoolArray = NDArray[np.bool_]
Plane = NDArray[np.float64]

LARGEST_MISSING_SHARE = 0.05
"""Largest share of missing pixels in a part of an image that tells of its noise, where the image has such a part."""
PART_SCALES = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.15)
"""Sides of such a part that are tried, as shares of the largest one."""
SMALLEST_PART = 24
"""Smallest side of such a part in pixels, where the image is as large."""
NOISE_DEPTH = 8
"""Distance from measured pixels at which a filling is as noisy as they are, in pixels."""
POSITIONS = 17
"""Positions of such a part that are tried along each axis."""


def fill(plane: Plane, missing: BoolArray) -> Plane:
    """Fill missing pixels smoothly, with noise like that of the measured ones.

    A network judges how noisy an image is by all of it. Beside a large area without noise, it takes the noise of the
    rest for texture. Next to measured pixels the smooth values tell it more, so the noise sets in with the distance
    (`NOISE_DEPTH`).

    Args:
        plane: float64 (H, W); values at missing pixels may be anything finite.
        missing: bool (H, W).

    Returns:
        a filled copy, whose values lie between the least and the greatest measured one; 0 everywhere if all pixels are
        missing.
    """
    filled = smooth_fill(plane, missing)
    known = ~missing
    inner = known[1:-1, 1:-1] & known[:-2, 1:-1] & known[2:, 1:-1] & known[1:-1, :-2] & known[1:-1, 2:]
    if not missing.any() or not inner.any():
        return filled
    around = (plane[:-2, 1:-1] + plane[2:, 1:-1] + plane[1:-1, :-2] + plane[1:-1, 2:])[inner] / 4
    # The mean of four pixels adds a quarter to the variance of one.
    noise = (plane[1:-1, 1:-1][inner] - around) * np.sqrt(0.8)
    # Differences at edges are no noise.
    limit = CLIP_DEVIATIONS * robust_scale(noise)
    drawn = np.random.default_rng(0).choice(np.clip(noise, -limit, limit), int(np.count_nonzero(missing)))
    drawn *= _depth(missing)[missing]
    filled[missing] = np.clip(filled[missing] + drawn, plane[known].min(), plane[known].max())
    return filled


def _depth(missing: BoolArray) -> Plane:
    """How far each missing pixel is from measured ones, from 0 to 1 at `NOISE_DEPTH` pixels."""
    depth = np.zeros(missing.shape)
    inside = missing
    for _ in range(NOISE_DEPTH):
        depth += inside
        inside = constant_around(inside[..., None]) & inside
    return depth / NOISE_DEPTH


def smooth_fill(plane: Plane, missing: BoolArray) -> Plane:
    """Fill missing pixels smoothly from measured ones, at each place from the nearest, as far away as they are.

    The plane is halved until every pixel has a measured one below it; then each level takes what it misses from the
    next coarser one, interpolated linearly. Every value is a weighted mean of measured ones (the pull-push method of
    Gortler et al. 1996, "The lumigraph"). Time and memory are a few times those of the plane.

    Args:
        plane: (H, W), float; values at missing pixels may be anything.
        missing: bool (H, W).

    Returns:
        a filled copy; 0 everywhere if all pixels are missing, and `plane` itself if none is.
    """
    if not missing.any():
        return plane
    if missing.all():
        return np.zeros_like(plane)
    counts = _sums_of_four((~missing).astype(plane.dtype))
    means = _sums_of_four(np.where(missing, 0, plane)) / np.maximum(counts, 1)
    coarse = smooth_fill(means, counts == 0)
    height, width = plane.shape
    return np.where(missing, _doubled(_doubled(coarse, 0)[:height], 1)[:, :width], plane)


def _sums_of_four(plane: Plane) -> Plane:
    """The sum of every 2x2 pixels; an odd last row or column counts as followed by zeros."""
    for axis in (0, 1):
        plane = np.add.reduceat(plane, np.arange(0, plane.shape[axis], 2), axis=axis)
    return plane


def _doubled(plane: Plane, axis: int) -> Plane:
    """Twice as many samples along `axis`, interpolated linearly."""
    lines = np.moveaxis(plane, axis, 0)
    result = np.empty((2 * len(lines), *lines.shape[1:]), plane.dtype)
    result[::2], result[1::2] = 0.75 * lines, 0.75 * lines
    result[2::2] += 0.25 * lines[:-1]
    result[1:-1:2] += 0.25 * lines[1:]
    result[0] += 0.25 * lines[0]
    result[-1] += 0.25 * lines[-1]
    return np.moveaxis(result, 0, axis)


def measured_window(missing: BoolArray | None, shape: tuple[int, ...], side: int = LARGEST_SIDE) -> tuple[slice, slice]:
    """The rows and columns of the part of an image that tells of its noise.

    Args:
        missing: bool (H, W), or None.
        shape: (H, W) of the image.
        side: largest side of the part.

    Returns:
        the middle if nothing is missing. Otherwise the largest part that misses next to nothing, nearest the middle;
        or the part that misses least.
    """
    sides = [min(side, size) for size in shape]
    if missing is None:
        starts = [(size - part) // 2 for size, part in zip(shape, sides, strict=True)]
        return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])
    # Entry (i, j) is the number of missing pixels above row i and left of column j.
    table = np.pad(np.cumsum(np.cumsum(missing, 0, np.int32), 1), ((1, 0), (1, 0)))
    best: tuple[tuple[float, ...], tuple[slice, slice]] | None = None
    for height in _part_sides(sides[0]):
        for width in _part_sides(sides[1]):
            top, left = _positions(shape[0] - height)[:, None], _positions(shape[1] - width)[None]
            inside = table[top + height, left + width] - table[top, left + width]
            shares = (inside - table[top + height, left] + table[top, left]) / (height * width)
            distance = np.abs(2 * top + height - shape[0]) + np.abs(2 * left + width - shape[1])
            nearest = np.lexsort((distance.ravel(), np.maximum(shares, LARGEST_MISSING_SHARE).ravel()))[0]
            row, column = np.unravel_index(nearest, shares.shape)
            rank = (-max(float(shares[row, column]), LARGEST_MISSING_SHARE), height * width)
            if best is None or rank > best[0]:
                begin = int(top[row, 0]), int(left[0, column])
                best = rank, (slice(begin[0], begin[0] + height), slice(begin[1], begin[1] + width))
    assert best is not None  # noqa: S101 - there is always a part
    return best[1]


def _part_sides(largest: int) -> list[int]:
    return sorted({max(int(scale * largest), min(SMALLEST_PART, largest)) for scale in PART_SCALES}, reverse=True)


def _positions(last: int) -> NDArray[np.intp]:
    """Starts from 0 to `last`, evenly spread."""
    return np.unique(np.linspace(0, last, min(POSITIONS, last + 1)).astype(np.intp))


def measured_part(
    pixels: NDArray[np.float32], missing: BoolArray | None, side: int = LARGEST_SIDE
) -> NDArray[np.float32]:
    """A view of the part of `pixels` (C, H, W) that tells of its noise; arguments as for `measured_window`."""
    rows, columns = measured_window(missing, pixels.shape[1:], side)
    return pixels[:, rows, columns]


def share_to_learn_from(pixels: NDArray[np.float32], missing: BoolArray | None) -> float:
    """Share of the pixels of an image (C, H, W) that are measured and differ from one of their neighbours."""
    telling = ~constant_around(np.moveaxis(pixels, 0, 2))
    return float(np.mean(telling if missing is None else telling & ~missing))


def constant_around(values: NDArray[Any]) -> BoolArray:
    """Where a pixel equals its eight neighbours exactly.

    Args:
        values: (H, W, C), any dtype; outside, the border repeats.

    Returns:
        bool (H, W).
    """
    beside = in_all_channels(values[:, 1:] == values[:, :-1])
    below = in_all_channels(values[1:] == values[:-1])
    rows = _both(beside, 1)
    return np.asarray(_both(below, 0) & _neighbours_all(rows))


def in_all_channels(where: BoolArray) -> BoolArray:
    """`where` (H, W, C) reduced to (H, W): true where all channels are.

    NumPy's `all` along a short last axis takes ten times as long.
    """
    return np.asarray(np.logical_and.reduce([where[..., channel] for channel in range(where.shape[2])]))


def _both(equal: BoolArray, axis: int) -> BoolArray:
    """Whether a pixel equals the pixels before and after it; `equal` compares each pixel with the next."""
    pads = [(0, 0), (0, 0)]
    pads[axis] = (1, 1)
    padded = np.pad(equal, pads, constant_values=True)
    return padded[1:] & padded[:-1] if axis == 0 else padded[:, 1:] & padded[:, :-1]


def _neighbours_all(where: BoolArray) -> BoolArray:
    """Whether a pixel and the pixels above and below it are all true."""
    padded = np.pad(where, ((1, 1), (0, 0)), constant_values=True)
    return padded[:-2] & padded[1:-1] & padded[2:]
