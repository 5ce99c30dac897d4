"""Maps stored values to the network's range [0, 1], and back.

The map is affine, with one offset and one scale for all channels, so that colours keep their ratios. Integers survive
the way there and back: float32 has 24 bits and the arithmetic is in float64, so every integer within 2**22 of the
offset returns unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.image_io.image import Array, Image, ImageRefused
from self2self.imaging.outliers import isolated_pixels

LOW_PERCENTILE, HIGH_PERCENTILE = 0.2, 99.8
"""Percentiles that limit the bulk of the values; usual in fluorescence microscopy (CSBDeep uses 99.8 as well)."""

HEADROOM_SHARE = 0.5
"""Headroom: how far the network's range extends beyond the bulk on each side, as a share of the bulk, if the image has
values there.

All Gaussian noise fits in: the bulk of five million values extends 2.9 standard deviations to each side, and the
farthest value lies at 5.2. A value beyond is a hot pixel or a star (`imaging.outliers`).
"""

WHITE_VALUES = {"uint8": 255.0, "uint16": 65535.0, "float16": 1.0, "float32": 1.0, "float64": 1.0}
"""Stored value of white. Signed and 32-bit types have no white of their own: their data never use the whole range."""

DARK_SHARE, BRIGHT_SHARE = 1 / 4, 1 / 2
"""Shares of the range from 0 to white: the bulk of a dark image fills at most the first, that of a bright image at
least the second. A bright image has headroom for all of its values. In between, the headroom grows continuously, so
that frames of one scene get about the same range."""

INNER_PERCENTILE, OUTLIER_DISTANCE = 5.0, 2.0
"""The inner values lie between this percentile and 100 minus it. A value may be an outlier if its distance from them is
over `OUTLIER_DISTANCE` times their span."""

MAX_SAMPLES = 2**22
"""Percentiles are computed from about this many evenly spread values at most."""

ROWS_AT_A_TIME = 64
"""Rows that are converted at a time, which limits the memory for float64."""

CONSTANT_IMAGE_SCALE = float(np.nextafter(0, 1))
"""Scale of an image with a single value, which has no range. It is so small that half of it rounds to 0."""

EXACT_INTEGER_SPAN = 2**22
"""Integers farther than this from the offset are rounded to float32's 24 bits."""


@dataclass(frozen=True)
class ValueRange:
    """The range of stored values that maps to [0, 1]: `stored = pixels * scale + offset`.

    Attributes:
        offset: stored value that maps to 0.
        scale: stored units per unit of pixels; never 0.
        extremes: the least and the greatest value of the image, in units of pixels; they may lie beyond [0, 1]. They
            are (0, 1) for an image with a single value and for the range from 0 to white.
        white: stored value of white in images of this type, if the image uses that range; None if white is unknown.
    """

    offset: float
    scale: float
    extremes: tuple[float, float]
    white: float | None


