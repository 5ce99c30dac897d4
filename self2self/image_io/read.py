"""File → `Image`, and every reason why a file cannot be one."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from self2self.errors import InputError, ResourceError
from self2self.image_io import pillow_formats, png, tiff
from self2self.image_io.image import Array, Image, ImageRefused, StoredImage
from self2self.image_io.value_range import EXACT_SPAN, choose_scale, normalise

SUPPORTED = "PNG, TIFF, JPEG, WebP or BMP"

SIGNATURES: tuple[tuple[bytes, int, str], ...] = (
    (png.SIGNATURE, 0, "png"),
    (b"\xff\xd8\xff", 0, "jpeg"),
    (b"II*\0", 0, "tiff"),
    (b"MM\0*", 0, "tiff"),
    (b"II+\0", 0, "tiff"),
    (b"MM\0+", 0, "tiff"),
    (b"WEBP", 8, "webp"),
    (b"BM", 0, "bmp"),
    (b"GIF8", 0, "GIF"),
    (b"ftypavif", 4, "AVIF"),
    (b"ftyphe", 4, "HEIC"),
    (b"ftypmif1", 4, "HEIC"),
    (b"ftypcrx", 4, "camera raw"),
    (b"FUJIFILM", 0, "camera raw"),
    (b"IIU\0", 0, "camera raw"),
    (b"8BPS", 0, "Photoshop"),
    (b"%PDF", 0, "PDF"),
    (b"\x89HDF", 0, "HDF5"),
    (b"SIMPLE  =", 0, "FITS"),
    (b"\0\0\0\x0cjP  ", 0, "JPEG 2000"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"v/1\x01", 0, "OpenEXR"),
)
"""(bytes, their offset, format); the names in capitals are recognised only to be named."""

DECODERS: dict[str, Callable[[bytes], StoredImage]] = {
    "png": png.decode,
    "jpeg": pillow_formats.decode_jpeg,
    "webp": pillow_formats.decode_webp,
    "bmp": pillow_formats.decode_bmp,
}


def read_image(path: str | os.PathLike[str], *, whole_range: bool = False) -> Image:
    """Read one image; the format is taken from the content, not from the extension.

    Args:
        path: of the file.
        whole_range: black and white become 0 and 1, as the papers have it and as two files can be compared, however
            little of it the image uses; see `normalise.choose_scale`.

    Raises:
        InputError: the file is missing, unreadable, empty, damaged, cut off, of an unknown format, has
            several pages, unusual channels or sample types, NaN or infinity, or is under 8 or over
            2**29 pixels; one line each.
        ResourceError: the image does not fit into memory.
    """
    path = Path(path)
    form = format_of(path)
    with decoding(path, form):
        stored = tiff.decode(path) if form == "tiff" else DECODERS[form](path.read_bytes())
        return image_from(path, form, stored, whole_range=whole_range)


def image_from(path: Path, form: str, stored: StoredImage, *, whole_range: bool = False) -> Image:
    """The image of what a decoder returned.

    Raises:
        Refused: it has values that are not finite, or too far apart.
    """
    values, notes = stored.values, stored.notes
    check_finite(values)
    scale = choose_scale(values, whole_range=whole_range)
    if values.dtype.kind in "ui" and values.dtype.itemsize == 4:
        extreme = max(abs(bound) for bound in scale.bounds) * scale.scale
        if extreme > EXACT_SPAN:
            notes += ("32-bit values are kept to the 24 bits of float32",)
    return Image(
        pixels=normalise(values, scale.offset, scale.scale),
        alpha=stored.alpha,
        path=path,
        format=form,
        dtype=values.dtype,
        offset=scale.offset,
        scale=scale.scale,
        white=scale.white,
        sha256=_digest(values),
        lossless=stored.lossless,
        metadata=stored.metadata,
        notes=notes,
    )


def image_hash(image: Image) -> str:
    """SHA-256 in hex over shape, type and bytes of the stored colour values.

    The same pixels have the same hash in every format that stores them without loss; alpha,
    metadata, byte order and layout do not count.
    """
    return image.sha256


def _digest(values: Array) -> str:
    import hashlib

    planes = np.moveaxis(values, 2, 0)
    digest = hashlib.sha256(f"{planes.shape} {values.dtype.name}".encode())
    for plane in planes:
        digest.update(np.ascontiguousarray(plane, values.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def format_of(path: Path) -> str:
    """The format by the first bytes of the file.

    Raises:
        InputError: it cannot be read, or is of another format than those that are known.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; expected an image file. Give the files in it, such as {path}/*.png")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is not a regular file; expected an image file. Save the image to disk first.")
        with path.open("rb") as file:
            head = file.read(32)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file. Check the spelling and the folder.") from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read. Ask its owner, or use chmod +r.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({reason}). Check the path.") from error
    if not head:
        raise InputError(f"{path}: is empty (0 bytes); expected an image. Copy or download it again.")
    for signature, offset, form in SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            if form.islower() and form in (*DECODERS, "tiff"):
                return form
            article = "an" if form == "AVIF" else "a"
            raise InputError(
                f"{path}: is {article} {form} file; expected {SUPPORTED}. Convert it to PNG or TIFF first."
            )
    raise InputError(f"{path}: is of an unknown format; expected {SUPPORTED}. Convert it to PNG or TIFF first.")


@contextlib.contextmanager
def decoding(path: Path, form: str) -> Iterator[None]:
    """Turn whatever a codec does about a bad file into one line; warnings and log lines are dropped.

    Raises:
        InputError, ResourceError: names the file.
    """
    import logging

    logger = logging.getLogger("tifffile")
    logger.addFilter(_silence)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageRefused as error:
        raise InputError(f"{path}: {error}") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: does not fit into memory. Cut it into parts and denoise each.") from error
    except Exception as error:
        # Codecs raise anything on damaged bytes: struct.error, KeyError, their own classes.
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path}: cannot be decoded as {form.upper()}; it is damaged, cut off or of an unknown variety "
            f"({reason}). Copy it again, or save it anew as {'an uncompressed TIFF' if form == 'tiff' else 'PNG'}."
        ) from error
    finally:
        logger.removeFilter(_silence)


def _silence(_: object) -> bool:
    return False


def check_finite(values: Array) -> None:
    """Refuse NaN and infinity.

    Raises:
        Refused: says how many there are.
    """
    if values.dtype.kind != "f":
        return
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        nan = int(np.count_nonzero(np.isnan(values)))
        raise ImageRefused(
            f"has {bad} values that are no numbers ({nan} NaN, {bad - nan} infinite); expected finite ones. "
            "Replace them by interpolation or by the median, e.g. with numpy.nan_to_num."
        )
