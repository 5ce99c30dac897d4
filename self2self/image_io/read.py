"""Reads an image file into an `Image`; refuses files that cannot be used, with one line that says why."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from self2self.errors import EngineUnavailableError, InputError, ResourceError, typed
from self2self.image_io.format import HEAD_BYTES, Format, Pages
from self2self.image_io.formats import FORMATS
from self2self.image_io.image import Array, Image, ImageRefused, MissingPixels, StoredImage
from self2self.image_io.missing import Nodata, filled, find_missing
from self2self.image_io.value_range import EXACT_INTEGER_SPAN, ValueRange, choose_value_range, normalise
from self2self.image_io.volumes.kinds import is_volume
from self2self.imaging.mosaic import arranged, is_mosaic


def read_image(
    path: str | os.PathLike[str], *, whole_range: bool = False, nodata: Nodata = None, mosaic: bool | None = None
) -> Image:
    """Read one image; its content decides the format, not its extension.

    Args:
        path: of the file.
        whole_range: map black to 0 and white to 1, as in the papers and as comparisons of two files need it, even if
            the image uses little of that range; for exceptions see `value_range.choose_value_range`.
        nodata: stored value of pixels that hold no measurement; ``"none"`` if no value stands for them; None if the
            file tells, or its values (`missing.find_missing`).
        mosaic: whether an image of one channel is a mosaic of colour filters; None if the file tells, or its values
            (`imaging.mosaic`).

    Raises:
        InputError: the file is missing, unreadable, empty, damaged, cut off, of an unknown format, has
            several pages, unusual channels or sample types, a side under 8 pixels, or over 2**29 pixels in
            all. The message is one line.
        ResourceError: the image does not fit into memory.
    """
    path = Path(path)
    file_format = format_of(path)
    with decoding(path, file_format), contextlib.closing(open_pages(file_format, path)) as pages:
        if pages.count > 1:
            raise ImageRefused(f"has {pages.count} pages; expected one image here. Save the page as a file of its own.")
        return image_from(path, file_format.name, pages.read(0), whole_range=whole_range, nodata=nodata, mosaic=mosaic)


def open_pages(file_format: Format, path: Path) -> Pages:
    """Open a file whose format can be read (`format_of`); raises as `Pages.read`."""
    assert file_format.open is not None  # noqa: S101 - format_of refuses the others
    return file_format.open(path)


def image_from(
    path: Path,
    file_format: str,
    stored: StoredImage,
    *,
    whole_range: bool = False,
    nodata: Nodata = None,
    mosaic: bool | None = None,
    value_range: ValueRange | None = None,
) -> Image:
    """Make an `Image` of the samples that a decoder returned.

    Args:
        path: of the file.
        file_format: as `Image.format`.
        stored: the samples and metadata.
        whole_range: as for `read_image`.
        nodata: as for `read_image`.
        mosaic: as for `read_image`.
        value_range: the range that maps to [0, 1], which `whole_range` does not change; None for that of the values.

    Raises:
        ImageRefused: the range of the values exceeds float64, or `mosaic` is set for several channels.
    """
    notes, unmeasured = stored.notes, find_missing(stored, nodata)
    sha256 = _pixel_hash(stored.values, unmeasured)
    values, missing = stored.values, None if unmeasured is None else unmeasured.where
    if mosaic is None and stored.mosaic:
        mosaic = True
    elif mosaic is None:
        mosaic = values.shape[2] == 1 and missing is None and is_mosaic(values[..., 0])
        notes += (_mosaic_note(),) * mosaic
    if mosaic and values.shape[2] != 1:
        raise ImageRefused(
            f"has {values.shape[2]} channels; expected one, as it is to be a mosaic of colour filters. "
            f"Convert it to grey, or leave out {typed('--mosaic')}."
        )
    if mosaic:
        values, missing = arranged(values), None if missing is None else arranged(missing)
    values = values if missing is None else filled(values, missing)
    if value_range is None:
        value_range = choose_value_range(values, whole_range=whole_range, missing=missing)
    if values.dtype.kind in "ui" and values.dtype.itemsize == 4:
        farthest = max(abs(extreme) for extreme in value_range.extremes) * value_range.scale
        if farthest > EXACT_INTEGER_SPAN:
            notes += ("32-bit values are kept to the 24 bits of float32",)
    return Image(
        pixels=normalise(values, value_range.offset, value_range.scale),
        alpha=stored.alpha,
        path=path,
        format=file_format,
        dtype=values.dtype,
        offset=value_range.offset,
        scale=value_range.scale,
        white=value_range.white,
        sha256=sha256,
        lossless=stored.lossless,
        metadata=stored.metadata,
        notes=notes,
        unmeasured=unmeasured,
        mosaic=mosaic,
    )


def image_hash(image: Image) -> str:
    """The SHA-256 of an image in hex, over shape, type and bytes of the stored colour values.

    The same pixels have the same hash in every lossless format; metadata, byte order and layout do not affect it. Which
    of the pixels are missing does, because a fit does not see those.
    """
    return image.sha256


def _pixel_hash(values: Array, unmeasured: MissingPixels | None) -> str:
    import hashlib

    planes = np.moveaxis(values, 2, 0)
    digest = hashlib.sha256(f"{planes.shape} {values.dtype.name}".encode())
    for plane in planes:
        digest.update(np.ascontiguousarray(plane, values.dtype.newbyteorder("<")).data)
    if unmeasured is not None:
        digest.update(np.packbits(unmeasured.where).data)
    return digest.hexdigest()


def check_readable(path: str | os.PathLike[str]) -> None:
    """Refuse files that are no images, by their first bytes; a file that passes may still be damaged.

    Raises:
        InputError, EngineUnavailableError: as `format_of`.
    """
    format_of(Path(path))


def format_of(path: Path) -> Format:
    """The format of a file, by its content; one that can be read here.

    Raises:
        InputError: the file cannot be read, or its format is not supported.
        EngineUnavailableError: the package that reads its format is not installed.
    """
    if is_volume(path):
        raise InputError(f"{path}: is a volume; expected an image file. Denoise it with: self2self denoise {path}")
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; expected an image file. Give the files in it, such as {path}/*.png")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file; expected an image file. Save the image to disk first.")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file. Check the spelling and the folder.") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read. Ask its owner, or use chmod +r.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}). Check the path.") from error
    if not head:
        raise InputError(f"{path}: is empty (0 bytes); expected an image. Copy or download it again.")
    file_format = next((candidate for candidate in FORMATS if candidate.recognises(head, path)), None)
    if file_format is None or file_format.open is None:
        kind = "of an unknown format" if file_format is None else file_format.in_words
        raise InputError(f"{path}: is {kind}; expected {_supported()}. Convert it to PNG or TIFF first.")
    if not file_format.is_installed:
        raise EngineUnavailableError(
            f"{path}: is {file_format.in_words}; reading it needs the package {file_format.needs}. "
            f"Install it: {file_format.install_command}"
        )
    return file_format


def _supported() -> str:
    """The formats that can be read here, in words."""
    titles = [known.title for known in FORMATS if known.open is not None and known.is_installed]
    return f"{', '.join(titles[:-1])} or {titles[-1]}"


@contextlib.contextmanager
def decoding(path: Path, file_format: Format) -> Iterator[None]:
    """Turn any error of a codec on a bad file into a message of one line; drop the codec's warnings and log records.

    Args:
        path: of the file, for messages.
        file_format: of the file, for messages.

    Raises:
        InputError: the file cannot be decoded or used.
        ResourceError: the image does not fit into memory.
    """
    import logging

    logger = logging.getLogger("tifffile")
    logger.addFilter(_drop_log_record)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageRefused as error:
        raise InputError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: does not fit into memory. Cut it into parts and denoise each.") from error
    except Exception as error:
        # Codecs raise exceptions of any class on damaged bytes: struct.error, KeyError, their own.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        other = "PNG" if file_format.types <= {"uint8", "uint16"} else "an uncompressed TIFF"
        raise InputError(
            f"{path}: cannot be decoded as {file_format.title}; it is damaged, cut off or of an unknown variety "
            f"({reason}). Copy it again, or save it anew as {other}."
        ) from error
    finally:
        logger.removeFilter(_drop_log_record)


def _drop_log_record(_: object) -> bool:
    return False


def _mosaic_note() -> str:
    return (
        "is a mosaic of colour filters, by its period of two pixels; its four planes are denoised side by side "
        f"({typed('--no-mosaic')} takes it as an ordinary image)"
    )
