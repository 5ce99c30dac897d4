"""Find the pixels of a file that hold no measurement, and give them their stored values back.

A file tells of them in several ways: NaN, a value that it declares (GDAL's tag, BLANK of FITS,
PixelPaddingValue of DICOM), an alpha of 0, the mask of an array, or a value that the user names. Where no one
tells, a constant that lies far from all other values and covers whole areas is no measurement either, such as the
padding of a CT or the outside of a field of view.

An image without any noise is treated the same: none of its pixels holds anything to remove.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

import numpy as np

from self2self.errors import typed
from self2self.image_io.image import Array, MissingPixels, StoredImage
from self2self.imaging.missing import BoolArray, constant_around, fill, in_all_channels

Nodata = float | Literal["none"] | None
"""The stored value of missing pixels; ``"none"`` if no value stands for them; None if the file tells, or its values."""

BULK_PERCENTILE = 1.0
"""The bulk of the other values lies between this percentile and 100 minus it."""
FAR = 0.25
"""Smallest distance of a constant from the nearest other value, as a share of the bulk, at which it is far away. A CT
that is padded with -2000 has 0.4 where it shows air and bone."""
FAR_IN_STEPS = 16
"""Smallest distance in typical steps between values: few photons have values that are far apart, too."""
MAX_SAMPLES = 2**20
"""Bulk and steps are found from about this many values at most."""
LEAST_AREA = 64
"""Smallest number of pixels of such a constant."""
MOSTLY_AREAS = 0.5
"""Smallest share of them that has only such pixels around: the others may be impulses, which are noise."""

FLAT_SHARE = 1 / 3
"""Smallest share of pixels that equal all their neighbours, in an image without noise."""
LARGEST_SPECK_SHARE = 0.01
"""Largest share of pixels that differ from eight equal neighbours, among those outside flat areas, in an image without
noise. Scanned and binarised letters have up to 0.009, impulses and few photons 0.03 to 0.11."""
LINE_WIDTH = 8
"""Distance in pixels within which, in an image without noise, next to every pixel has a flat area: lines and letters
are thin. In a photograph on a white page, most pixels are farther away."""
NEXT_TO_ALL = 0.99
"""Share of the pixels outside flat areas that counts as next to all."""


def find_missing(stored: StoredImage, nodata: Nodata = None) -> MissingPixels | None:
    """Find the pixels of an image that hold no measurement; None if all of them do.

    A value of `nodata` counts where all channels have it, and a value that is not finite where any has it.

    Args:
        stored: the samples of a file.
        nodata: as the user gave it.
    """
    values = stored.values
    found: list[tuple[BoolArray, str]] = []
    if values.dtype.kind == "f":
        found.append((~in_all_channels(np.isfinite(values)), "not finite"))
    if stored.missing is not None:
        found.append((stored.missing, "masked"))
    if (alpha := _meaningful_alpha(stored)) is not None:
        found.append((alpha == 0, "fully transparent"))
    named = stored.nodata if nodata is None else nodata
    if named is not None and named != "none":
        found.append((in_all_channels(values == _as_type(named, values.dtype)), f"all {named:g}"))
    # Some files declare a value that is rounded, or that their type cannot hold.
    if nodata is None and (named is None or not found[-1][0].any()):
        known = ~np.logical_or.reduce([where for where, _ in found]) if found else None
        found += [(where, f"all {value:g}, far from the others") for where, value in _far_constants(values, known)]
    found = [(where, kind) for where, kind in found if where.any()]
    where = np.logical_or.reduce([where for where, _ in found]) if found else np.zeros(values.shape[:2], bool)
    if nodata != "none" and is_free_of_noise(values, where):
        note = "has no noise: most of it lies in areas of exactly one value; so nothing is changed"
        where = np.ones_like(where)
    elif not found:
        return None
    else:
        count, kinds = int(np.count_nonzero(where)), " or ".join(kind for _, kind in found)
        note = (
            f"{count} of its {where.size} pixels hold no measurement ({kinds}); they count for nothing and stay as "
            f"they are ({typed('--nodata')} says which value is meant)"
        )
    return MissingPixels(where, values[where], note)


def filled(values: Array, where: BoolArray) -> Array:
    """Stored values (H, W, C) of one dtype, with missing pixels filled from measured ones (`imaging.missing.fill`).

    An image of missing pixels alone stays as it is, except that values that are not finite become 0.
    """
    if where.all():
        return np.nan_to_num(values, posinf=0, neginf=0) if values.dtype.kind == "f" else values
    result = values.copy()
    for channel in range(values.shape[2]):
        plane = np.where(where, 0, values[..., channel]).astype(np.float64)
        new = fill(plane, where)[where]
        result[..., channel][where] = new if values.dtype.kind == "f" else np.rint(new)
    return result


def is_free_of_noise(values: Array, missing: BoolArray) -> bool:
    """Whether an image shows no noise at all, such as line art, a screenshot or an empty page.

    In such an image most pixels equal all their neighbours exactly, no pixel stands alone among equal ones, and what
    is left lies beside equal ones: it is lines and letters. Noise of few photons leaves equal areas as well, but pixels
    alone in them.

    Args:
        values: (H, W, C), stored values.
        missing: bool (H, W), pixels that do not count.
    """
    flat = constant_around(values) & ~missing
    if np.count_nonzero(flat) < max(1, FLAT_SHARE * np.count_nonzero(~missing)):
        return False
    uneven = ~(flat | missing)
    if np.count_nonzero(_specks(values)) > LARGEST_SPECK_SHARE * np.count_nonzero(uneven):
        return False
    near = ~uneven
    for axis in (0, 1):
        near = _spread(near, axis)
    return bool(np.count_nonzero(near & uneven) >= NEXT_TO_ALL * np.count_nonzero(uneven))


def _specks(values: Array) -> BoolArray:
    """Where a pixel inside the image differs from its eight neighbours, which are all equal; bool (H - 2, W - 2)."""
    height, width = values.shape[:2]
    ring = [
        values[row : row + height - 2, column : column + width - 2]
        for row, column in ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    ]
    alike = np.logical_and.reduce([in_all_channels(one == other) for one, other in pairwise(ring)])
    return np.asarray(alike & (values[1:-1, 1:-1] != ring[0]).any(axis=2))


def _spread(where: BoolArray, axis: int) -> BoolArray:
    """Where a pixel or one within `LINE_WIDTH` along `axis` is true."""
    counts = np.cumsum(np.moveaxis(where, axis, 0), axis=0, dtype=np.int32)
    padded = np.pad(counts, ((LINE_WIDTH + 1, LINE_WIDTH), (0, 0)), mode="edge")
    padded[: LINE_WIDTH + 1] = 0
    return np.moveaxis(padded[2 * LINE_WIDTH + 1 :] > padded[: -2 * LINE_WIDTH - 1], 0, axis)


def _meaningful_alpha(stored: StoredImage) -> Array | None:
    """The alpha that says what is visible. Files whose alpha is 0 everywhere say nothing by it."""
    layout = stored.metadata.tiff
    if stored.alpha is None or (layout is not None and layout.alpha_kind == 0) or not stored.alpha.any():
        return None
    return stored.alpha


def _as_type(value: float, dtype: np.dtype[Any]) -> float | np.floating:
    """`value` as an image of this type stores it: floats are rounded to the type."""
    with np.errstate(over="ignore"):
        return dtype.type(value) if dtype.kind == "f" else value


def _far_constants(values: Array, known: BoolArray | None) -> list[tuple[BoolArray, float]]:
    """The least and the greatest value, where they lie far from all others and cover whole areas, each with its map.

    Args:
        values: (H, W, C), stored values.
        known: bool (H, W), pixels that may be measured; None for all.
    """
    found = []
    rest = np.ones(values.shape[:2], bool) if known is None else known.copy()
    for extreme in (np.min, np.max):
        if not rest.any():
            break
        if rest.all():
            value = extreme(values)
        else:
            first = values[np.unravel_index(rest.argmax(), rest.shape)][0]
            value = extreme(values, where=rest[..., None], initial=first)
        where = rest & in_all_channels(values == value)
        if _covers_areas(where) and _is_far(value, values, rest & ~where):
            found.append((where, float(value)))
            rest &= ~where
    return found


def _is_far(value: Any, values: Array, others: BoolArray) -> bool:
    """Whether a value at an end of the range lies far from the values at `others`, measured by their bulk and steps."""
    sample = values.reshape(-1, values.shape[2])[np.flatnonzero(others)[:: -(-values.size // MAX_SAMPLES)]]
    distinct = np.unique(sample).astype(np.float64)
    if distinct.size <= FAR_IN_STEPS:
        return False
    low, high = np.percentile(sample.astype(np.float64), (BULK_PERCENTILE, 100 - BULK_PERCENTILE))
    others_of_all = others[..., None]
    least = float(values.min(where=others_of_all, initial=sample.max()))
    greatest = float(values.max(where=others_of_all, initial=sample.min()))
    gap = max(least - float(value), float(value) - greatest)
    return bool(gap > FAR * (high - low) and gap > FAR_IN_STEPS * np.median(np.diff(distinct)))


def _covers_areas(where: BoolArray) -> bool:
    """Whether most of these pixels have only such pixels around them."""
    count = int(np.count_nonzero(where))
    if count < LEAST_AREA:
        return False
    inside = constant_around(where[..., None]) & where
    return bool(np.count_nonzero(inside) >= MOSTLY_AREAS * count)
