"""JPEG, WebP and BMP, by way of Pillow.

The plugin classes are called directly, not `PIL.Image.open`: its decompression-bomb check warns or
raises at limits that are not ours, and it opens the JPEG of a phone as a multi-picture MPO. The
WebP plugin checks by itself, so WebP is decoded with imagecodecs.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from self2self.image_io import exif
from self2self.image_io.image import Array, ImageRefused, Metadata, StoredImage, check_size
from self2self.image_io.png import INCH, expanded

QUALITY = 95
"""Of lossy output; without chroma subsampling, so that the loss stays far under the noise removed."""


MAX_JPEG_XMP_BYTES = 65533 - 29
"""One segment, less its length and the name that it begins with."""

COMMENT, IPTC = 0xFE, 0xED
"""Markers of JPEG segments that stay true when the pixels change."""

_PARTS = re.compile(rb"ns\.google\.com/photos/1\.0/(container|camera|depthmap)|ns\.adobe\.com/hdr-gain-map|HDRGainMap")
"""Namespaces of XMP that tells where in the file a gain map, a depth map or a film lies."""


def decode_jpeg(data: bytes) -> StoredImage:
    """The samples of a JPEG: 8-bit grey, RGB or CMYK (255 = full ink, whichever way Adobe stored it).

    Raises:
        Refused: 12 or 16 bits, or too small or large.
        Exception: any other, if the data are damaged.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    depth = _jpeg_depth(data)
    if depth not in (None, 8):
        raise ImageRefused(f"is a JPEG with {depth} bits per channel; expected 8. Convert it to a 16-bit TIFF.")
    picture = JpegImageFile(io.BytesIO(data))
    check_size(*picture.size)
    # Each block of 8x8 takes a bit at the very least (two in practice); libjpeg would paint all that is missing grey.
    if picture.size[0] * picture.size[1] > 64 * 8 * len(data):
        raise ValueError(f"{len(data)} bytes cannot hold {picture.size[0]}x{picture.size[1]} pixels")
    notes = ["only its main picture is read; the preview or gain map beside it is dropped"] * ("mp" in picture.info)
    values = _samples(picture)
    xmp = picture.info.get("xmp")
    if xmp is not None and _PARTS.search(xmp):
        # Readers of the output would look for those parts.
        xmp = None
        notes.append("its XMP describes a gain map, a depth map or a film in the file, and is dropped with it")
    # Pillow also fills "dpi" from EXIF, which is kept as it is.
    dpi = picture.info.get("dpi") if picture.info.get("jfif_unit") in (1, 2) else None
    metadata = Metadata(picture.info.get("icc_profile"), exif.bare(picture.info.get("exif")), dpi, xmp=xmp)
    metadata = replace(metadata, jpeg_segments=tuple(_kept_segments(picture)))
    return StoredImage(values, None, metadata, lossless=False, notes=tuple(notes))


def decode_webp(data: bytes) -> StoredImage:
    """The samples of a WebP: 8-bit RGB, with or without alpha.

    Raises:
        Refused: an animation, or too small or large.
        Exception: any other, if the data are damaged.
    """
    import imagecodecs

    chunks = _webp_chunks(data)
    frames = sum(1 for kind, _ in chunks if kind == b"ANMF")
    if frames > 1:
        raise ImageRefused(f"has {frames} frames; self2self takes one image a file. Save the frame you want as a PNG.")
    # WebP ends at 16383x16383 pixels, which is under MAX_PIXELS: no bomb to look for.
    samples = np.asarray(imagecodecs.webp_decode(data))
    check_size(samples.shape[1], samples.shape[0])
    alpha = samples[..., 3].copy() if samples.shape[2] == 4 else None
    blocks = dict(chunks)
    metadata = Metadata(blocks.get(b"ICCP"), exif.bare(blocks.get(b"EXIF")), xmp=blocks.get(b"XMP "))
    return StoredImage(np.ascontiguousarray(samples[..., :3]), alpha, metadata, lossless=b"VP8L" in blocks)


def decode_bmp(data: bytes) -> StoredImage:
    """The samples of a BMP: 8-bit grey or RGB, with or without alpha; palettes are expanded.

    Raises:
        Refused: too small or large.
        Exception: any other, if the data are damaged.
    """
    from PIL.BmpImagePlugin import BmpImageFile

    picture = BmpImageFile(io.BytesIO(data))
    check_size(*picture.size)
    notes: list[str] = []
    alpha = None
    mode = picture.mode
    samples = _samples(picture, {"1": "L", "P": "RGB"}.get(mode))
    if mode == "1":
        notes.append("1-bit grey is written as 8-bit grey")
    elif mode == "P":
        samples, note = expanded(samples, grey_allowed=True)
        notes.append(note)
    elif mode == "RGB" and data[28:30] == b"\x10\0":
        notes.append("16-bit colours (5 or 6 bits per channel) are written as 24-bit RGB")
    if samples.shape[2] == 4:
        samples, alpha = np.ascontiguousarray(samples[..., :3]), samples[..., 3].copy()
    return StoredImage(samples, alpha, Metadata(dpi=picture.info.get("dpi")), notes=tuple(notes))


