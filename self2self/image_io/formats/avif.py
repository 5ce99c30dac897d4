"""AVIF: the pixels through imagecodecs (libavif), which keeps 10 and 12 bits; the metadata through Pillow.

A file does not tell whether its pixels were stored without loss. So little or none is added: the output is lossless,
or, where it has metadata, of the best quality that Pillow writes.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from self2self.image_io import exif
from self2self.image_io.format import Format, opens_with, split_alpha, with_alpha, writes_with
from self2self.image_io.formats import iso_media
from self2self.image_io.image import Header, Image, ImageRefused, Metadata, StoredImage, check_size

MAX_BITS = 12


def recognises(head: bytes, path: Any) -> bool:
    """Whether a file has one of the brands of AVIF."""
    return not {b"avif", b"avis"}.isdisjoint(iso_media.brands(head))


def decode(data: bytes) -> StoredImage:
    """Decode uint8, or uint16 with values of 10 or 12 bits, grey or RGB, with or without alpha.

    Raises:
        ImageRefused: the file is an animation, or the image is too small or too large.
        Exception: of any other class, if the data are damaged.
    """
    import imagecodecs
    from PIL.AvifImagePlugin import AvifImageFile

    picture = AvifImageFile(io.BytesIO(data))
    check_size(*picture.size)
    if (frames := getattr(picture, "n_frames", 1)) > 1:
        raise ImageRefused(f"has {frames} frames; self2self takes one image a file. Save the frame you want as a PNG.")
    samples = np.asarray(imagecodecs.avif_decode(data))
    values, alpha = split_alpha(samples[..., None] if samples.ndim == 2 else samples)
    info = picture.info
    metadata = Metadata(info.get("icc_profile"), exif.without_prefix(info.get("exif")), xmp=info.get("xmp"))
    notes = []
    if values.dtype != np.uint8:
        bits = _bits(data)
        blocks = {"colour profile": metadata.icc, "EXIF": metadata.exif, "XMP": metadata.xmp}
        dropped = ", ".join(name for name, block in blocks.items() if block)
        metadata = Metadata(header=Header("avif", bits))
        notes.append(f"its {bits}-bit values are kept in 16 bits" + (f"; dropped: {dropped}" if dropped else ""))
    return StoredImage(
        np.ascontiguousarray(values), None if alpha is None else alpha.copy(), metadata, notes=tuple(notes)
    )


def encode(stored: StoredImage) -> bytes:
    """Encode grey or RGB, with or without alpha; uint16 with as many bits as the source, at most 12."""
    import imagecodecs

    samples = with_alpha(stored)
    samples = np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    metadata = stored.metadata
    if samples.dtype == np.uint8 and (metadata.icc or metadata.exif or metadata.xmp):
        return _encode_with_metadata(samples, metadata)
    bits = 8
    if samples.dtype == np.uint16:
        assert metadata.header is not None  # noqa: S101 - `_cannot_hold` refuses the others
        bits = metadata.header.content
        samples = np.minimum(samples, np.uint16(2**bits - 1))
    return bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))


def _encode_with_metadata(samples: Any, metadata: Metadata) -> bytes:
    from PIL import Image as PillowImage

    blocks = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp}
    buffer = io.BytesIO()
    picture = PillowImage.fromarray(samples)
    picture.save(
        buffer, "AVIF", quality=100, subsampling="4:4:4", **{key: block for key, block in blocks.items() if block}
    )
    return buffer.getvalue()


def _bits(data: bytes) -> int:
    """Bits per channel, from the property `av1C` of the main image."""
    place = data.find(b"av1C")
    return MAX_BITS if place >= 0 and data[place + 6] & 0x20 else 10


def _cannot_hold(image: Image) -> str | None:
    header = image.metadata.header
    if image.dtype == np.uint16 and (header is None or header.format != "avif"):
        return "16-bit values, except those of an AVIF of 10 or 12 bits"
    return "premultiplied alpha" if image.premultiplied_alpha else None


FORMAT = Format(
    "avif",
    "AVIF",
    recognises,
    (".avif",),
    opens_with(decode),
    writes_with(encode),
    types=frozenset(("uint8", "uint16")),
    alpha_channels=frozenset((1, 3)),
    cannot_hold=_cannot_hold,
    article="an",
)
