"""What is known of an image: its pixels for the network, and what its file says besides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MIN_SIDE = 8
"""Smallest width and height accepted, in pixels."""

MAX_PIXELS = 2**29
"""Largest width times height accepted (23170 x 23170); checked on the header, before any decoding."""


class ImageRefused(Exception):  # noqa: N818  (an answer of a decoder, which read_image turns into an InputError)
    """Why a sound file cannot be used; the text follows the file's name and a colon."""


@dataclass(frozen=True)
class TiffLayout:
    """How a TIFF lays out its pixels, so that the output can do the same."""

    byteorder: str
    bigtiff: bool
    compression: int
    photometric: int
    separate: bool
    """True = one plane per channel (PlanarConfiguration 2)."""
    tile: tuple[int, int] | None
    """(height, width) of a tile in pixels; None = strips."""
    alpha_kind: int
    """ExtraSamples of the alpha: 0 unspecified, 1 premultiplied, 2 straight."""
    resolution: tuple[tuple[int, int], tuple[int, int], int] | None
    """x and y as fractions in pixels per unit, and ResolutionUnit (1 none, 2 inch, 3 cm)."""
    tags: tuple[tuple[int, int, int, Any, bool], ...]
    """Descriptive tags copied unchanged, as tifffile's `extratags`."""


@dataclass(frozen=True)
class Metadata:
    """What a file says about its pixels; kept when the target can hold it."""

    icc: bytes | None = None
    exif: bytes | None = None
    """A TIFF structure, without the "Exif" prefix of JPEG; orientation is as the camera wrote it."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch in x and y."""
    description: str | None = None
    xmp: bytes | None = None
    """Adobe's XML: ratings, captions, history of edits."""
    jpeg_segments: tuple[tuple[int, bytes], ...] = ()
    """(marker, payload) of a JPEG's comments and IPTC captions, copied unchanged from JPEG to JPEG."""
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    """(type, payload) of a PNG's ancillary chunks, copied unchanged from PNG to PNG."""
    tiff: TiffLayout | None = None


@dataclass(frozen=True, eq=False)
class StoredImage:
    """The samples of a file as they are stored; what every decoder returns and every encoder takes."""

    values: Array
    """(H, W, C), the stored dtype in native byte order."""
    alpha: Array | None = None
    """(H, W), same dtype."""
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Image:
    """An image for the network, and what it takes to write another one like it.

    `stored = pixels * scale + offset`. An image that was not read in the whole range of its type fills [0, 1], but for
    hot pixels and other extremes of dark images, which lie outside, as far as they are; nothing is clipped. See
    `normalise.choose_scale` and `extremes`.
    """

    pixels: NDArray[np.float32]
    """(C, H, W); C is 1 (grey), 3 (RGB) or 4 (CMYK). Never rotated: orientation is metadata."""
    alpha: Array | None
    """(H, W) in the stored dtype, copied to the output; None without transparency."""
    path: Path
    format: str
    """By content: "png", "tiff", "jpeg", "webp" or "bmp"."""
    dtype: np.dtype[Any]
    """Of the stored values, native byte order; that of the output."""
    offset: float
    scale: float
    """Stored value of `pixels` = 0, and stored units per unit of `pixels` (never 0)."""
    white: float | None
    """Stored value that is white in images of this type (255, 65535, 1), if this one uses that range, as one of 8
    bits always does; None else."""
    sha256: str
    lossless: bool
    """False for JPEG and lossy WebP."""
    metadata: Metadata
    notes: tuple[str, ...]
    """One line each, for the user: where the output differs in type from the input, and why."""

    @property
    def range(self) -> tuple[float, float]:
        """The stored values that are 0 and 1 in `pixels`."""
        return self.offset, self.offset + self.scale

    @property
    def black_and_white(self) -> tuple[float, float]:
        """Black and white in units of `pixels`, for scores; where nobody can tell white, the ends of its own range."""
        if self.white is None:
            return 0.0, 1.0
        return -self.offset / self.scale, (self.white - self.offset) / self.scale


def check_size(width: int, height: int) -> None:
    """Refuse images that are too small to denoise or too large to decode, by their header alone.

    Raises:
        Refused: a side is under `MIN_SIDE`, or width × height is over `MAX_PIXELS`.
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
