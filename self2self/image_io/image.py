"""Data classes of an image: its pixels for the network, and everything the output needs to match the source file.

A decoder returns a `StoredImage`: the samples as they are in the file. `read_image` makes an `Image` of it: pixels in
the network's range, and the map back to stored values. The rest of the package sees only `Image`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from self2self.imaging.mosaic import arranged

Array = NDArray[Any]

MIN_SIDE = 8
"""Smallest accepted width and height, in pixels."""

MAX_PIXELS = 2**29
"""Largest accepted width times height (23170 x 23170); checked on the header, before any decoding."""


class ImageRefused(Exception):  # noqa: N818  (`decoding` turns it into an InputError)
    """An undamaged file that cannot be used; its text continues a message after the file's name and a colon."""


@dataclass(frozen=True)
class TiffLayout:
    """The layout and the tags of a TIFF, which the output copies."""

    byteorder: str
    bigtiff: bool
    compression: int
    photometric: int
    separate: bool
    """True = one plane per channel (PlanarConfiguration 2)."""
    tile: tuple[int, int] | None
    """(height, width) of a tile in pixels; None = strips."""
    alpha_kind: int
    """ExtraSamples value of the alpha channel: 0 unspecified, 1 premultiplied, 2 straight."""
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    """x and y as fractions in pixels per unit, and ResolutionUnit (1 none, 2 inch, 3 cm)."""
    tags: tuple[tuple[int, int, int, Any, bool], ...]
    """Descriptive tags copied unchanged, as tifffile's `extratags`."""


@dataclass(frozen=True)
class Metadata:
    """Metadata of a file; the output keeps them as far as its format can hold them."""

    icc: bytes | None = None
    exif: bytes | None = None
    """A TIFF structure, without the "Exif" prefix of JPEG; the orientation is the camera's."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch in x and y."""
    description: str | None = None
    xmp: bytes | None = None
    """Adobe's XML metadata: ratings, captions, editing history."""
    jpeg_segments: tuple[tuple[int, bytes], ...] = ()
    """(marker, payload) of a JPEG's comments and IPTC captions; copied unchanged from JPEG to JPEG."""
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """(type, payload) of a PNG's ancillary chunks; copied unchanged from PNG to PNG."""
    tiff: TiffLayout | None = None
    header: Header | None = None


@dataclass(frozen=True)
class Header:
    """What a file says beside its pixels, as the library of its format reads it; other formats cannot hold it."""

    format: str
    """As `Image.format`."""
    content: Any


@dataclass(frozen=True, eq=False)
class StoredImage:
    """Samples as they are stored in a file: the result of every decoder and the input of every encoder."""

    values: Array
    """(H, W, C), the stored dtype in native byte order."""
    alpha: Array | None = None
    """(H, W), same dtype."""
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = True
    """False for JPEG and lossy WebP."""
    notes: tuple[str, ...] = ()
    """As `Image.notes`."""
    nodata: float | None = None
    """Value that the file declares to stand for a missing pixel (GDAL_NODATA, BLANK, PixelPaddingValue), as `values`
    has it; None if it declares none."""
    missing: NDArray[np.bool_] | None = None
    """(H, W), true where the source says that nothing is measured, as an array's mask does; None if it does not."""
    mosaic: bool = False
    """Whether the file says that its one channel is a mosaic of colour filters of 2x2 pixels (`imaging.mosaic`)."""


@dataclass(frozen=True, eq=False)
class MissingPixels:
    """The pixels of a file that come back as they are stored.

    Attributes:
        where: bool (H, W), at least one of them true.
        values: (n, C), their stored values, row by row.
        note: one line for the user: how many there are, how they were found, and what becomes of them.
    """

    where: NDArray[np.bool_]
    values: Array
    note: str

    def part(self, window: tuple[slice, slice]) -> MissingPixels | None:
        """Those in some rows and columns; None if there are none."""
        inside = np.zeros_like(self.where)
        inside[window] = True
        where = self.where[window]
        return MissingPixels(where, self.values[inside[self.where]], self.note) if where.any() else None

    def put_back(self, stored: Array) -> None:
        """Write the stored values into `stored` (H, W, C), in place."""
        stored[self.where] = self.values


