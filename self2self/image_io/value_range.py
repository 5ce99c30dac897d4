"""Stored values ↔ the network's range.

The map is affine, one offset and one scale for all channels, so that colours keep their ratios and
the way back is exact: float32 has 24 bits, and the arithmetic is done in float64, so every integer
within 2**22 of the offset comes back as itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.image_io.image import Array, Image, ImageRefused
from self2self.imaging.outliers import isolated_pixels

LOW_PERCENTILE, HIGH_PERCENTILE = 0.2, 99.8
"""What counts as the bulk; the usual choice in fluorescence microscopy (CSBDeep uses 99.8 as well)."""

HEADROOM = 0.5
"""How far the network's range goes beyond the bulk on both sides, as a share of the bulk, if the image has such values.

All of Gaussian noise fits in: of five million values, the bulk is 2.9 standard deviations to both sides, and the
farthest lie at 5.2. What is beyond is a hot pixel or a star (`extremes`).
"""

WHITES = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}
"""The value that is white. Signed and 32-bit types have none of their own: their data never use the whole range."""

DARK, LIGHT = 1 / 4, 1 / 2
"""Share of the range from 0 to white that the bulk of a dark image fills at most, and that of a light one at least. A
light one has headroom for all values; in between it grows, so that frames of one scene have about the same range."""

INNER, FAR = 5.0, 2.0
"""Percentile to its counterpart, within which there is no outlier; and how many times as far as these are apart a value
lies from the nearer of them that may be one."""

SAMPLES = 2**22
"""Percentiles are taken of at most about this many values, evenly spread."""

ROWS = 64
"""Rows that are converted at a time."""

LEAST_SCALE = float(np.nextafter(0, 1))
"""Of an image of one value, which has no range: half of it is rounded away."""

EXACT_SPAN = 2**22
"""Integers farther than this from the offset are rounded to float32's 24 bits."""


@dataclass(frozen=True)
class Scale:
    """`stored = pixels * scale + offset`, and what else the values tell.

    Attributes:
        offset, scale: of the map.
        bounds: the extremes of the image, in units of pixels, if beyond [0, 1].
        white: what is white in images of this type, if the values are of that range; None where nobody can tell.
    """

    offset: float
    scale: float
    bounds: tuple[float, float]
    white: float | None


