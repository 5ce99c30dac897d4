"""Mosaics of colour filters: images of one channel in which every second pixel is of another colour.

A camera's sensor has a filter over every pixel, in a pattern of 2x2 (Bayer): two of green, on a diagonal, one of red,
one of blue. To a network such an image is a texture of period two. Side by side, the four planes of one colour each are
four ordinary images. Mirrored where they meet, they are one image without seams, and a network for grey images
denoises it: `arranged`. No pixel is lost, and `restored` puts all of them back.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.noise import center_crop

T = TypeVar("T", bound=np.generic)

BLOCK_SIDE = 16
"""Side of the blocks in which the means of the four planes are compared, in pixels."""
LEAST_BLOCKS = 9
"""Smallest number of blocks that show whether an image is a mosaic."""
LEAST_RATIO = 4.0
"""Smallest ratio of the differences between neighbouring planes to those between the two on a diagonal, in a mosaic.
In any other image, pixels on a diagonal differ at least about as much, so the ratio is about 1 or less."""
LEAST_SHARE = 0.4
"""Smallest share of these differences in those of neighbouring pixels, in a mosaic. Colours that were interpolated from
a mosaic keep a trace of it, which is a small share."""

LEAST_VALUES = 17
"""Smallest number of different values in each plane of a mosaic. Ordered dithers, whose period is two pixels as well,
have 16 levels or fewer wherever they look like a mosaic; a sensor tells more values apart unless it saw next to no
light."""


def _order(length: int) -> NDArray[np.intp]:
    """Even positions in their order, then odd ones backwards."""
    positions = np.arange(length)
    return np.concatenate([positions[::2], positions[1::2][::-1]])


def arranged(values: NDArray[T]) -> NDArray[T]:
    """The four planes of a mosaic (H, W, ...) side by side, as one image of the same shape, in a copy."""
    return values[_order(values.shape[0])][:, _order(values.shape[1])]


def restored(values: NDArray[T]) -> NDArray[T]:
    """The mosaic of which `values` (H, W, ...) is `arranged`; a copy."""
    result = np.empty_like(values)
    result[np.ix_(_order(values.shape[0]), _order(values.shape[1]))] = values
    return result


def mosaic_ratio(plane: NDArray[np.generic]) -> tuple[float, float]:
    """How much more neighbouring planes of 2x2 differ than the two planes on a diagonal that are most alike.

    Args:
        plane: (H, W), finite.

    Returns:
        the ratio of mean squared differences of block means, and the share of them in the mean squared difference of
        neighbouring pixels; both 0 if the image is too small or the planes do not differ.
    """
    middle = center_crop(plane[None])[0].astype(np.float64)
    rows, columns = (side // BLOCK_SIDE for side in middle.shape)
    if rows * columns < LEAST_BLOCKS:
        return 0.0, 0.0
    blocks = middle[: rows * BLOCK_SIDE, : columns * BLOCK_SIDE]
    # Weighted so, the means of all four planes have the same centre, and a slope of the image counts for nothing.
    window = np.hanning(BLOCK_SIDE + 2)[1:-1].reshape(-1, 2)
    window = window / window.sum(0)
    cells = np.einsum(
        "aibcjd,ib,jd->abcd", blocks.reshape(rows, BLOCK_SIDE // 2, 2, columns, BLOCK_SIDE // 2, 2), window, window
    )
    (upper_left, upper_right), (lower_left, lower_right) = (
        (cells[:, down, :, 0], cells[:, down, :, 1]) for down in (0, 1)
    )

    def difference(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        return float(np.square(one - other).mean())

    diagonal = min(difference(upper_left, lower_right), difference(upper_right, lower_left))
    beside = min(
        difference(upper_left, upper_right) + difference(lower_left, lower_right),
        difference(upper_left, lower_left) + difference(upper_right, lower_right),
    )
    if beside == 0:
        return 0.0, 0.0
    pixels = min(float(np.square(np.diff(middle, axis=axis)).mean()) for axis in (0, 1))
    return (beside / 2 / diagonal if diagonal > 0 else np.inf), beside / 2 / pixels if pixels > 0 else 0.0


def is_mosaic(plane: NDArray[np.generic]) -> bool:
    """Whether an image of one channel (H, W) is a mosaic of colour filters."""
    ratio, share = mosaic_ratio(plane)
    return ratio >= LEAST_RATIO and share >= LEAST_SHARE and _has_many_values(plane)


def _has_many_values(plane: NDArray[np.generic]) -> bool:
    middle = center_crop(plane[None])[0]
    planes = (middle[down::2, right::2] for down in (0, 1) for right in (0, 1))
    return all(len(np.unique(part)) >= LEAST_VALUES for part in planes)
