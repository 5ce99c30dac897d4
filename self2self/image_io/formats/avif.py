"""AVIF: pixels through imagecodecs (libavif), which keeps 10 and 12 bits; metadata are read through Pillow.

A file does not tell whether its pixels were stored without loss. So none is added: the output is lossless. libavif
writes it without metadata, which are added as boxes (`iso_media`).
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

from self2self.image_io import exif
from self2self.image_io.format import Format, opens_with, split_alpha, with_alpha, writes_with
from self2self.image_io.formats import iso_media
from self2self.image_io.image import Header, Image, ImageRefused, Metadata, StoredImage, check_size

MAX_BITS = 12
TURNS = {3: 2, 5: 1, 6: 3, 7: 3, 8: 1}
"""Quarter turns to the left (`irot`) by the orientation in EXIF, which readers of AVIF ignore."""
MIRRORS = {2: 1, 4: 0, 5: 0, 7: 0}
"""Axis of the mirror after the turn (`imir`)."""
LIGHT = (b"mdcv", b"clli", b"cclv", b"amve")
"""Properties of HDR images that describe screen and light."""


class Description(NamedTuple):
    """What a file says of its values.

    Attributes:
        bits: of each channel.
        colours: its colour primaries and transfer characteristics by their numbers (ITU-T H.273), two bytes each;
            empty if it does not say.
        light: its properties of HDR.
    """

    bits: int
    colours: bytes
    light: tuple[iso_media.Property, ...]


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
    description = _description(data)
    metadata = Metadata(
        info.get("icc_profile"),
        exif.without_prefix(info.get("exif")),
        xmp=info.get("xmp"),
        header=Header("avif", description),
    )
    notes = (f"its {description.bits}-bit values are kept in 16 bits",) if values.dtype == np.uint16 else ()
    return StoredImage(np.ascontiguousarray(values), None if alpha is None else alpha.copy(), metadata, notes=notes)


def encode(stored: StoredImage) -> bytes:
    """Encode grey or RGB, with or without alpha; uint16 with as many bits as the source, at most 12."""
    import imagecodecs

    samples = with_alpha(stored)
    samples = np.ascontiguousarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    header = stored.metadata.header
    known: Description | None = header.content if header is not None and header.format == "avif" else None
    bits = 8
    if samples.dtype == np.uint16:
        assert known is not None  # noqa: S101 - `_cannot_hold` refuses the others
        bits = known.bits
        samples = np.minimum(samples, np.uint16(2**bits - 1))
    data = bytes(imagecodecs.avif_encode(samples, level=100, bitspersample=bits))
    if known is not None and known.colours:
        # The values are stored as they are, so the matrix stays that of libavif.
        place = data.index(b"colrnclx") + 8
        data = data[:place] + known.colours + data[place + len(known.colours) :]
    return iso_media.with_metadata(data, _properties(stored.metadata, known), _items(stored.metadata))


def _properties(metadata: Metadata, known: Description | None) -> list[iso_media.Property]:
    found = [] if metadata.icc is None else [iso_media.Property(b"colr", b"prof" + metadata.icc)]
    found += [] if known is None else known.light
    turned = exif.orientation(metadata.exif)
    for kind, table in ((b"irot", TURNS), (b"imir", MIRRORS)):
        if turned in table:
            found.append(iso_media.Property(kind, bytes([table[turned]]), essential=True))
    return found


def _items(metadata: Metadata) -> list[iso_media.Item]:
    # The turn is a property already. Four bytes tell where the TIFF structure begins.
    block = exif.upright(metadata.exif)
    items = [] if block is None else [iso_media.Item(b"Exif", bytes(4) + block)]
    return items + ([] if metadata.xmp is None else [iso_media.Item(b"mime", metadata.xmp, b"application/rdf+xml")])


def _description(data: bytes) -> Description:
    found = iso_media.properties(data)
    bits, colours = 8, b""
    for kind, content in found:
        if kind == b"av1C" and content[2] & 0x40:
            bits = MAX_BITS if content[2] & 0x20 else 10
        elif kind == b"colr" and content[:4] == b"nclx":
            colours = content[4:8]
    return Description(bits, colours, tuple(iso_media.Property(*one) for one in found if one[0] in LIGHT))


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
