"""Writes new pixels in the type and layout of their source `Image`.

`check_output` finds every reason why a file cannot be written or cannot hold the image, before a slow fit begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import InputError, OutputError
from self2self.image_io import exif, pillow_formats, png, tiff
from self2self.image_io.image import Array, Image, Metadata, StoredImage
from self2self.image_io.read import format_of
from self2self.image_io.value_range import restore
from self2self.imaging import mosaic
from self2self.machine.files import atomic_path, atomic_write, check_new
from self2self.machine.marks import Mark

EXTENSIONS = {
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".webp": "webp",
    ".bmp": "bmp",
    ".dib": "bmp",
}
"""File extension → format, as `Image.format`."""

ENCODERS: dict[str, Callable[[StoredImage], bytes]] = {
    "png": png.encode,
    "jpeg": pillow_formats.encode_jpeg,
    "webp": pillow_formats.encode_webp,
    "bmp": pillow_formats.encode_bmp,
}
"""Format → encoder, which returns the whole file. A TIFF may be as large as memory: it is written in pieces instead."""

MAX_SIDE_BY_FORMAT = {"jpeg": 65500, "webp": 16383}
"""Largest width and height in pixels; other formats have no limit that matters."""

FLOAT32 = np.dtype(np.float32)

MAX_JPEG_EXIF_BYTES = 65535 - 2 - 6
"""One segment, less its length field and the "Exif" prefix."""


def default_output(source: str | os.PathLike[str] | Image) -> Path:
    """`<stem>.denoised.<extension>` beside the input; the extension fits the format of the input's content."""
    path = source.path if isinstance(source, Image) else Path(source)
    suffix = path.suffix
    file_format = source.format if isinstance(source, Image) else _format_by_content(path)
    if file_format is not None and EXTENSIONS.get(suffix.lower()) != file_format:
        suffix = next(extension for extension, other in EXTENSIONS.items() if other == file_format)
    return path.with_name(f"{path.stem}.denoised{suffix}")


def _format_by_content(path: Path) -> str | None:
    try:
        return format_of(path)
    except InputError:
        # Reading the file reports the error later.
        return None


def check_output(
    path: str | os.PathLike[str], *, force: bool, like: Image | None = None, float_map: bool = False
) -> None:
    """Check, before an hour of fitting, that `path` can be written; the check leaves no file behind.

    Args:
        path: the output.
        force: whether an existing file may be replaced.
        like: the input; if given, the format of `path` must be able to hold its type and metadata.
        float_map: whether `path` is for `write_float_map`.

    Raises:
        OutputError: the extension is unknown or unsuitable, the folder is missing or read-only, `path`
            is a folder, or it exists and `force` is false.
        ResourceError: the disk is full.
    """
    file_format = _format_by_extension(path)
    if float_map and file_format not in ("png", "tiff"):
        raise OutputError(
            f"{path}: {file_format.upper()} cannot hold a map of numbers. Use the extension .tif or .png."
        )
    if like is not None:
        _refuse_unsuitable_format(path, file_format, like, float_map=float_map)
    check_new(path, force=force)


def write_image(
    path: str | os.PathLike[str], pixels: Array, like: Image, *, force: bool = False, mark: Mark | None = None
) -> None:
    """Write `pixels` as a file of the same type, depth and channels as the input `like`.

    The file has the alpha, ICC profile, EXIF and resolution of `like`, and from TIFF to TIFF also its layout and
    compression. The extension of `path` decides the format. The file appears complete or not at all.

    Args:
        path: the output.
        pixels: (C, H, W) float, in the units of `like.pixels`. For integer types, values are rounded and clipped to
            the range of the type.
        like: the input, as returned by `read_image`.
        force: whether an existing file may be replaced.
        mark: says which job made the file (`machine.marks`).

    Raises:
        OutputError: `path` cannot be written or its format cannot hold the type; see `check_output`.
        ResourceError: the disk is full.
        ValueError: `pixels` has another shape than `like.pixels`, or values that are not finite.
    """
    _check_pixels(pixels, like)
    file_format = _check_and_choose_format(path, like, force=force)
    values = stored_values(pixels, like)
    _write_stored(path, file_format, StoredImage(values, like.alpha, like.metadata, like.lossless), mark)


def stored_values(pixels: Array, like: Image) -> Array:
    """The values that a file like `like` stores for `pixels`; where nothing is measured, those of `like`.

    Args:
        pixels: (C, H, W) float, in the units of `like.pixels`.
        like: the input.

    Returns:
        (H, W, C) in the stored dtype.
    """
    values = restore(pixels, like.offset, like.scale, like.dtype)
    if like.mosaic:
        values = mosaic.restored(values)
    if like.unmeasured is not None:
        like.unmeasured.put_back(values)
    return values


def stored_deviations(
    deviations: Array, like: Image, *, scale: float | None = None, dtype: np.dtype[Any] = FLOAT32
) -> Array:
    """Standard deviations as a file stores them; 0 where nothing is measured.

    Args:
        deviations: (C, H, W) float, in the units of `like.pixels`.
        like: the input.
        scale: stored units per unit of pixels; None for those of the image file.
        dtype: of the result; values are clipped to its range.

    Returns:
        (H, W, C) of `dtype`.
    """
    values = restore(deviations, 0.0, like.scale if scale is None else scale, dtype)
    if like.mosaic:
        values = mosaic.restored(values)
    if like.unmeasured is not None:
        values[like.unmeasured.where] = 0
    return values


