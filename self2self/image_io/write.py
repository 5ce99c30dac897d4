"""Writes new pixels in the type and layout of their source `Image`.

`check_output` finds every reason why a file cannot be written or cannot hold the image, before a slow fit begins.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import EngineUnavailableError, OutputError, Self2SelfError
from self2self.image_io import exif
from self2self.image_io.axes import axes_for_floats
from self2self.image_io.format import Format
from self2self.image_io.formats import BY_EXTENSION, format_named
from self2self.image_io.image import Array, Image, Metadata, StoredImage
from self2self.image_io.read import format_of
from self2self.image_io.value_range import restore
from self2self.image_io.volumes.kinds import default_volume_output, is_volume
from self2self.imaging import mosaic
from self2self.machine.files import atomic_path, check_new
from self2self.machine.marks import Mark

EXTENSIONS = {extension: file_format.name for extension, file_format in BY_EXTENSION.items()}
"""File extension → name of its format, of all formats that can be written."""

RESULT_MARK = ".denoised"
"""End of the stem of every result that gets its name here."""

FLOAT32 = np.dtype(np.float32)

PROPOSED = tuple(format_named(name) for name in ("png", "tiff", "jpeg", "webp", "bmp"))
"""Formats that messages propose, the best first; none needs another package."""


def default_output(source: str | os.PathLike[str] | Image) -> Path:
    """`<stem>.denoised.<extension>` beside the input; the extension fits the format of the input's content."""
    path = source.path if isinstance(source, Image) else Path(source)
    if is_volume(path):
        return default_volume_output(path)
    file_format = format_named(source.format) if isinstance(source, Image) else _format_by_content(path)
    stem, suffix = _split_name(path)
    if file_format is not None and BY_EXTENSION.get(suffix.lower()) is not file_format:
        suffix = file_format.extensions[0]
    return path.with_name(f"{stem}{RESULT_MARK}{suffix}")


def is_result_name(path: Path) -> bool:
    """Whether the name is that of a result: ``<stem>.denoised.<extension>``."""
    stem, _ = _split_name(path)
    return stem.endswith(RESULT_MARK)


def _split_name(path: Path) -> tuple[str, str]:
    """The name of a file without its extension, and the extension, which may have two dots (.nii.gz)."""
    double = "".join(path.suffixes[-2:])
    suffix = double if double.lower() in BY_EXTENSION or double.lower() == ".ome.zarr" else path.suffix
    return path.name[: len(path.name) - len(suffix)], suffix


