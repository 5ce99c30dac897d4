"""Decodes and encodes JPEG, WebP and BMP with Pillow.

The decoders call the plugin classes directly, not `PIL.Image.open`: its decompression-bomb check has other limits than
`check_size`, and it opens the JPEG of a phone as a multi-picture MPO. The WebP plugin runs that check itself, so WebP
is decoded with imagecodecs.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from self2self.image_io import exif, jpeg_end
from self2self.image_io.format import Format, begins_with, opens_with, writes_with
from self2self.image_io.image import Array, Image, ImageRefused, Metadata, StoredImage, check_size
from self2self.image_io.png import METRES_PER_INCH, grey_or_rgb_of_palette

LOSSY_QUALITY = 95
"""Quality of lossy output. Chroma is not subsampled, so that the loss stays far below the noise that was removed."""


MAX_JPEG_SIDE, MAX_WEBP_SIDE = 65500, 16383
"""Largest width and height in pixels."""

MAX_JPEG_EXIF_BYTES = 65535 - 2 - 6
"""One segment, less its length field and the "Exif" prefix."""

MAX_JPEG_XMP_BYTES = 65533 - 29
"""Largest XMP in one segment: a segment without its length field, less the 29 bytes of the XMP name."""

COMMENT_MARKER, IPTC_MARKER = 0xFE, 0xED
"""Markers of the JPEG segments that remain valid when the pixels change."""

_EMBEDDED_PARTS = re.compile(
    rb"ns\.google\.com/photos/1\.0/(container|camera|depthmap)|ns\.adobe\.com/hdr-gain-map|HDRGainMap"
)
"""XMP namespaces that locate a gain map, a depth map or a film inside the file."""


def decode_jpeg(data: bytes) -> StoredImage:
    """Decode the samples of a JPEG: 8-bit grey, RGB or CMYK (255 = full ink, also if Adobe stored it inverted).

    Raises:
        ImageRefused: the image has 12 or 16 bits per channel, or is too small or too large.
        Exception: of any other class, if the data are damaged.
    """
    from PIL.JpegImagePlugin import JpegImageFile

    depth = _bits_per_jpeg_channel(data)
    if depth not in (None, 8):
        raise ImageRefused(f"is a JPEG with {depth} bits per channel; expected 8. Convert it to a 16-bit TIFF.")
    picture = JpegImageFile(io.BytesIO(data))
    check_size(*picture.size)
    # Each 8x8 block takes at least one bit (two in practice). libjpeg would fill missing blocks with grey.
    if picture.size[0] * picture.size[1] > 64 * 8 * len(data):
        raise ValueError(f"{len(data)} bytes cannot hold {picture.size[0]}x{picture.size[1]} pixels")
    notes = ["only its main picture is read; the preview or gain map beside it is dropped"] * ("mp" in picture.info)
    values = None
    # An end without a marker is an error for Pillow only if no other bytes follow, such as a phone's notes.
    with contextlib.suppress(OSError):
        values = _samples_of(picture)
    if values is None or not jpeg_end.has_end_marker(data):
        picture = JpegImageFile(io.BytesIO(jpeg_end.completed(data, _jpeg_samples)))
        values = _samples_of(picture)
        notes.append("its end marker is missing; all pixels are there")
    xmp = picture.info.get("xmp")
    if xmp is not None and _EMBEDDED_PARTS.search(xmp):
        # Readers of the output would look for the dropped parts.
        xmp = None
        notes.append("its XMP describes a gain map, a depth map or a film in the file, and is dropped with it")
    # Pillow may take "dpi" from EXIF instead of JFIF; the EXIF block itself is kept anyway.
    dpi = picture.info.get("dpi") if picture.info.get("jfif_unit") in (1, 2) else None
    metadata = Metadata(picture.info.get("icc_profile"), exif.without_prefix(picture.info.get("exif")), dpi, xmp=xmp)
    metadata = replace(metadata, jpeg_segments=tuple(_segments_to_keep(picture)))
    return StoredImage(values, None, metadata, lossless=False, notes=tuple(notes))


def _jpeg_samples(data: bytes) -> Array:
    from PIL.JpegImagePlugin import JpegImageFile

    return _samples_of(JpegImageFile(io.BytesIO(data)))


def decode_webp(data: bytes) -> StoredImage:
    """Decode the samples of a WebP: 8-bit RGB, with or without alpha.

    Raises:
        ImageRefused: the file is an animation, or the image is too small or too large.
        Exception: of any other class, if the data are damaged.
    """
    import imagecodecs

    chunks = _webp_chunks(data)
    frames = sum(1 for kind, _ in chunks if kind == b"ANMF")
    if frames > 1:
        raise ImageRefused(f"has {frames} frames; self2self takes one image a file. Save the frame you want as a PNG.")
    # The format is limited to 16383x16383 pixels, below MAX_PIXELS: decoding needs no check before it.
    samples = np.asarray(imagecodecs.webp_decode(data))
    check_size(samples.shape[1], samples.shape[0])
    alpha = samples[..., 3].copy() if samples.shape[2] == 4 else None
    blocks = dict(chunks)
    metadata = Metadata(blocks.get(b"ICCP"), exif.without_prefix(blocks.get(b"EXIF")), xmp=blocks.get(b"XMP "))
    return StoredImage(np.ascontiguousarray(samples[..., :3]), alpha, metadata, lossless=b"VP8L" in blocks)


def decode_bmp(data: bytes) -> StoredImage:
    """Decode the samples of a BMP: 8-bit grey or RGB, with or without alpha; palettes are expanded.

    Raises:
        ImageRefused: the image is too small or too large.
        Exception: of any other class, if the data are damaged.
    """
    from PIL.BmpImagePlugin import BmpImageFile

    picture = BmpImageFile(io.BytesIO(data))
    check_size(*picture.size)
    notes: list[str] = []
    alpha = None
    mode = picture.mode
    samples = _samples_of(picture, {"1": "L", "P": "RGB"}.get(mode))
    if mode == "1":
        notes.append("1-bit grey is written as 8-bit grey")
    elif mode == "P":
        samples, note = grey_or_rgb_of_palette(samples, grey_allowed=True)
        notes.append(note)
    elif mode == "RGB" and data[28:30] == b"\x10\0":
        notes.append("16-bit colours (5 or 6 bits per channel) are written as 24-bit RGB")
    if samples.shape[2] == 4:
        samples, alpha = np.ascontiguousarray(samples[..., :3]), samples[..., 3].copy()
    return StoredImage(samples, alpha, Metadata(dpi=picture.info.get("dpi")), notes=tuple(notes))


def encode_jpeg(stored: StoredImage) -> bytes:
    """Encode uint8 grey, RGB or CMYK as a baseline JPEG, at quality 95 without chroma subsampling."""
    blocks = _metadata_options(stored, b"Exif\0\0") | _dpi_option(stored)
    segments = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
        for marker, payload in stored.metadata.jpeg_segments
    )
    return _save(stored, "JPEG", quality=LOSSY_QUALITY, subsampling="4:4:4", extra=segments, **blocks)


def encode_webp(stored: StoredImage) -> bytes:
    """Encode uint8 grey or RGB, with or without alpha, as a WebP; it is lossless if the source was."""
    # "exact" keeps the colours of fully transparent pixels, which are data as well.
    choice = {"lossless": True, "exact": True} if stored.lossless else {"quality": LOSSY_QUALITY}
    return _save(stored, "WEBP", **choice, **_metadata_options(stored, b""))


def encode_bmp(stored: StoredImage) -> bytes:
    """Encode uint8 grey, RGB or RGB with alpha as a BMP."""
    if stored.alpha is None:
        return _save(stored, "BMP", **_dpi_option(stored))
    # Pillow writes alpha with a header that declares none, so the next reader would drop it.
    height, width = stored.alpha.shape
    bgra = np.concatenate([stored.values[..., ::-1], stored.alpha[..., None]], axis=2)[::-1].tobytes()
    x, y = (round(dpi / METRES_PER_INCH) for dpi in stored.metadata.dpi or (0.0, 0.0))
    masks = (0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII4I4s48x", 108, width, height, 1, 32, 3, len(bgra), x, y, 0, 0, *masks, b"BGRs")
    return struct.pack("<2sIHHI", b"BM", 14 + 108 + len(bgra), 0, 0, 14 + 108) + header + bgra


def _samples_of(picture: Any, mode: str | None = None) -> Array:
    """(H, W, C) uint8 samples of a Pillow image, converted to `mode` first if one is given."""
    picture.load()
    samples = np.asarray(picture.convert(mode) if mode else picture)
    if samples.dtype != np.uint8:
        raise ImageRefused(
            f"has pixels of Pillow's type {picture.mode}; expected 8 bits per channel. Convert it to PNG."
        )
    return samples.reshape(*samples.shape[:2], -1).copy()


def _save(stored: StoredImage, pillow_format: str, **options: Any) -> bytes:
    from PIL import Image as PillowImage

    samples = stored.values
    if stored.alpha is not None:
        if samples.shape[2] == 1:
            samples = np.repeat(samples, 3, axis=2)
        samples = np.concatenate([samples, stored.alpha[..., None]], axis=2)
    mode = {1: "L", 3: "RGB", 4: "CMYK" if stored.alpha is None else "RGBA"}[samples.shape[2]]
    buffer = io.BytesIO()
    picture = PillowImage.frombytes(mode, (samples.shape[1], samples.shape[0]), samples.tobytes())
    picture.save(buffer, pillow_format, **options)
    return buffer.getvalue()


def _segments_to_keep(picture: Any) -> Iterator[tuple[int, bytes]]:
    for name, payload in picture.applist:
        if name == "COM":
            yield COMMENT_MARKER, payload
        elif name == "APP13" and payload.startswith(b"Photoshop 3.0\0"):
            yield IPTC_MARKER, payload


def _metadata_options(stored: StoredImage, prefix: bytes) -> dict[str, Any]:
    blocks = {}
    if stored.metadata.xmp is not None:
        blocks["xmp"] = stored.metadata.xmp
    if stored.metadata.icc is not None:
        blocks["icc_profile"] = stored.metadata.icc
    if stored.metadata.exif is not None:
        blocks["exif"] = prefix + stored.metadata.exif
    return blocks


def _dpi_option(stored: StoredImage) -> dict[str, tuple[float, float]]:
    return {} if stored.metadata.dpi is None else {"dpi": stored.metadata.dpi}


def _bits_per_jpeg_channel(data: bytes) -> int | None:
    """Bits per channel, from the frame header; None without one. Pillow reports other depths only as an error."""
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


def _too_large(image: Image, most: int) -> str | None:
    _, height, width = image.pixels.shape
    return f"{width}x{height} pixels" if max(height, width) > most else None


def _jpeg_cannot_hold(image: Image) -> str | None:
    if len(image.metadata.exif or b"") > MAX_JPEG_EXIF_BYTES:
        return "that much EXIF data"
    if len(image.metadata.xmp or b"") > MAX_JPEG_XMP_BYTES:
        return "that much XMP data"
    return _too_large(image, MAX_JPEG_SIDE)


def _webp_cannot_hold(image: Image) -> str | None:
    return "premultiplied alpha" if image.premultiplied_alpha else _too_large(image, MAX_WEBP_SIDE)


def _bmp_cannot_hold(image: Image) -> str | None:
    if image.premultiplied_alpha:
        return "premultiplied alpha"
    if image.metadata.icc is not None:
        return "the ICC profile"
    return None if exif.orientation(image.metadata.exif) == 1 else "the orientation of the image (EXIF)"


JPEG = Format(
    "jpeg",
    "JPEG",
    begins_with(b"\xff\xd8\xff"),
    (".jpg", ".jpeg", ".jpe", ".jfif"),
    opens_with(decode_jpeg),
    writes_with(encode_jpeg),
    channels=frozenset((1, 3, 4)),
    cannot_hold=_jpeg_cannot_hold,
)
WEBP = Format(
    "webp",
    "WebP",
    begins_with(b"WEBP", at=8),
    (".webp",),
    opens_with(decode_webp),
    writes_with(encode_webp),
    alpha_channels=frozenset((1, 3)),
    cannot_hold=_webp_cannot_hold,
)
BMP = Format(
    "bmp",
    "BMP",
    begins_with(b"BM"),
    (".bmp", ".dib"),
    opens_with(decode_bmp),
    writes_with(encode_bmp),
    alpha_channels=frozenset((3,)),
    cannot_hold=_bmp_cannot_hold,
)
