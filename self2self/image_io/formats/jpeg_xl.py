"""JPEG XL through imagecodecs (libjxl); EXIF and XMP are boxes beside the pixels, which this module reads and writes.

The colours of a file are kept by name, such as Display P3 or linear sRGB (`jpeg_xl_header`). An ICC profile is
compressed in a way of its own, and lost.

A file does not tell whether its pixels were stored without loss. So none is added: the output is lossless.
"""

from __future__ import annotations

import numpy as np

from self2self.image_io import exif
from self2self.image_io.format import Format, begins_with, opens_with, split_alpha, with_alpha, writes_with
from self2self.image_io.formats import iso_media
from self2self.image_io.formats.jpeg_xl_header import Colours, read_colours, with_colours
from self2self.image_io.image import Header, Image, ImageRefused, Metadata, StoredImage, check_size

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
PROFILE_NOTE = (
    "its colour profile cannot be kept, so other programs will take the colours of the result for those of sRGB; "
    "save it as a PNG or TIFF with its profile first"
)


def decode(data: bytes) -> StoredImage:
    """Decode grey or RGB, with or without alpha, of 8 or 16 bits or floats; turned upright.

    Raises:
        ImageRefused: the file is an animation, or the image is too small.
        Exception: of any other class, if the data are damaged.
    """
    import imagecodecs

    samples = np.asarray(imagecodecs.jpegxl_decode(data))
    if samples.ndim > 3:
        raise ImageRefused(f"has {len(samples)} frames; self2self takes one image a file. Save the frame as a PNG.")
    samples = samples[..., None] if samples.ndim == 2 else samples
    check_size(samples.shape[1], samples.shape[0])
    values, alpha = split_alpha(samples)
    content = dict(iso_media.boxes(data)) if data.startswith(_CONTAINER) else {}
    # Four bytes tell where the TIFF structure begins.
    block = content.get(b"Exif", b"")[4:]
    colours = _colours(data)
    has_profile = colours is not None and colours.profile
    metadata = Metadata(
        exif=exif.upright(exif.without_prefix(block)),
        xmp=content.get(b"xml "),
        header=None if colours is None or has_profile else Header("jpegxl", colours),
    )
    notes = (PROFILE_NOTE,) * has_profile
    return StoredImage(np.ascontiguousarray(values), None if alpha is None else alpha.copy(), metadata, notes=notes)


def _colours(data: bytes) -> Colours | None:
    """What a file says of its colours; None if that is nothing out of the ordinary, or cannot be read."""
    parts = ((kind, part) for kind, part in iso_media.boxes(data) if kind in (b"jxlc", b"jxlp"))
    kind, codestream = next(parts, (b"", b"")) if data.startswith(_CONTAINER) else (b"", data)
    try:
        # A part begins with its number.
        return read_colours(codestream[4:] if kind == b"jxlp" else codestream)
    except ValueError:
        return None


def encode(stored: StoredImage) -> bytes:
    """Encode uint8, uint16, float16 or float32 without loss, grey or RGB, with or without alpha."""
    import imagecodecs

    samples = with_alpha(stored)
    samples = samples[..., 0] if samples.shape[2] == 1 else samples
    data = bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(samples), lossless=True, usecontainer=True))
    colours = _colours_for(stored)
    if colours is not None:
        # All boxes but that of the codestream stay, such as the level that a decoder needs.
        parts = (
            (kind, with_colours(part, colours) if kind == b"jxlc" else part) for kind, part in iso_media.boxes(data)
        )
        data = b"".join(iso_media.box(kind, part) for kind, part in parts)
    if stored.metadata.exif is not None:
        data += iso_media.box(b"Exif", bytes(4) + stored.metadata.exif)
    if stored.metadata.xmp is not None:
        data += iso_media.box(b"xml ", stored.metadata.xmp)
    return data


def _colours_for(stored: StoredImage) -> Colours | None:
    """The colours of the source; sRGB for integers of other formats; None to leave what imagecodecs writes."""
    import imagecodecs

    header = stored.metadata.header
    if header is not None and header.format == "jpegxl":
        known: Colours = header.content
        return known
    if stored.values.dtype.kind == "f":
        return None
    like = np.zeros((8, 8) if stored.values.shape[2] == 1 else (8, 8, 3), np.uint8)
    return read_colours(bytes(imagecodecs.jpegxl_encode(like, lossless=True, usecontainer=False)))


def _names_srgb(profile: bytes) -> bool:
    return b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile


def _cannot_hold(image: Image) -> str | None:
    if image.metadata.icc is not None and not _names_srgb(image.metadata.icc):
        return "the colour profile"
    # Readers of JPEG XL have to ignore the orientation in EXIF.
    return None if exif.orientation(image.metadata.exif) == 1 else "the orientation of the image (EXIF)"


FORMAT = Format(
    "jpegxl",
    "JPEG XL",
    begins_with(_CODESTREAM, _CONTAINER),
    (".jxl",),
    opens_with(decode),
    writes_with(encode),
    types=frozenset(("uint8", "uint16", "float16", "float32")),
    alpha_channels=frozenset((1, 3)),
    cannot_hold=_cannot_hold,
)