def choose_scale(values: Array, *, whole_range: bool = False) -> Scale:
    """The map for stored `values` (any shape, finite).

    The least and the greatest value become 0 and 1, or the ends of the headroom around the bulk, where those are
    nearer: the bulk is the 0.2th to the 99.8th percentile of what is neither saturated nor a hot pixel. Headroom is
    `HEADROOM` of the bulk, but for values between 0 and the white of their type: it grows from there where the bulk
    fills a quarter of that range, until, where it fills a half, all values are within. Of 8 bits, which are never
    many times as wide as a bulk, all but hot pixels are within.

    Args:
        values: stored.
        whole_range: 0 and white become 0 and 1, as the papers have it and as two files can be compared, unless the
            bulk of a type of more than 8 bits fills less than a quarter of it.

    Raises:
        Refused: maximum minus minimum is over the range of float64.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise ImageRefused(f"has values from {low:g} to {high:g}, which no number type can subtract. Rescale it.")
    sample = _without_outliers(values)
    bulk_low, bulk_high = _bulk(sample)
    span = bulk_high - bulk_low
    white = WHITES.get(values.dtype.name)
    filled = 0.0 if white is None or low < 0 or high > white else span / white
    if filled < DARK and values.dtype != np.uint8:
        white = None
    if whole_range and white is not None:
        return Scale(0.0, white, (0.0, 1.0), white)
    if values.dtype == np.uint8:
        first, last = float(sample.min()), float(sample.max())
        if first == last:
            # All but hot pixels are the same: those are the signal, if there are any.
            first, last = (low, high) if low < high else (0.0, 255.0)
        return _scale_to(first, last - first, low, high, white)
    if low == high:
        # A prediction that is off by less than half of the range comes back as that one value.
        return Scale(low, LEAST_SCALE, (0.0, 1.0), white)
    if span == 0:
        # All but a few values are the same: the few are the signal.
        bulk_low, span = low, high - low
    headroom = HEADROOM + (1 / LIGHT - HEADROOM) * min(max((filled - DARK) / (LIGHT - DARK), 0.0), 1.0)
    first = max(low, bulk_low - headroom * span)
    last = min(high, bulk_low + span + headroom * span)
    # The floor keeps the farthest outlier finite in float32.
    return _scale_to(first, max(last - first, (high - low) * 1e-30), low, high, white)


def _scale_to(first: float, scale: float, low: float, high: float, white: float | None) -> Scale:
    return Scale(first, scale, (_float32((low - first) / scale), _float32((high - first) / scale)), white)


def normalise(values: Array, offset: float, scale: float) -> NDArray[np.float32]:
    """Stored (H, W, C) → float32 (C, H, W)."""
    height, width, channels = values.shape
    pixels = np.empty((channels, height, width), np.float32)
    # In float64 only a few rows at a time: images may have half a gigapixel.
    for first in range(0, height, ROWS):
        block = values[first : first + ROWS].astype(np.float64)
        block -= offset
        block /= scale
        pixels[:, first : first + ROWS] = np.moveaxis(block, 2, 0)
    return pixels


def restore(pixels: Array, offset: float, scale: float, dtype: np.dtype[Any]) -> Array:
    """Float (C, H, W) → stored (H, W, C): the inverse of `normalise`, rounded and clipped to `dtype`."""
    channels, height, width = pixels.shape
    values = np.empty((height, width, channels), dtype)
    if np.issubdtype(dtype, np.integer):
        integers = np.iinfo(dtype)
        low, high = float(integers.min), float(integers.max)
    else:
        floats = np.finfo(dtype)
        low, high = float(floats.min), float(floats.max)
    for first in range(0, height, ROWS):
        block = pixels[:, first : first + ROWS].astype(np.float64)
        block *= scale
        block += offset
        if np.issubdtype(dtype, np.integer):
            np.rint(block, out=block)
        values[first : first + ROWS] = np.moveaxis(np.clip(block, low, high, out=block), 0, 2)
    return values


def to_whole_range(image: Image) -> Image:
    """A copy of `image` as `read_image` gives it with `whole_range`, of floats but for rounding; or itself."""
    if image.white is None or image.range == (0, image.white):
        return image
    pixels = np.empty_like(image.pixels)
    for first in range(0, pixels.shape[1], ROWS):
        rows = slice(first, first + ROWS)
        values = restore(image.pixels[:, rows], image.offset, image.scale, image.dtype)
        pixels[:, rows] = normalise(values, 0.0, image.white)
    return replace(image, pixels=pixels, offset=0.0, scale=image.white)


def _without_outliers(values: Array) -> NDArray[np.float64]:
    """Values of which the bulk tells that of all of them; of 8 bits, the least and the greatest are those of all."""
    flat = values.reshape(-1)
    step = -(-flat.size // SAMPLES)
    # A step that is a multiple of 2 or 3 could visit one channel or one Bayer column only.
    while step > 1 and (step % 2 == 0 or step % 3 == 0):
        step += 1
    sample = flat[::step].astype(np.float64)
    low, high = np.percentile(sample, (INNER, 100 - INNER))
    reach = FAR * (high - low)
    # Where nearly all values are the same, others are few photons.
    if values.ndim != 3 or min(values.shape[:2]) < 2 or low == high:
        reach = np.inf
    near = (low - reach, high + reach)
    kept = sample[~_outliers(values, np.arange(0, flat.size, step), sample, near)]
    if values.dtype != np.uint8 or step == 1:
        return kept
    # Those few that are between the evenly spread ones.
    missed = np.flatnonzero((flat < kept.min()) | (flat > kept.max()))
    return np.concatenate([kept, flat[missed][~_outliers(values, missed, flat[missed], near)]])


def _bulk(sample: NDArray[np.float64]) -> tuple[float, float]:
    # "higher" and "lower" take a value that exists, one rank inside: in a small image, interpolation
    # would mix in a part of a single hot pixel, however hot.
    low = float(np.percentile(sample, LOW_PERCENTILE, method="higher"))
    high = float(np.percentile(sample, HIGH_PERCENTILE, method="lower"))
    return (low, high) if low <= high else (high, low)


def _outliers(
    values: Array, places: NDArray[np.integer], sample: NDArray[Any], near: tuple[float, float]
) -> NDArray[np.bool_]:
    """Which of a `sample`, at `places` of all `values`, tell nothing of the bulk: not `near`, and alone or saturated.

    Of dark images, a few hundred of these would be the upper end of the bulk, and all else a small part of its range.
    In 8 bits, what is saturated is not that far off, and counts.
    """
    outliers = np.zeros(len(sample), np.bool_)
    far = np.flatnonzero((sample < near[0]) | (sample > near[1]))
    if not far.size:
        return outliers
    if values.dtype != np.uint8:
        outliers[far] = (sample[far] == sample.max()) | (sample[far] == sample.min())
    rows, columns, channels = np.unravel_index(places[far], values.shape)
    for channel in range(values.shape[2]):
        here = channels == channel
        outliers[far[here]] |= isolated_pixels(values[..., channel], rows[here], columns[here])[0]
    return outliers


def _float32(value: float) -> float:
    return float(np.float32(value))