def choose_value_range(
    values: Array, *, whole_range: bool = False, missing: NDArray[np.bool_] | None = None
) -> ValueRange:
    """Choose the range of stored `values` that maps to [0, 1].

    The range runs from the least to the greatest value, or to the ends of the headroom around the bulk where those are
    nearer. The bulk lies between the 0.2th and the 99.8th percentile of the values that are neither saturated nor hot
    pixels. The headroom is `HEADROOM_SHARE` of the bulk. Where all values lie between 0 and the white of their type,
    the headroom grows with the share of that range that the bulk fills, from a quarter on; at a half it includes all
    values.

    The range of an 8-bit image includes all values but hot pixels, because an 8-bit type is never many times as wide
    as a bulk.

    Args:
        values: (H, W, C), or any shape; stored values, finite.
        whole_range: map 0 to 0 and white to 1, as in the papers and as comparisons of two files need it. This has no
            effect if the type has no white, or if it has more than 8 bits and the bulk fills less than a quarter of
            the range to white.
        missing: bool (H, W), where `values` are filled with means of others and do not count; None for nowhere.

    Raises:
        ImageRefused: maximum minus minimum exceeds the range of float64.
    """
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(high - low):
        raise ImageRefused(
            f"has values from {low:g} to {high:g}; expected a difference within the range of float64. "
            "Divide the values by a constant."
        )
    sample = _sample_without_outliers(values, missing)
    bulk_low, bulk_high = _bulk_limits(sample)
    span = bulk_high - bulk_low
    white = WHITE_VALUES.get(values.dtype.name)
    filled = 0.0 if white is None or low < 0 or high > white else span / white
    if filled < DARK_SHARE and values.dtype != np.uint8:
        white = None
    if whole_range and white is not None:
        return ValueRange(0.0, white, (0.0, 1.0), white)
    if values.dtype == np.uint8:
        first, last = float(sample.min()), float(sample.max())
        if first == last:
            # All values but those of hot pixels are the same, so the hot pixels, if any, are the signal.
            first, last = (low, high) if low < high else (0.0, 255.0)
        return _range_with_extremes(first, last - first, low, high, white)
    if low == high:
        # With this scale, whatever is predicted for the image returns as its single value.
        return ValueRange(low, CONSTANT_IMAGE_SCALE, (0.0, 1.0), white)
    if span == 0:
        # All but a few values are the same, so the few are the signal.
        bulk_low, span = low, high - low
    headroom = _headroom_share(filled)
    first = max(low, bulk_low - headroom * span)
    last = min(high, bulk_low + span + headroom * span)
    # The floor keeps the farthest outlier finite in float32.
    return _range_with_extremes(first, max(last - first, (high - low) * 1e-30), low, high, white)


def _headroom_share(filled: float) -> float:
    """Headroom as a share of the bulk, which fills the share `filled` of the range from 0 to white."""
    brightness = min(max((filled - DARK_SHARE) / (BRIGHT_SHARE - DARK_SHARE), 0.0), 1.0)
    return HEADROOM_SHARE + (1 / BRIGHT_SHARE - HEADROOM_SHARE) * brightness


def _range_with_extremes(first: float, scale: float, low: float, high: float, white: float | None) -> ValueRange:
    """The range from `first` on, of an image whose stored values lie between `low` and `high`."""
    return ValueRange(first, scale, (_as_float32((low - first) / scale), _as_float32((high - first) / scale)), white)


def normalise(values: Array, offset: float, scale: float) -> NDArray[np.float32]:
    """Map stored values (H, W, C) to pixels, float32 (C, H, W): `(stored - offset) / scale`."""
    height, width, channels = values.shape
    pixels = np.empty((channels, height, width), np.float32)
    # Only a few rows at a time are in float64, because images may have half a gigapixel.
    for first in range(0, height, ROWS_AT_A_TIME):
        block = values[first : first + ROWS_AT_A_TIME].astype(np.float64)
        block -= offset
        block /= scale
        pixels[:, first : first + ROWS_AT_A_TIME] = np.moveaxis(block, 2, 0)
    return pixels


def restore(pixels: Array, offset: float, scale: float, dtype: np.dtype[Any]) -> Array:
    """Map pixels, float (C, H, W), to stored values (H, W, C); the inverse of `normalise`.

    Args:
        pixels: (C, H, W), any float type.
        offset: stored value at pixels of 0.
        scale: stored units per unit of pixels.
        dtype: of the result. Values are rounded if it is an integer type, and clipped to its range.
    """
    channels, height, width = pixels.shape
    values = np.empty((height, width, channels), dtype)
    if np.issubdtype(dtype, np.integer):
        integers = np.iinfo(dtype)
        low, high = float(integers.min), float(integers.max)
    else:
        floats = np.finfo(dtype)
        low, high = float(floats.min), float(floats.max)
    for first in range(0, height, ROWS_AT_A_TIME):
        block = pixels[:, first : first + ROWS_AT_A_TIME].astype(np.float64)
        block *= scale
        block += offset
        if np.issubdtype(dtype, np.integer):
            np.rint(block, out=block)
        values[first : first + ROWS_AT_A_TIME] = np.moveaxis(np.clip(block, low, high, out=block), 0, 2)
    return values


