"""Treat outliers, values outside [0, 1] such as bright stars and hot pixels.

The network has not learned such values: one of them can spoil its prediction, at that pixel and elsewhere. Therefore
the network gets the nearest value of the range instead (`clip_to_range`). The part outside the range returns to the
result where the prediction is near that end of the range, as it is for a star (`restore_outliers`).

A hot pixel is unlike its surroundings. It would show in the predictions for itself and for its neighbours, so the
median of its neighbours replaces it before any other step (`remove_hot_pixels`).

The same holds for impulses, wrong values inside the range, where they are the noise of an image (`remove_impulses`):
without them, hardly any noise is left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

NO_SUPPORT, FULL_SUPPORT = 0.5, 0.75
"""Position of a prediction between the far end of the range (0) and the end that a noisy value exceeds (1). Up to the
first number the prediction does not support the outlier; from the second number on it fully does. The support rises
smoothly in between."""

LINES_PER_STRIP = 64
"""Number of image lines that are processed at a time, so that temporary arrays stay small."""

HOT_PIXEL_DISTANCE = 1.0
"""Smallest distance of a hot pixel from [0, 1]; a nearer value may be noise of few photons."""
LARGEST_NEIGHBOUR_SHARE = 0.15
"""A value above its surroundings is isolated if all its neighbours except one rise by less than this share of its own
rise; the same holds for a value below its surroundings. The exception may be another hot pixel. The neighbours of a
point of light rise by more than this share if its full width at half maximum is 1.3 pixels or more (Gaussian), which
is true for most lenses."""

IMPULSE_DISTANCE = 0.08
"""Smallest mean distance of an impulse from the two neighbours that are most like it. Pixels of edges and lines have
two that are nearer."""
LIKE_IMPULSES = 0.2
"""Impulses are brighter and darker than their surroundings: the rarer of both kinds has at least this share. Stars and
hot pixels are bright alone."""

NEIGHBOUR_OFFSETS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)


def clip_to_range(pixels: FloatArray) -> FloatArray:
    """Return `pixels` clipped to [0, 1]; `pixels` itself if no value lies outside."""
    if pixels.size and (pixels.min() < 0 or pixels.max() > 1):
        return np.clip(pixels, 0, 1)
    return pixels


def isolated_pixels(
    plane: NDArray[Any], rows: NDArray[np.integer], columns: NDArray[np.integer]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Find out which of some pixels are unlike all their neighbours, as hot and dead pixels are.

    Args:
        plane: (H, W), at least two pixels a side, any real dtype.
        rows: [n], rows of the pixels to check.
        columns: [n], columns of the same pixels.

    Returns:
        [n] whether each pixel is isolated, and [n] the median of its eight neighbours, mirrored at the borders.
    """
    height, width = plane.shape
    around = np.empty((len(NEIGHBOUR_OFFSETS), len(rows)))
    for values, (down, right) in zip(around, NEIGHBOUR_OFFSETS, strict=True):
        values[:] = plane[_reflect_index(rows + down, height), _reflect_index(columns + right, width)]
    around.sort(axis=0)
    # A rise is measured from the second lowest neighbour, a fall from the second highest. The median would not do,
    # because half of a star's neighbours belong to the star.
    low, high = around[1], around[-2]
    values = plane[rows, columns].astype(np.float64)
    alone = (high - low < LARGEST_NEIGHBOUR_SHARE * (values - low)) | (
        high - low < LARGEST_NEIGHBOUR_SHARE * (high - values)
    )
    return alone, (around[3] + around[4]) / 2


def _reflect_index(places: NDArray[np.integer], side: int) -> NDArray[np.integer]:
    return np.asarray(side - 1 - np.abs(side - 1 - np.abs(places)))


def remove_hot_pixels(pixels: FloatArray, *, in_place: bool = False) -> FloatArray:
    """Replace each hot pixel, an isolated value far outside [0, 1], by the median of its neighbours, clipped to [0, 1].

    Args:
        pixels: float32 (C, H, W).
        in_place: whether `pixels` may be changed.

    Returns:
        a changed copy; `pixels` itself if it has no hot pixel, or if `in_place` is set.
    """
    found = []
    for channel, plane in enumerate(pixels):
        for top in range(0, plane.shape[0], LINES_PER_STRIP):
            lines = plane[top : top + LINES_PER_STRIP]
            # This shortcut saves time, because most images have no such value.
            if min(plane.shape) < 2 or (lines.min() >= -HOT_PIXEL_DISTANCE and lines.max() <= 1 + HOT_PIXEL_DISTANCE):
                continue
            rows, columns = np.nonzero((lines < -HOT_PIXEL_DISTANCE) | (lines > 1 + HOT_PIXEL_DISTANCE))
            alone, median = isolated_pixels(plane, rows + top, columns)
            found.append((channel, rows[alone] + top, columns[alone], np.clip(median[alone], 0, 1)))
    if not any(len(median) for *_, median in found):
        return pixels
    cleaned = pixels if in_place else pixels.copy()
    for channel, rows, columns, median in found:
        cleaned[channel, rows, columns] = median
    return cleaned


