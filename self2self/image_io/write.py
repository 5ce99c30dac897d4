"""`Image` + new pixels → file, and every reason why a file cannot hold them, told before the work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from self2self.errors import InputError, OutputError
from self2self.image_io import exif, pillow_formats, png, tiff
from self2self.image_io.image import Array, Image, Metadata, StoredImage
from self2self.image_io.read import format_of
from self2self.image_io.value_range import restore
from self2self.machine.files import atomic_path, atomic_write, check_new

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
"""File extension → format."""

ENCODERS: dict[str, Callable[[StoredImage], bytes]] = {
    "png": png.encode,
    "jpeg": pillow_formats.encode_jpeg,
    "webp": pillow_formats.encode_webp,
    "bmp": pillow_formats.encode_bmp,
}
"""Format → the whole file; a TIFF, which may be as large as memory, is written piece by piece instead."""

MAX_SIDE = {"jpeg": 65500, "webp": 16383}
MAX_JPEG_EXIF_BYTES = 65535 - 2 - 6


def default_output(source: str | os.PathLike[str] | Image) -> Path:
    """`<stem>.denoised.<extension>` beside the input, with an extension that fits the format by its content."""
    path = source.path if isinstance(source, Image) else Path(source)
    suffix = path.suffix
    form = source.format if isinstance(source, Image) else _content(path)
    if form is not None and EXTENSIONS.get(suffix.lower()) != form:
        suffix = next(extension for extension, other in EXTENSIONS.items() if other == form)
    return path.with_name(f"{path.stem}.denoised{suffix}")


def _content(path: Path) -> str | None:
    try:
        return format_of(path)
    except InputError:
        # Told when it is read.
        return None


def check_output(
    path: str | os.PathLike[str], *, force: bool, like: Image | None = None, float_map: bool = False
) -> None:
    """Find out, before an hour of fitting, whether `path` can be written; nothing is left behind.

    Args:
        path: where the output is to go.
        force: an existing file may be replaced.
        like: the input; with it, also whether the format of `path` can hold its type.
        float_map: `path` is for `write_float_map`.

    Raises:
        OutputError: the extension is unknown or unsuitable, the folder is missing or read-only, `path`
            is a folder, or it exists and `force` is false.
        ResourceError: the disk is full.
    """
    form = _form(path)
    if float_map and form not in ("png", "tiff"):
        raise OutputError(f"{path}: {form.upper()} cannot hold a map of numbers. Use the extension .tif or .png.")
    if like is not None:
        _refuse_unsuitable(path, form, like, float_map=float_map)
    check_new(path, force=force)


def write_image(path: str | os.PathLike[str], pixels: Array, like: Image, *, force: bool = False) -> None:
    """Write `pixels` as a file of the same type, depth and channels as the input `like`.

    Alpha, ICC profile, EXIF, resolution and, from TIFF to TIFF, layout and compression are those of
    `like`. The format is chosen by the extension of `path`. The file appears whole or not at all.

    Args:
        path: the output.
        pixels: (C, H, W) float, in the units of `like.pixels`; integers are rounded and clipped to the
            range of their type.
        like: what `read_image` returned.
        force: replace an existing file.

    Raises:
        OutputError: `path` cannot be written or its format cannot hold the type; see `check_output`.
        ResourceError: the disk is full.
        ValueError: `pixels` has another shape than `like.pixels`, or values that are not finite.
    """
    _check_pixels(pixels, like)
    form = _ready(path, like, force=force)
    values = restore(pixels, like.offset, like.scale, like.dtype)
    _write(path, form, StoredImage(values, like.alpha, like.metadata, like.lossless))


def write_float_map(path: str | os.PathLike[str], array: Array, like: Image, *, force: bool = False) -> None:
    """Write a map of numbers that belongs to an image, such as the standard deviation of each pixel.

    As TIFF: float32, in the units of the input file (grey levels, counts: `array * like.scale`). As
    PNG: 16 bits, where 65535 stands for 1.0 in the units of `like.pixels`, that is for the whole
    range from black to white; larger values are cut off. Both say so in their description.

    Args:
        path: .tif, .tiff or .png.
        array: (C, H, W) float, not negative, in the units of `like.pixels`.
        like: what `read_image` returned; orientation and resolution are taken from it.
        force: replace an existing file.

    Raises:
        OutputError: `path` cannot be written, has another extension, or is a PNG for CMYK.
        ResourceError: the disk is full.
        ValueError: `array` has another shape than `like.pixels`, or values that are not finite.
    """
    _check_pixels(array, like)
    form = _ready(path, like, force=force, float_map=True)
    if form == "png":
        values = restore(array, 0.0, 65535.0, np.dtype(np.uint16))
        unit = f"65535 stands for {like.scale:g} in the units of the image file"
    else:
        values = restore(array, 0.0, like.scale, np.dtype(np.float32))
        unit = "in the units of the image file"
    _write(path, form, StoredImage(values, None, map_metadata(like.metadata, unit)))


def map_metadata(metadata: Metadata, unit: str = "in the units of the image file") -> Metadata:
    """What a map of standard deviations shares with its image, and what it says of itself."""
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


def _ready(path: str | os.PathLike[str], like: Image, *, force: bool, float_map: bool = False) -> str:
    check_output(path, force=force, like=like, float_map=float_map)
    return _form(path)


def _write(path: str | os.PathLike[str], form: str, stored: StoredImage) -> None:
    if form == "tiff":
        with atomic_path(path) as temporary, temporary.open("r+b") as file:
            tiff.write(file, stored)
    else:
        atomic_write(path, ENCODERS[form](stored))


def _form(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix
    form = EXTENSIONS.get(suffix.lower())
    if form is None:
        got = f"the extension {suffix}" if suffix else "no extension"
        raise OutputError(f"{path}: has {got}; expected .png, .tif, .jpg, .webp or .bmp. Add one of them.")
    return form


def _refuse_unsuitable(path: str | os.PathLike[str], form: str, like: Image, *, float_map: bool) -> None:
    obstacle = _obstacle(form, like, float_map=float_map)
    if obstacle is not None:
        better = ".tif" if _obstacle("png", like, float_map=float_map) else ".png"
        raise OutputError(f"{path}: {form.upper()} cannot hold {obstacle}. Use the extension {better}")


def _obstacle(form: str, like: Image, *, float_map: bool) -> str | None:
    """What of `like` the format cannot hold; None if it holds everything."""
    channels, height, width = like.pixels.shape
    if form == "tiff":
        return None
    if channels == 4 and form != "jpeg":
        return "CMYK"
    if float_map:
        return None
    types = ("uint8", "uint16") if form == "png" else ("uint8",)
    if like.dtype.name not in types:
        return f"{like.dtype.name} values"
    if max(height, width) > MAX_SIDE.get(form, 2**31 - 1):
        return f"{width}x{height} pixels"
    if like.alpha is not None:
        if form == "jpeg":
            return "transparency (alpha)"
        if form == "bmp" and channels == 1:
            return "grey with transparency (alpha)"
        if like.metadata.tiff is not None and like.metadata.tiff.alpha_kind == 1:
            return "premultiplied alpha"
    if form == "bmp" and like.metadata.icc is not None:
        return "the ICC profile"
    if form == "bmp" and exif.orientation(like.metadata.exif) != 1:
        return "the orientation of the image (EXIF)"
    if form == "jpeg" and len(like.metadata.exif or b"") > MAX_JPEG_EXIF_BYTES:
        return "that much EXIF data"
    if form == "jpeg" and len(like.metadata.xmp or b"") > pillow_formats.MAX_JPEG_XMP_BYTES:
        return "that much XMP data"
    return None