def to_whole_range(image: Image) -> Image:
    """Convert `image` to what `read_image` returns with `whole_range`; floats differ from that by rounding.

    The result is `image` itself if white is unknown or the range is already from 0 to white; otherwise a copy.
    """
    if image.white is None or image.range == (0, image.white):
        return image
    pixels = np.empty_like(image.pixels)
    for first in range(0, pixels.shape[1], ROWS_AT_A_TIME):
        rows = slice(first, first + ROWS_AT_A_TIME)
        values = restore(image.pixels[:, rows], image.offset, image.scale, image.dtype)
        pixels[:, rows] = normalise(values, 0.0, image.white)
    return replace(image, pixels=pixels, offset=0.0, scale=image.white)


def _sample_without_outliers(values: Array, missing: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """A sample of the values, 1-D, without saturated values and hot pixels.

    Its bulk represents that of all values. Of 8-bit values, the sample includes the least and the greatest value of the
    image that is not a hot pixel.
    """
    flat = values.reshape(-1)
    step = -(-flat.size // MAX_SAMPLES)
    # A step that is a multiple of 2 or 3 could sample only one channel or one Bayer column.
    while step > 1 and (step % 2 == 0 or step % 3 == 0):
        step += 1
    places = np.arange(0, flat.size, step)
    if missing is not None and not missing.all():
        places = places[~missing.reshape(-1)[places // values.shape[2]]]
    sample = flat[places].astype(np.float64)
    low, high = np.percentile(sample, (INNER_PERCENTILE, 100 - INNER_PERCENTILE))
    reach = OUTLIER_DISTANCE * (high - low)
    # Where nearly all values are the same, the others are single photons, not outliers.
    if values.ndim != 3 or min(values.shape[:2]) < 2 or low == high:
        reach = np.inf
    limits = (low - reach, high + reach)
    kept = sample[~_find_outliers(values, places, sample, limits)]
    if values.dtype != np.uint8 or step == 1:
        return kept
    # Extreme values that the evenly spread sample does not include.
    missed = np.flatnonzero((flat < kept.min()) | (flat > kept.max()))
    return np.concatenate([kept, flat[missed][~_find_outliers(values, missed, flat[missed], limits)]])


def _bulk_limits(sample: NDArray[np.float64]) -> tuple[float, float]:
    # "higher" and "lower" choose an existing value, one rank inside. In a small image, interpolation
    # would mix in a part of a single hot pixel, however bright.
    low = float(np.percentile(sample, LOW_PERCENTILE, method="higher"))
    high = float(np.percentile(sample, HIGH_PERCENTILE, method="lower"))
    return (low, high) if low <= high else (high, low)


def _find_outliers(
    values: Array, places: NDArray[np.integer], sample: NDArray[Any], limits: tuple[float, float]
) -> NDArray[np.bool_]:
    """Find the outliers in a sample: values beyond `limits` that are isolated pixels or saturated.

    In a dark image, a few hundred outliers would become the upper end of the bulk, and all other values would fill
    only a small part of its range. Saturated 8-bit values are not that far from the others, so they are no outliers.

    Args:
        values: (H, W, C), all values of the image.
        places: [n], flat indices of the sample in `values`.
        sample: [n], the values there.
        limits: values within them are never outliers.

    Returns:
        [n], true for an outlier.
    """
    outliers = np.zeros(len(sample), np.bool_)
    far = np.flatnonzero((sample < limits[0]) | (sample > limits[1]))
    if not far.size:
        return outliers
    if values.dtype != np.uint8:
        outliers[far] = (sample[far] == sample.max()) | (sample[far] == sample.min())
    rows, columns, channels = np.unravel_index(places[far], values.shape)
    for channel in range(values.shape[2]):
        here = channels == channel
        outliers[far[here]] |= isolated_pixels(values[..., channel], rows[here], columns[here])[0]
    return outliers


def _as_float32(value: float) -> float:
    return float(np.float32(value))