def remove_impulses(pixels: FloatArray, *, in_place: bool = False) -> FloatArray:
    """Replace each impulse by the median of its neighbours.

    A value is an impulse if it is far even from the two neighbours that are most like it (after the rank-ordered
    differences of Garnett et al. 2005, "A universal noise removal algorithm with an impulse detector").

    Args:
        pixels: float32 (C, H, W), at least two pixels a side; in [0, 1] except for outliers.
        in_place: whether `pixels` may be changed.
    """
    result = pixels if in_place else pixels.copy()
    height, width = pixels.shape[1:]
    columns = np.arange(width)
    for plane, out in zip(pixels, result, strict=True):
        padded = np.pad(plane, 1, mode="reflect")
        for top in range(0, height, LINES_PER_STRIP):
            rows = np.arange(top, min(top + LINES_PER_STRIP, height))
            values = padded[np.ix_(rows + 1, columns + 1)]
            around = np.stack(
                [padded[np.ix_(rows + 1 + down, columns + 1 + right)] for down, right in NEIGHBOUR_OFFSETS]
            )
            nearest = np.partition(np.abs(around - values), 1, axis=0)[:2].mean(axis=0)
            wrong = nearest > IMPULSE_DISTANCE
            out[top : top + LINES_PER_STRIP][wrong] = np.median(around[:, wrong], axis=0)
    return result


def has_impulses(pixels: FloatArray, cleaned: FloatArray) -> bool:
    """Whether what `remove_impulses` replaced in `pixels` is brighter as well as darker than its surroundings."""
    brighter, darker = np.count_nonzero(pixels > cleaned), np.count_nonzero(pixels < cleaned)
    return bool(min(brighter, darker) > LIKE_IMPULSES * (brighter + darker))


def remove_outliers(pixels: FloatArray, *, impulses: bool, in_place: bool = False) -> FloatArray:
    """Replace what a network must not see: hot pixels and, if `impulses` are the noise of the image, those.

    Args:
        pixels: float32 (C, H, W).
        impulses: whether they are (`Recipe.removes_impulses`).
        in_place: whether `pixels` may be changed.

    Returns:
        as `remove_hot_pixels`.
    """
    pixels = remove_hot_pixels(pixels, in_place=in_place)
    return remove_impulses(pixels, in_place=in_place) if impulses else pixels


def blend_noisy_image(prediction: FloatArray, pixels: FloatArray, share: float) -> None:
    """Blend a share of the noisy image, clipped to [0, 1], into `prediction`, in place.

    Args:
        prediction: the network's prediction, float32 (C, H, W).
        pixels: the noisy image, float32 (C, H, W).
        share: weight of the noisy image, from 0 to 1.
    """
    for top in range(0, pixels.shape[1], LINES_PER_STRIP):
        lines = prediction[:, top : top + LINES_PER_STRIP]
        lines += np.float32(share) * (clip_to_range(pixels[:, top : top + LINES_PER_STRIP]) - lines)


def restore_outliers(prediction: FloatArray, pixels: FloatArray, out: FloatArray) -> None:
    """Compute the result from a mean prediction and the noisy image.

    Args:
        prediction: (C, H, W), the network's mean prediction for `clip_to_range(pixels)`; its values are clamped to
            [0, 1].
        pixels: the noisy image, float32 (C, H, W).
        out: float32 (C, H, W) for the result, which may be `pixels` itself. Values of the result lie in [0, 1], or
            outside it between the prediction and the noisy value.
    """
    for top in range(0, pixels.shape[1], LINES_PER_STRIP):
        lines = slice(top, top + LINES_PER_STRIP)
        clamped = np.clip(prediction[:, lines], 0, 1)
        noisy = pixels[:, lines]
        # This shortcut saves time, because most images have no such value.
        if noisy.min() < 0 or noisy.max() > 1:
            beyond = noisy - np.clip(noisy, 0, 1)
            towards = np.where(beyond > 0, clamped, 1 - clamped)
            share = np.clip((towards - NO_SUPPORT) / (FULL_SUPPORT - NO_SUPPORT), 0, 1)
            clamped += beyond * (share * share * (3 - 2 * share))
        out[:, lines] = clamped
