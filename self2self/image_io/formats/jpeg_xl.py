"""JPEG XL through imagecodecs (libjxl); EXIF and XMP are boxes beside the pixels, which this module reads and writes.

A file does not tell whether its pixels were stored without loss. So none is added: the output is lossless.
"""

from __future__ import annotations

import numpy as np

from self2self.image_io import exif
from self2self.image_io.format import Format, begins_with, opens_with, split_alpha, with_alpha, writes_with
from self2self.image_io.formats import iso_media
from self2self.image_io.image import Image, ImageRefused, Metadata, StoredImage, check_size

_CODESTREAM, _CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"


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
    metadata = Metadata(exif=exif.upright(exif.without_prefix(block)), xmp=content.get(b"xml "))
    return StoredImage(np.ascontiguousarray(values), None if alpha is None else alpha.copy(), metadata)


def encode(stored: StoredImage) -> bytes:
    """Encode uint8, uint16, float16 or float32 without loss, grey or RGB, with or without alpha."""
    import imagecodecs

    samples = with_alpha(stored)
    samples = samples[..., 0] if samples.shape[2] == 1 else samples
    data = bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(samples), lossless=True, usecontainer=True))
    if stored.metadata.exif is not None:
        data += iso_media.box(b"Exif", bytes(4) + stored.metadata.exif)
    if stored.metadata.xmp is not None:
        data += iso_media.box(b"xml ", stored.metadata.xmp)
    return data


def _cannot_hold(image: Image) -> str | None:
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
