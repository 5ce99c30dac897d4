"""HEIC, the format of phones, through pillow-heif (libheif).

A file does not tell whether its pixels were stored without loss. So none is added: the output is lossless.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from self2self.image_io import exif
from self2self.image_io.format import Format, opens_with, split_alpha, with_alpha, writes_with
from self2self.image_io.formats import iso_media
from self2self.image_io.image import Header, Image, Metadata, StoredImage, check_size

_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def recognises(head: bytes, path: Any) -> bool:
    """Whether a file has one of the brands of HEIC; AVIF, which shares `mif1`, is asked before."""
    return not _BRANDS.isdisjoint(iso_media.brands(head))


def decode(data: bytes) -> StoredImage:
    """Decode the main image, turned upright: uint8, or uint16 into which 10 or 12 bits are spread.

    Raises:
        ImageRefused: the image is too small or too large.
        Exception: of any other class, if the data are damaged.
    """
    import pillow_heif

    file = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    check_size(*file.size)
    notes = ["only its main picture is read; the other ones are dropped"] * (len(file) > 1)
    samples = np.asarray(file)
    values, alpha = split_alpha(samples[..., None] if samples.ndim == 2 else samples)
    info = file.info
    bits = int(info.get("bit_depth", 8))
    if bits > 8:
        notes.append(f"its {bits}-bit values are spread over 16 bits; a HEIC is written with {bits} bits again")
    metadata = Metadata(
        info.get("icc_profile"),
        exif.upright(exif.without_prefix(info.get("exif"))),
        xmp=info.get("xmp"),
        header=Header("heic", bits),
    )
    return StoredImage(
        np.ascontiguousarray(values), None if alpha is None else alpha.copy(), metadata, notes=tuple(notes)
    )


def encode(stored: StoredImage) -> bytes:
    """Encode uint8 without loss, or uint16 with as many bits as the source."""
    import pillow_heif

    metadata = stored.metadata
    samples = with_alpha(stored)
    if samples.shape[2] == 2:
        # libheif has no grey with alpha.
        samples = np.concatenate([np.repeat(samples[..., :1], 3, axis=2), samples[..., 1:]], axis=2)
    mode = _MODES[samples.shape[2]] + (";16" if samples.dtype == np.uint16 else "")
    file = pillow_heif.from_bytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    known = metadata.header
    pillow_heif.options.SAVE_HDR_TO_12_BIT = known is None or known.format != "heic" or known.content == 12
    blocks = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp}
    file[0].info.update({key: block for key, block in blocks.items() if block})
    buffer = io.BytesIO()
    file.save(buffer, quality=-1, chroma=444, matrix_coefficients=0)
    return buffer.getvalue()


def _cannot_hold(image: Image) -> str | None:
    header = image.metadata.header
    if image.dtype == np.uint16 and (header is None or header.format != "heic"):
        return "16-bit values, except those of a HEIC of 10 or 12 bits"
    if image.alpha is not None and image.premultiplied_alpha:
        return "premultiplied alpha"
    # libheif turns the pixels itself, and readers have to ignore the orientation in EXIF.
    return None if exif.orientation(image.metadata.exif) == 1 else "the orientation of the image (EXIF)"


FORMAT = Format(
    "heic",
    "HEIC",
    recognises,
    (".heic", ".heif"),
    opens_with(decode),
    writes_with(encode),
    types=frozenset(("uint8", "uint16")),
    alpha_channels=frozenset((1, 3)),
    cannot_hold=_cannot_hold,
    needs="pillow_heif",
    extra="heic",
)
