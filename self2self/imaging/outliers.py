"""Values beyond [0, 1], such as bright stars and hot pixels, which a network has not learnt to see.

A network's prediction for such a value need not be an image at all, and not at that pixel alone. The network therefore
sees the nearest value of the range (`clip_to_range`). What lay beyond the range returns to the result
(`restore_outliers`) where the prediction is near that end of the range, as it is for a star.

A hot pixel is unlike its surroundings. It would show in the predictions for itself and for its neighbours, so it is
replaced before anything else (`remove_hot_pixels`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

NO_SUPPORT, FULL_SUPPORT = 0.5, 0.75
"""Of the way to an end of the range: predictions up to the first do not support a value beyond it, and from the second
on they fully do; the share rises smoothly in between."""

LINES_PER_STRIP = 64
"""Lines that are worked on at a time."""

HOT_PIXEL_DISTANCE = 1.0
"""How far beyond [0, 1] a hot pixel is, at least: what is nearer may be one of few photons."""
LARGEST_NEIGHBOUR_SHARE = 0.15
"""A value that rises above its surroundings stands alone if all its neighbours but one rise by less than this share of
it; and the same downwards. Those of a point of light rise by more if it is 1.3 pixels wide at half of its height
(Gaussian), as through most lenses. The one may be another hot pixel."""

NEIGHBOUR_OFFSETS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)


def clip_to_range(pixels: FloatArray) -> FloatArray:
    """`pixels` with the nearest value of [0, 1] in the place of those beyond; itself where there are none."""
    if pixels.size and (pixels.min() < 0 or pixels.max() > 1):
        return np.clip(pixels, 0, 1)
    return pixels


def isolated_pixels(
    plane: NDArray[Any], rows: NDArray[np.integer], columns: NDArray[np.integer]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which of some pixels have no part in their surroundings, as hot and dead ones.

    Args:
        plane: (H, W), at least two a side, any real dtype.
        rows: [n], of the pixels that are asked about.
        columns: [n], of the same.

    Returns:
        [n] for each whether it stands alone, and [n] the median of its eight neighbours, mirrored at the borders.
    """
    height, width = plane.shape
    around = np.empty((len(NEIGHBOUR_OFFSETS), len(rows)))
    for values, (down, right) in zip(around, NEIGHBOUR_OFFSETS, strict=True):
        values[:] = plane[_reflect_index(rows + down, height), _reflect_index(columns + right, width)]
    around.sort(axis=0)
    # The surroundings are what is second from the other end: of the neighbours of a star, half are part of it.
    low, high = around[1], around[-2]
    values = plane[rows, columns].astype(np.float64)
    alone = (high - low < LARGEST_NEIGHBOUR_SHARE * (values - low)) | (
        high - low < LARGEST_NEIGHBOUR_SHARE * (high - values)
    )
    return alone, (around[3] + around[4]) / 2


def _reflect_index(places: NDArray[np.integer], side: int) -> NDArray[np.integer]:
    return np.asarray(side - 1 - np.abs(side - 1 - np.abs(places)))


def remove_hot_pixels(pixels: FloatArray, *, in_place: bool = False) -> FloatArray:
    """`pixels` with the median of its surroundings, within [0, 1], for each value far beyond it that stands alone.

    Args:
        pixels: float32 (C, H, W).
        in_place: `pixels` may be changed.

    Returns:
        `pixels` itself where there are none, or with `in_place`.
    """
    found = []
    for channel, plane in enumerate(pixels):
        for top in range(0, plane.shape[0], LINES_PER_STRIP):
            lines = plane[top : top + LINES_PER_STRIP]
            # Most images have no such value.
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


def blend_noisy_image(prediction: FloatArray, pixels: FloatArray, share: float) -> None:
    """Change `prediction` to a mixture of which `share` is the noisy image `pixels`, as far as that is in [0, 1].

    Args:
        prediction: float32 (C, H, W), of the network.
        pixels: float32 (C, H, W).
        share: from 0 to 1.
    """
    for top in range(0, pixels.shape[1], LINES_PER_STRIP):
        lines = prediction[:, top : top + LINES_PER_STRIP]
        lines += np.float32(share) * (clip_to_range(pixels[:, top : top + LINES_PER_STRIP]) - lines)


def restore_outliers(prediction: FloatArray, pixels: FloatArray, out: FloatArray) -> None:
    """The result from a mean prediction and the noisy image.

    Args:
        prediction: (C, H, W), of the network for `clip_to_range(pixels)`; its values are clamped to [0, 1].
        pixels: float32 (C, H, W), the noisy image.
        out: the same, for the result, whose values lie in [0, 1] and the range of `pixels`. May be `pixels` itself.
    """
    for top in range(0, pixels.shape[1], LINES_PER_STRIP):
        lines = slice(top, top + LINES_PER_STRIP)
        clamped = np.clip(prediction[:, lines], 0, 1)
        noisy = pixels[:, lines]
        # Most images have no such value.
        if noisy.min() < 0 or noisy.max() > 1:
            beyond = noisy - np.clip(noisy, 0, 1)
            towards = np.where(beyond > 0, clamped, 1 - clamped)
            share = np.clip((towards - NO_SUPPORT) / (FULL_SUPPORT - NO_SUPPORT), 0, 1)
            clamped += beyond * (share * share * (3 - 2 * share))
        out[:, lines] = clamped