@dataclass(frozen=True, eq=False)
class Image:
    """An image for the network, with everything that is needed to write an output like the source.

    `stored = pixels * scale + offset`. Unless it was read in the whole range of its type, an image fills [0, 1]. Hot
    pixels and other extremes of dark images lie outside, and nothing is clipped. See
    `value_range.choose_value_range` and `imaging.outliers`.
    """

    pixels: NDArray[np.float32]
    """(C, H, W); C is 1 (grey), 3 (RGB) or 4 (CMYK). Pixels are never rotated: the orientation is metadata."""
    alpha: Array | None
    """(H, W) in the stored dtype, copied to the output; None without transparency."""
    path: Path
    format: str
    """Name of the format by content, such as "png" (`formats.FORMATS`)."""
    dtype: np.dtype[Any]
    """Type of the stored values in native byte order; the output has the same type."""
    offset: float
    """Stored value at `pixels` = 0."""
    scale: float
    """Stored units per unit of `pixels`; never 0."""
    white: float | None
    """Stored value of white in images of this type (255, 65535 or 1), if the image uses that range, as 8-bit images
    always do; otherwise None."""
    sha256: str
    """See `image_hash`."""
    lossless: bool
    """False for JPEG and lossy WebP."""
    metadata: Metadata
    notes: tuple[str, ...]
    """Notes for the user, one line each: where the output differs from the input, and why."""
    unmeasured: MissingPixels | None = None
    """The pixels of the file that hold no measurement, or no noise; `pixels` are filled smoothly there, and the output
    has their stored values. None if there are none."""

    mosaic: bool = False
    """Whether the file is a mosaic of colour filters, whose four planes are side by side in `pixels`
    (`imaging.mosaic`)."""

    @property
    def missing(self) -> NDArray[np.bool_] | None:
        """The map of these pixels, bool (H, W), true where nothing is measured in `pixels`; None if there are none."""
        if self.unmeasured is None:
            return None
        return arranged(self.unmeasured.where) if self.mosaic else self.unmeasured.where

    @property
    def is_empty(self) -> bool:
        """Whether no pixel holds a measurement with noise, so that the result is the image itself."""
        return self.unmeasured is not None and bool(self.unmeasured.where.all())

    @property
    def is_raw(self) -> bool:
        """Whether the file holds what a sensor measured, so that there is no better file to denoise."""
        return self.mosaic or self.format == "raw"

    @property
    def range(self) -> tuple[float, float]:
        """The stored values that map to 0 and 1 in `pixels`."""
        return self.offset, self.offset + self.scale

    @property
    def premultiplied_alpha(self) -> bool:
        """Whether colours are multiplied by alpha."""
        return self.alpha is not None and self.metadata.tiff is not None and self.metadata.tiff.alpha_kind == 1

    @property
    def black_and_white(self) -> tuple[float, float]:
        """Black and white in units of `pixels`, for scores; without a known white, the ends of the image's range."""
        if self.white is None:
            return 0.0, 1.0
        return -self.offset / self.scale, (self.white - self.offset) / self.scale


def check_size(width: int, height: int) -> None:
    """Refuse images that are too small to denoise or too large to decode; the sizes are those in the header.

    Raises:
        ImageRefused: a side is under `MIN_SIDE`, or width × height is over `MAX_PIXELS`.
    """
    if width < MIN_SIDE or height < MIN_SIDE:
        raise ImageRefused(
            f"is {width}x{height} pixels; expected at least {MIN_SIDE}x{MIN_SIDE}. Choose a larger image or crop."
        )
    if width * height > MAX_PIXELS:
        raise ImageRefused(
            f"claims {width}x{height} pixels ({width * height / 1e6:.0f} megapixels); expected at most "
            f"{MAX_PIXELS / 1e6:.0f} megapixels. Cut it into parts and denoise each."
        )
