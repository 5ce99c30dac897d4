"""Decodes and encodes PNG: this module parses the chunks, and libpng (through imagecodecs) decodes the pixels.

Pillow is not used because it silently reduces 16-bit RGB to 8 bits. Only the chunks that carry pixels reach libpng.
This module copies the other chunks unchanged (PNG to PNG) or reads their content (PNG to another format).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from self2self.image_io.format import Format, begins_with, opens_with, with_alpha, writes_with
from self2self.image_io.image import Array, Image, ImageRefused, Metadata, StoredImage, check_size
from self2self.machine.system import compute_threads
from self2self.machine.workers import Workers

SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEPT_CHUNKS = frozenset(
    (b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"eXIf", b"tEXt", b"zTXt", b"iTXt")
)
"""Ancillary chunks that remain valid when the pixels change (tIME, bKGD, sBIT and hIST do not)."""

CRITICAL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"IDAT"))
"""Chunks without which there are no pixels; the end (IEND) is not one of them."""
ENDS_EARLY = "the file ends before its end marker; all pixels are there"

MAX_PROFILE_BYTES = 2**26
"""Largest inflated ICC profile or XMP text that is accepted."""
XMP_KEYWORD = b"XML:com.adobe.xmp\0"
BAND_BYTES = 2**22
"""Approximate size of the bands of rows that are compressed at the same time."""
BANDS_AT_A_TIME = 16
BAND_LEVEL = 4
"""Level of zlib's compression of bands: as small as with libpng's own level, in less than half of the time."""
METRES_PER_INCH = 0.0254
"""PNG and BMP store resolutions in pixels per metre."""


def decode(data: bytes) -> StoredImage:
    """Decode the samples of a PNG; palettes are expanded, and samples of 1, 2 and 4 bits are widened to 8.

    A colour key (tRNS of a grey or RGB image) becomes an alpha channel, because the denoised pixels
    no longer equal the key.

    What libpng calls a warning is a note: a damaged ancillary chunk, a wrong checksum of all pixel data, more of them
    than needed, and a file that ends after its pixels.

    Raises:
        ImageRefused: the file is an animation, or the image is too small or too large.
        Exception: of any other class, if the data are damaged.
    """
    import imagecodecs

    header: tuple[int, ...] | None = None
    key: bytes | None = None
    kept: list[tuple[bytes, bytes]] = []
    pixels: list[bytes] = []
    palette: dict[bytes, bytes] = {}
    flaws: list[str] = []
    for kind, payload in _read_chunks(data, flaws):
        if header is None:
            if kind != b"IHDR" or len(payload) != 13:
                raise ValueError("the first chunk is not IHDR")
            header = struct.unpack(">IIBBBBB", payload)
            check_size(header[0], header[1])
            _check_header(header)
        if kind == b"acTL" and payload[:4] != b"\0\0\0\x01":
            frames = int.from_bytes(payload[:4], "big")
            raise ImageRefused(
                f"has {frames} frames; self2self takes one image a file. Save the frame you want as a PNG."
            )
        if kind == b"IDAT":
            pixels.append(payload)
        elif kind == b"tRNS" and header[3] in (0, 2):
            key = payload
        elif kind in (b"PLTE", b"tRNS") and header[3] == 3:
            palette[kind] = payload
        elif kind in KEPT_CHUNKS:
            kept.append((kind, payload))
    if header is None:
        raise ValueError("the file ends before its first chunk")
    depth, colour = header[2], header[3]
    pixels, flaw = _sound_pixel_stream(pixels, _inflated_size(header))
    notes = list(dict.fromkeys([*flaws, *([flaw] if flaw else [])]))
    pixel_chunks = [_make_chunk(b"IHDR", struct.pack(">IIBBBBB", *header)), *_palette_chunks(header, palette)]
    pixel_chunks += [_make_chunk(b"IDAT", payload) for payload in pixels]
    samples = imagecodecs.png_decode(b"".join([SIGNATURE, *pixel_chunks, _make_chunk(b"IEND", b"")]))
    samples = samples.reshape(header[1], header[0], -1)
    metadata = _metadata_of_chunks(kept)
    alpha = None
    if samples.shape[2] in (2, 4):
        samples, alpha = samples[..., :-1], samples[..., -1].copy()
    elif key is not None:
        alpha = _alpha_from_colour_key(samples, key, depth)
        notes.append("its transparent colour is written as an alpha channel")
    if colour == 3:
        samples, note = grey_or_rgb_of_palette(samples, grey_allowed=metadata.icc is None)
        notes.append(note)
    elif depth < 8:
        notes.append(f"{depth}-bit grey is written as 8-bit grey")
    return StoredImage(np.ascontiguousarray(samples), alpha, metadata, notes=tuple(notes))


def encode(stored: StoredImage) -> bytes:
    """Encode uint8 or uint16 samples, grey or RGB, with or without alpha, as a PNG."""
    import imagecodecs

    samples = with_alpha(stored)
    if samples.shape[2] == 1:
        samples = samples[..., 0]
    samples = np.ascontiguousarray(samples)
    rows = max(1, BAND_BYTES // samples[0].nbytes)
    data = bytes(imagecodecs.png_encode(samples)) if len(samples) <= rows else _encode_in_bands(samples, rows)
    # IHDR is 25 bytes long and comes first; every added chunk may follow it directly.
    split = len(SIGNATURE) + 25
    added = stored.metadata.png_chunks or _chunks_for_metadata(stored.metadata)
    return b"".join([data[:split], *(_make_chunk(kind, payload) for kind, payload in added), data[split:]])


def _encode_in_bands(samples: Array, rows: int) -> bytes:
    """Encode (H, W) or (H, W, C) on all cores, in bands of `rows` rows; the file does not depend on the cores.

    A stream of deflate may be cut at any byte if each piece but the last ends with a flush (as in pigz). libpng filters
    the rows.
    """
    bands = -(-len(samples) // rows)
    filtered: list[bytes] = [b""] * bands
    deflated: list[bytes] = [b""] * bands

    def encode(index: int) -> None:
        top = index * rows
        # A row is filtered against the one above, so the last row of the band above goes in and out again.
        above = int(top > 0)
        stored = _pixel_stream(samples[top - above : top + rows])
        raw = zlib.decompress(stored)[above * (1 + samples[0].nbytes) :]
        compress = zlib.compressobj(BAND_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_FILTERED)
        end = zlib.Z_FINISH if index == bands - 1 else zlib.Z_SYNC_FLUSH
        filtered[index], deflated[index] = raw, compress.compress(raw) + compress.flush(end)

    workers = Workers(compute_threads())
    checksum = zlib.adler32(b"")
    try:
        # A few bands at a time, because their filtered rows take as much memory as the image.
        for first in range(0, bands, BANDS_AT_A_TIME):
            here = range(first, min(first + BANDS_AT_A_TIME, bands))
            workers.run(lambda index, here=here: encode(here[index]), len(here))  # type: ignore[misc]
            for index in here:
                checksum = zlib.adler32(filtered[index], checksum)
                filtered[index] = b""
    finally:
        workers.close()
    # Head and end of a zlib stream (RFC 1950).
    deflated[0] = b"\x78\x5e" + deflated[0]
    deflated[-1] += struct.pack(">I", checksum)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if samples.ndim == 2 else samples.shape[2]]
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, colour, 0, 0, 0)
    pixel_chunks = (_make_chunk(b"IDAT", part) for part in deflated)
    return b"".join([SIGNATURE, _make_chunk(b"IHDR", header), *pixel_chunks, _make_chunk(b"IEND", b"")])


def _pixel_stream(samples: Array) -> bytes:
    """The filtered, uncompressed rows of an image as libpng makes them, as a zlib stream."""
    import imagecodecs

    data = bytes(imagecodecs.png_encode(samples, level=0))
    return b"".join(payload for kind, payload in _read_chunks(data, []) if kind == b"IDAT")


def grey_or_rgb_of_palette(samples: Array, *, grey_allowed: bool) -> tuple[Array, str]:
    """Reduce expanded palette colours (H, W, 3) to grey (H, W, 1) if all of them are grey.

    Args:
        samples: (H, W, 3), the colours.
        grey_allowed: False keeps RGB in any case, for instance because an RGB profile belongs to the image.

    Returns:
        The samples, and the note for the user.
    """
    if grey_allowed and (samples == samples[..., :1]).all():
        return samples[..., :1], "its palette holds greys only; it is written as 8-bit grey"
    return samples, "palette colours are written as 8-bit RGB, since denoising makes new colours"


def _read_chunks(data: bytes, flaws: list[str]) -> Iterator[tuple[bytes, bytes]]:
    """(type, payload) of every sound chunk up to IEND; what else is wrong is added to `flaws`.

    A damaged ancillary chunk is left out, as libpng does. A cut-off IDAT is given as far as it goes, because the
    pixels may be complete.

    Raises:
        ValueError: the checksum of a chunk that decoding needs is wrong.
    """
    position = len(SIGNATURE)
    kind = b""
    while kind != b"IEND":
        if position + 12 > len(data):
            flaws.append(ENDS_EARLY)
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        payload = data[position + 8 : end]
        if end + 4 > len(data):
            flaws.append(ENDS_EARLY)
            if kind == b"IDAT":
                yield kind, payload
            return
        if zlib.crc32(payload, zlib.crc32(kind)) == int.from_bytes(data[end : end + 4], "big"):
            yield kind, payload
        elif kind in CRITICAL_CHUNKS:
            raise ValueError(f"wrong checksum of its {kind.decode('latin-1')!a} chunk")
        else:
            flaws.append(f"the checksum of its {kind.decode('latin-1')!a} chunk is wrong, so the chunk is dropped")
        position = end + 4


def _check_header(header: tuple[int, ...]) -> None:
    depth, colour, *methods = header[2:]
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    if depth not in depths.get(colour, ()) or methods not in ([0, 0, 0], [0, 0, 1]):
        raise ValueError(f"impossible header: {depth} bits, colour type {colour}, methods {methods}")


def _palette_chunks(header: tuple[int, ...], palette: dict[bytes, bytes]) -> list[bytes]:
    if header[3] != 3:
        return []
    colours = palette.get(b"PLTE", b"")
    if not colours or len(colours) % 3 or len(colours) > 3 * 2 ** header[2]:
        raise ValueError(f"a palette of {len(colours)} bytes")
    alphas = palette.get(b"tRNS", b"")[: len(colours) // 3]
    # Indices beyond the palette are black. A palette padded with black keeps libpng from printing a warning.
    full = _make_chunk(b"PLTE", colours.ljust(3 * 2 ** header[2], b"\0"))
    return [full, _make_chunk(b"tRNS", alphas)] if alphas else [full]


def _inflated_size(header: tuple[int, ...]) -> int:
    """Size of the inflated pixel data in bytes, including one filter byte per row."""
    width, height, depth, colour, _, _, interlaced = header
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    # (first column, first row, column step, row step) of the seven passes of Adam7.
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    total = 0
    for column, row, across, down in passes if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _sound_pixel_stream(parts: list[bytes], expected: int) -> tuple[list[bytes], str | None]:
    """Check that the pixel data are complete, and repair what surrounds them.

    libpng itself only prints a warning if the checksum or the length is wrong, and fills missing pixels with zeros.

    Args:
        parts: the payloads of the IDAT chunks.
        expected: size of the inflated data in bytes.

    Returns:
        Payloads that libpng takes without a warning, and what was wrong; None if nothing was.

    Raises:
        ValueError, zlib.error: pixels are missing or damaged.
    """
    stream = b"".join(parts)
    size, checksum = 0, zlib.adler32(b"")
    inflate = _Inflate(stream)
    while size < expected and (piece := inflate.read(expected - size)):
        size += len(piece)
        checksum = zlib.adler32(piece, checksum)
    if size < expected:
        raise ValueError(f"{size} bytes of pixel data; expected {expected}")
    if inflate.read(1) or len(inflate.trailer) > 4:
        flaw = "it has more pixel data than its size needs; the rest is dropped"
    elif len(inflate.trailer) < 4:
        flaw = ENDS_EARLY
    elif int.from_bytes(inflate.trailer, "big") != checksum:
        flaw = "the checksum of its pixel data is wrong; all pixels are there"
    else:
        return parts, None
    inflate, raw = _Inflate(stream), bytearray()
    while len(raw) < expected:
        raw += inflate.read(expected - len(raw))
    return [zlib.compress(raw, 1)], flaw


class _Inflate:
    """Reads a zlib stream in pieces without a look at its checksum."""

    def __init__(self, stream: bytes) -> None:
        # RFC 1950: method 8 (deflate), no preset dictionary, and a multiple of 31.
        if len(stream) < 2 or stream[0] & 15 != 8 or stream[1] & 32 or (stream[0] << 8 | stream[1]) % 31:
            raise ValueError("its pixel data are no zlib stream")
        self._stream = memoryview(stream)
        self._position = 2
        self._rest: bytes | memoryview = b""
        self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)

    def read(self, most: int) -> bytes:
        """The next bytes, at most `most` and 2**20; empty at the end."""
        while not self._inflate.eof:
            if not self._rest:
                # In small pieces, because zlib copies what is left of a piece at every call.
                self._rest = self._stream[self._position : self._position + 2**16]
                self._position += len(self._rest)
            at_end = not self._rest
            piece = self._inflate.decompress(self._rest, min(most, 2**20))
            self._rest = self._inflate.unconsumed_tail
            if piece or at_end:
                return piece
        return b""

    @property
    def trailer(self) -> bytes:
        """What follows the end of the compressed data; empty before that end."""
        if not self._inflate.eof:
            return b""
        return self._inflate.unused_data + bytes(self._stream[self._position :])


def _make_chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(payload, zlib.crc32(kind))
    return b"".join([struct.pack(">I", len(payload)), kind, payload, struct.pack(">I", checksum)])


def _alpha_from_colour_key(samples: Array, key: bytes, depth: int) -> Array:
    """Alpha (H, W): 0 where a pixel equals the colour key, opaque elsewhere."""
    colours = samples.shape[2]
    values = np.array(struct.unpack(f">{colours}H", key[: 2 * colours]), np.uint32) & ((1 << depth) - 1)
    if depth < 8:
        values *= 255 // ((1 << depth) - 1)
    white = np.iinfo(samples.dtype).max
    return np.where((samples == values).all(axis=2), 0, white).astype(samples.dtype)


def _metadata_of_chunks(kept: list[tuple[bytes, bytes]]) -> Metadata:
    chunks = dict(kept)
    dpi = None
    if len(chunks.get(b"pHYs", b"")) == 9:
        x, y, unit = struct.unpack(">IIB", chunks[b"pHYs"])
        dpi = (x * METRES_PER_INCH, y * METRES_PER_INCH) if unit == 1 and x and y else None
    xmp = next(
        (_xmp_of_chunk(payload) for kind, payload in kept if kind == b"iTXt" and payload.startswith(XMP_KEYWORD)), None
    )
    return Metadata(_profile_of_chunk(chunks.get(b"iCCP")), chunks.get(b"eXIf"), dpi, xmp=xmp, png_chunks=tuple(kept))


def _xmp_of_chunk(payload: bytes) -> bytes | None:
    """The text of an iTXt chunk with XMP; None if it is damaged or oversized."""
    compressed = payload[len(XMP_KEYWORD) : len(XMP_KEYWORD) + 1] == b"\1"
    _, _, text = payload[len(XMP_KEYWORD) + 2 :].partition(b"\0")
    _, _, text = text.partition(b"\0")
    return _inflate_or_none(text) if compressed else text or None


def _profile_of_chunk(payload: bytes | None) -> bytes | None:
    """The ICC profile of an iCCP chunk; None if it is damaged or oversized."""
    if payload is None:
        return None
    _, _, packed = payload.partition(b"\0")
    return _inflate_or_none(packed[1:])


def _inflate_or_none(packed: bytes) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(packed, MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return plain if inflate.eof else None


def _chunks_for_metadata(metadata: Metadata) -> list[tuple[bytes, bytes]]:
    """The chunks (type, payload) for metadata that come from another format."""
    chunks = []
    if metadata.icc is not None:
        chunks.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc)))
    if metadata.exif is not None:
        chunks.append((b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        chunks.append((b"iTXt", XMP_KEYWORD + b"\0\0\0\0" + metadata.xmp))
    if metadata.dpi is not None:
        x, y = (min(round(dpi / METRES_PER_INCH), 2**31 - 1) for dpi in metadata.dpi)
        chunks.append((b"pHYs", struct.pack(">IIB", x, y, 1)))
    if metadata.description is not None:
        chunks.append((b"iTXt", b"Description\0\0\0\0\0" + metadata.description.encode()))
    return chunks


def _cannot_hold(image: Image) -> str | None:
    return "premultiplied alpha" if image.premultiplied_alpha else None


FORMAT = Format(
    "png",
    "PNG",
    begins_with(SIGNATURE),
    (".png",),
    opens_with(decode),
    writes_with(encode),
    types=frozenset(("uint8", "uint16")),
    alpha_channels=frozenset((1, 3)),
    cannot_hold=_cannot_hold,
)