def write_float_map(
    path: str | os.PathLike[str], array: Array, like: Image, *, force: bool = False, mark: Mark | None = None
) -> None:
    """Write a map of standard deviations, one for each pixel value of an image.

    A TIFF holds float32 in the units of the input file (grey levels, counts: `array * like.scale`). A PNG holds 16
    bits, where 65535 stands for 1.0 in the units of `like.pixels`, that is for the range from 0 to 1 of the network;
    larger values are clipped. The description in the file states the unit. Where nothing is measured the map is 0, as
    the result has the stored value there.

    Args:
        path: .tif, .tiff or .png.
        array: (C, H, W) float, not negative, in the units of `like.pixels`.
        like: the input, as returned by `read_image`; its orientation and resolution are copied.
        force: whether an existing file may be replaced.
        mark: says which job made the file (`machine.marks`).

    Raises:
        OutputError: `path` cannot be written, has another extension, or is a PNG for CMYK.
        ResourceError: the disk is full.
        ValueError: `array` has another shape than `like.pixels`, or values that are not finite.
    """
    _check_pixels(array, like)
    file_format = _check_and_choose_format(path, like, force=force, float_map=True)
    if file_format == "png":
        values = stored_deviations(array, like, scale=65535.0, dtype=np.dtype(np.uint16))
        unit = f"65535 stands for {like.scale:g} in the units of the image file"
    else:
        values = stored_deviations(array, like)
        unit = "in the units of the image file"
    _write_stored(path, file_format, StoredImage(values, None, map_metadata(like.metadata, unit)), mark)


def map_metadata(metadata: Metadata, unit: str = "in the units of the image file") -> Metadata:
    """Metadata of a map of standard deviations: orientation and resolution of its image, and a description.

    Args:
        metadata: of the image.
        unit: of the map, for the description.
    """
    return Metadata(
        exif=exif.orientation_block(exif.orientation(metadata.exif)),
        dpi=metadata.dpi,
        description=f"standard deviation of each pixel, {unit}",
    )


def _check_pixels(pixels: Array, like: Image) -> None:
    if pixels.shape != like.pixels.shape:
        raise ValueError(f"pixels have the shape {pixels.shape}; expected {like.pixels.shape}")
    if not all(np.isfinite(row).all() for channel in pixels for row in channel):
        raise ValueError("pixels have NaN or infinite values; expected finite ones")


def _check_and_choose_format(path: str | os.PathLike[str], like: Image, *, force: bool, float_map: bool = False) -> str:
    check_output(path, force=force, like=like, float_map=float_map)
    return _format_by_extension(path)


def _write_stored(
    path: str | os.PathLike[str], file_format: str, stored: StoredImage, mark: Mark | None = None
) -> None:
    if file_format == "tiff":
        with atomic_path(path, mark=mark) as temporary, temporary.open("r+b") as file:
            tiff.write(file, stored)
    else:
        atomic_write(path, ENCODERS[file_format](stored), mark=mark)


def _format_by_extension(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix
    file_format = EXTENSIONS.get(suffix.lower())
    if file_format is None:
        got = f"the extension {suffix}" if suffix else "no extension"
        raise OutputError(f"{path}: has {got}; expected .png, .tif, .jpg, .webp or .bmp. Add one of them.")
    return file_format


def _refuse_unsuitable_format(path: str | os.PathLike[str], file_format: str, like: Image, *, float_map: bool) -> None:
    unsupported = _unsupported_feature(file_format, like, float_map=float_map)
    if unsupported is not None:
        better = ".tif" if _unsupported_feature("png", like, float_map=float_map) else ".png"
        raise OutputError(f"{path}: {file_format.upper()} cannot hold {unsupported}. Use the extension {better}")


def _unsupported_feature(file_format: str, like: Image, *, float_map: bool) -> str | None:
    """The feature of `like` that the format cannot hold, in words; None if the format can hold the image."""
    channels, height, width = like.pixels.shape
    if file_format == "tiff":
        return None
    if channels == 4 and file_format != "jpeg":
        return "CMYK"
    if float_map:
        return None
    types = ("uint8", "uint16") if file_format == "png" else ("uint8",)
    if like.dtype.name not in types:
        return f"{like.dtype.name} values"
    if max(height, width) > MAX_SIDE_BY_FORMAT.get(file_format, 2**31 - 1):
        return f"{width}x{height} pixels"
    if like.alpha is not None:
        if file_format == "jpeg":
            return "transparency (alpha)"
        if file_format == "bmp" and channels == 1:
            return "grey with transparency (alpha)"
        if like.metadata.tiff is not None and like.metadata.tiff.alpha_kind == 1:
            return "premultiplied alpha"
    if file_format == "bmp" and like.metadata.icc is not None:
        return "the ICC profile"
    if file_format == "bmp" and exif.orientation(like.metadata.exif) != 1:
        return "the orientation of the image (EXIF)"
    if file_format == "jpeg" and len(like.metadata.exif or b"") > MAX_JPEG_EXIF_BYTES:
        return "that much EXIF data"
    if file_format == "jpeg" and len(like.metadata.xmp or b"") > pillow_formats.MAX_JPEG_XMP_BYTES:
        return "that much XMP data"
    return None