def _format_by_content(path: Path) -> Format | None:
    try:
        return format_of(path)
    except Self2SelfError:
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
        EngineUnavailableError: the package that writes the format is not installed.
        ResourceError: the disk is full.
    """
    file_format = _format_by_extension(path, like)
    if float_map and not _holds_maps(file_format):
        raise OutputError(f"{path}: {file_format.title} cannot hold a map of numbers. Use the extension .tif or .png.")
    if float_map and like is not None:
        like = _as_map(like, file_format)
    if not file_format.is_installed:
        raise EngineUnavailableError(
            f"{path}: writing {file_format.in_words} needs the package {file_format.needs}. "
            f"Install it: {file_format.install_command}"
        )
    if like is not None:
        _refuse_unsuitable_format(path, file_format, like)
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
    stored = StoredImage(stored_values(pixels, like), like.alpha, like.metadata, like.lossless)
    if (develop := _developer(file_format, like)) is not None:
        stored = develop(stored)
    write_pages(path, file_format, [stored], 1, mark)


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

    The file holds float32 in the units of the input file (grey levels, counts: `array * like.scale`). A PNG holds 16
    bits, where 65535 stands for 1.0 in the units of `like.pixels`, that is for the range from 0 to 1 of the network;
    larger values are clipped. The description in the file states the unit. Where nothing is measured the map is 0, as
    the result has the stored value there.

    Args:
        path: .png, or the extension of a format that holds float32, such as .tif.
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
    if _packs_maps(file_format):
        values = stored_deviations(array, like, scale=65535.0, dtype=np.dtype(np.uint16))
        unit = f"65535 stands for {like.scale:g} in the units of the image file"
    else:
        values = stored_deviations(array, like)
        unit = "in the units of the image file"
    # A file with a unit of its own says that, and not the axes of TIFFs.
    metadata = replace(like.metadata, description=None) if _packs_maps(file_format) else like.metadata
    write_pages(path, file_format, [StoredImage(values, None, map_metadata(metadata, unit))], 1, mark)


def map_metadata(metadata: Metadata, unit: str = "in the units of the image file") -> Metadata:
    """Metadata of a map of standard deviations: orientation, resolution and axes of its image, and a description.

    Args:
        metadata: of the image.
        unit: of the map, for the description.
    """
    text = f"standard deviation of each pixel, {unit}"
    return Metadata(
        exif=exif.orientation_block(exif.orientation(metadata.exif)),
        dpi=metadata.dpi,
        description=axes_for_floats(metadata.description, text) or text,
    )


def _check_pixels(pixels: Array, like: Image) -> None:
    if pixels.shape != like.pixels.shape:
        raise ValueError(f"pixels have the shape {pixels.shape}; expected {like.pixels.shape}")
    if not all(np.isfinite(row).all() for channel in pixels for row in channel):
        raise ValueError("pixels have NaN or infinite values; expected finite ones")


def _check_and_choose_format(
    path: str | os.PathLike[str], like: Image, *, force: bool, float_map: bool = False
) -> Format:
    check_output(path, force=force, like=like, float_map=float_map)
    return _format_by_extension(path, like)


def write_pages(
    path: str | os.PathLike[str],
    file_format: Format,
    images: Iterable[StoredImage],
    count: int,
    mark: Mark | None = None,
) -> None:
    """Write `count` images as the pages of a file, which appears complete or not at all.

    Args:
        path: a file that may be replaced.
        file_format: one that can be written, and that can hold the images (`check_output`).
        images: of one size and type.
        count: number of images.
        mark: says which job made the file (`machine.marks`).

    Raises:
        OutputError, ResourceError: the file cannot be written.
    """
    assert file_format.write is not None  # noqa: S101 - extensions lead only to formats that can be written
    with atomic_path(path, mark=mark) as temporary:
        file_format.write(temporary, images, count)


def format_by_extension(path: str | os.PathLike[str]) -> Format:
    """The format of an output, by its extension.

    Raises:
        OutputError: there is no such format, or it is only read.
    """
    return _format_by_extension(path, None)


def _format_by_extension(path: str | os.PathLike[str], like: Image | None) -> Format:
    """As `format_by_extension`; the message proposes only formats that can hold `like`."""
    suffix = _split_name(Path(path))[1]
    file_format = BY_EXTENSION.get(suffix.lower())
    if file_format is None:
        got = f"the extension {suffix}" if suffix else "no extension"
        raise OutputError(f"{path}: has {got}; expected {_extensions_for(like)}.")
    return file_format


def _extensions_for(like: Image | None) -> str:
    """The extensions to propose for `like`, in words; that of its own format comes first."""
    own = () if like is None else (format_named(like.format),)
    possible = [
        known.extensions[0]
        for known in dict.fromkeys((*own, *PROPOSED))
        if known.write is not None and (like is None or _unsupported_feature(known, like) is None)
    ]
    return " or ".join(filter(None, (", ".join(possible[:-1]), possible[-1])))


def _packs_maps(file_format: Format) -> bool:
    """Whether a map of numbers is packed into 16 bits, because the format has no floats."""
    return file_format.name == "png"


def _holds_maps(file_format: Format) -> bool:
    return "float32" in file_format.types or _packs_maps(file_format)


def _as_map(like: Image, file_format: Format) -> Image:
    """An image with what a file has to hold of a map of `like`."""
    dtype = np.dtype(np.uint16 if _packs_maps(file_format) else np.float32)
    return replace(like, format=file_format.name, dtype=dtype, alpha=None, metadata=map_metadata(like.metadata))


def _refuse_unsuitable_format(path: str | os.PathLike[str], file_format: Format, like: Image) -> None:
    unsupported = _unsupported_feature(file_format, like)
    if unsupported is not None:
        better = next(known for known in PROPOSED if _unsupported_feature(known, like) is None)
        raise OutputError(
            f"{path}: {file_format.title} cannot hold {unsupported}. Use the extension {better.extensions[0]}"
        )


def _developer(file_format: Format, like: Image) -> Callable[[StoredImage], StoredImage] | None:
    """What makes an image of another format of `like`; None if the samples stay the same."""
    own = format_named(like.format)
    return None if own is file_format else own.develop


def _unsupported_feature(file_format: Format, like: Image) -> str | None:
    """The feature of `like` that the format cannot hold, in words; None if the format can hold the image."""
    channels = like.pixels.shape[0] if _developer(file_format, like) is None else 3
    if channels not in file_format.channels:
        return {1: "grey", 3: "RGB", 4: "CMYK"}[channels]
    if like.dtype.name not in file_format.types:
        return f"{like.dtype.name} values"
    if like.alpha is not None and channels not in file_format.alpha_channels:
        return "grey with transparency (alpha)" if file_format.alpha_channels else "transparency (alpha)"
    return file_format.cannot_hold(like)