def encode_jpeg(stored: StoredImage) -> bytes:
    """A baseline JPEG of uint8 grey, RGB or CMYK, at quality 95 without chroma subsampling."""
    blocks = _blocks(stored, b"Exif\0\0") | _dpi(stored)
    segments = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
        for marker, payload in stored.metadata.jpeg_segments
    )
    return _save(stored, "JPEG", quality=QUALITY, subsampling="4:4:4", extra=segments, **blocks)


def encode_webp(stored: StoredImage) -> bytes:
    """A WebP of uint8 grey or RGB, with or without alpha; lossless if the source was."""
    # exact: colours under transparent pixels are somebody's data, too.
    choice = {"lossless": True, "exact": True} if stored.lossless else {"quality": QUALITY}
    return _save(stored, "WEBP", **choice, **_blocks(stored, b""))


def encode_bmp(stored: StoredImage) -> bytes:
    """A BMP of uint8 grey or RGB, or of RGB with alpha."""
    if stored.alpha is None:
        return _save(stored, "BMP", **_dpi(stored))
    # Pillow writes alpha with a header that declares none, so that it is lost on the next read.
    height, width = stored.alpha.shape
    bgra = np.concatenate([stored.values[..., ::-1], stored.alpha[..., None]], axis=2)[::-1].tobytes()
    x, y = (round(dpi / INCH) for dpi in stored.metadata.dpi or (0.0, 0.0))
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I4s48x", 108, width, height, 1, 32, 3, len(bgra), x, y, 0, 0, *masks, b"BGRs")
    return struct.pack("<2sIHHI", b"BM", 14 + 108 + len(bgra), 0, 0, 14 + 108) + header + bgra


def _samples(picture: Any, mode: str | None = None) -> Array:
    """(H, W, C) uint8 of a Pillow image, converted to `mode` first if one is given."""
    picture.load()
    samples = np.asarray(picture.convert(mode) if mode else picture)
    if samples.dtype != np.uint8:
        raise ImageRefused(
            f"has pixels of Pillow's type {picture.mode}; expected 8 bits per channel. Convert it to PNG."
        )
    return samples.reshape(*samples.shape[:2], -1).copy()


def _save(stored: StoredImage, form: str, **options: Any) -> bytes:
    from PIL import Image as PillowImage

    samples = stored.values
    if stored.alpha is not None:
        if samples.shape[2] == 1:
            samples = np.repeat(samples, 3, axis=2)
        samples = np.concatenate([samples, stored.alpha[..., None]], axis=2)
    mode = {1: "L", 3: "RGB", 4: "CMYK" if stored.alpha is None else "RGBA"}[samples.shape[2]]
    buffer = io.BytesIO()
    picture = PillowImage.frombytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _kept_segments(picture: Any) -> Iterator[tuple[int, bytes]]:
    for name, payload in picture.applist:
        if name == "COM":
            yield COMMENT, payload
        elif name == "APP13" and payload.startswith(b"Photoshop 3.0\0"):
            yield IPTC, payload


def _blocks(stored: StoredImage, prefix: bytes) -> dict[str, Any]:
    blocks = {}
    if stored.metadata.xmp is not None:
        blocks["xmp"] = stored.metadata.xmp
    if stored.metadata.icc is not None:
        blocks["icc_profile"] = stored.metadata.icc
    if stored.metadata.exif is not None:
        blocks["exif"] = prefix + stored.metadata.exif
    return blocks


def _dpi(stored: StoredImage) -> dict[str, tuple[float, float]]:
    return {} if stored.metadata.dpi is None else {"dpi": stored.metadata.dpi}


def _jpeg_depth(data: bytes) -> int | None:
    """Bits per channel from the frame header, which Pillow reports only as an error; None if there is none."""
    position = 2
    while position + 5 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[position + 4]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def _webp_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks = []
    position, end = 12, int.from_bytes(data[4:8], "little") + 8
    while position + 8 <= end:
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if position + 8 + size > len(data):
            raise ValueError("the file ends inside a chunk")
        chunks.append((data[position : position + 4], data[position + 8 : position + 8 + size]))
        position += 8 + size + size % 2
    return chunks
