"""Makes images from a grammar of their format: each part is well formed, and many of its values are absurd.

Unlike mutations of whole files, this reaches combinations of tags and chunks that no writer makes.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

ABSURD = (0, 1, 2, 3, 7, 8, 16, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
TIFF_FORMS = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 7: "B", 8: "h", 9: "i", 10: "ii", 11: "f", 12: "d"}
"""TIFF type → format of a value in `struct`."""
EXIF_TAGS = (270, 271, 272, 274, 282, 283, 296, 305, 306, 315, 33434, 34665, 34853, 36864, 37500, 37510, 40961)


def tiff(source: random.Random) -> bytes:
    """One to three directories over a few bytes of pixels."""
    order = source.choice("<>")
    pixels = source.randbytes(source.choice([0, 64, 600]))
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4) + pixels)
    link = 4
    for _ in range(source.choice([1, 1, 1, 2, 3])):
        struct.pack_into(order + "I", data, link, len(data) + len(data) % 2)
        data += bytes(len(data) % 2)
        link = _add_directory(data, _tags(source, len(pixels)), order, source)
    if source.random() < 0.1:
        # A loop of directories.
        struct.pack_into(order + "I", data, link, struct.unpack_from(order + "I", data, 4)[0])
    return bytes(data)


def _tags(source: random.Random, length: int) -> dict[int, tuple[int, list[int]]]:
    """Tag → type and values: those of an image of 8x8, some of which are absurd, and some others."""
    samples = source.choice([1, 1, 3, 4])
    bits = source.choice([8, 8, 16, 32])
    tags: dict[int, tuple[int, list[int]]] = {
        256: (3, [8]),
        257: (3, [8]),
        258: (3, [bits] * samples),
        259: (3, [1]),
        262: (3, [2 if samples > 2 else 1]),
        273: (4, [8]),
        277: (3, [samples]),
        278: (3, [8]),
        279: (4, [min(length, 8 * 8 * samples * bits // 8)]),
    }
    more = {
        254: (4, [source.choice(ABSURD)]),
        259: (3, [source.choice([2, 3, 4, 5, 6, 7, 8, 32773, 34712, 50000, source.randrange(2**16)])]),
        270: (2, list(source.randbytes(source.choice([0, 3, 90])))),
        274: (3, [source.randrange(12)]),
        284: (3, [source.choice([1, 2, 3])]),
        317: (3, [source.choice([1, 2, 3, 9])]),
        320: (3, [source.randrange(2**16) for _ in range(source.choice([0, 5, 768]))]),
        322: (3, [source.choice([0, 16, 17, 2**16 - 1])]),
        323: (3, [source.choice([0, 16, 17, 2**16 - 1])]),
        324: (4, [source.choice([0, 8, 2**32 - 1])]),
        325: (4, [source.choice([0, 64, 2**32 - 1])]),
        330: (4, [source.choice(ABSURD)]),
        338: (3, [source.randrange(4) for _ in range(source.choice([0, 1, 5]))]),
        339: (3, [source.choice([0, 1, 2, 3, 4, 6])] * samples),
        34675: (7, list(icc(source))),
        34377: (7, list(source.randbytes(30))),
        34665: (4, [source.choice(ABSURD)]),
        42112: (2, list(b"<GDALMetadata><Item") + list(source.randbytes(9))),
        42113: (2, list(source.choice([b"nan", b"-1e999", b"", b"\xb2", b"0x10"]))),
    }
    tags.update(dict(source.sample(sorted(more.items()), source.randrange(4))))
    for tag in source.sample(sorted(tags), source.choice([0, 0, 1, 2])):
        kind, values = tags[tag]
        match source.randrange(4):
            case 0:
                tags[tag] = kind, [source.choice(ABSURD)]
            case 1:
                tags[tag] = source.choice([*TIFF_FORMS, 0, 13, 99]), values
            case 2:
                tags[tag] = kind, values * source.choice([0, 2, 50])
            case _:
                del tags[tag]
    return tags


def _add_directory(data: bytearray, tags: dict[int, tuple[int, list[int]]], order: str, source: random.Random) -> int:
    """Append a directory; returns the place of the link to the next one."""
    start = len(data)
    values_at = start + 2 + 12 * len(tags) + 4
    entries, values = bytearray(struct.pack(order + "H", len(tags))), bytearray()
    for tag, (kind, numbers) in sorted(tags.items()):
        form = TIFF_FORMS.get(kind, "B")
        packed = b"".join(_packed(order, form, number) for number in numbers)
        count = len(numbers) if source.random() < 0.97 else source.choice(ABSURD)
        if len(packed) > 4:
            place = values_at + len(values) if source.random() < 0.97 else source.choice(ABSURD)
            values += packed + bytes(len(packed) % 2)
            packed = struct.pack(order + "I", place)
        entries += struct.pack(order + "HHI", tag, kind, count) + packed.ljust(4, b"\0")
    data += entries + bytes(4) + values
    return start + len(entries)


def _packed(order: str, form: str, number: int) -> bytes:
    """The number in a format of `struct`, cut to its size."""
    if form in "fd":
        return struct.pack(order + form, float(number))
    size = struct.calcsize(form[0])
    one = (number % 256**size).to_bytes(size, "little" if order == "<" else "big")
    return one * len(form)


def png(source: random.Random) -> bytes:
    """A header, then chunks in any order; their checksums are right."""
    kind, bits = source.choice([(0, 8), (0, 16), (0, 1), (2, 8), (2, 16), (3, 8), (4, 8), (6, 8), (6, 16), (5, 3)])
    width, height = (source.choice([8] * 12 + [0, 1, 2**31 - 1, 70000]) for _ in range(2))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, source.choice([0, 0, 0, 1, 2]))
    values = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(kind, 1)
    filters = source.choice([(0,), (0, 1, 2, 3, 4), (0, 9)])
    pixels = b"".join(bytes([source.choice(filters)]) + source.randbytes(values * bits) for _ in range(8))
    chunks = [
        (b"PLTE", source.randbytes(source.choice([0, 3, 768, 769]))),
        (b"tRNS", source.randbytes(source.choice([1, 2, 6, 256]))),
        (b"gAMA", struct.pack(">I", source.choice(ABSURD))),
        (b"cHRM", source.randbytes(source.choice([32, 31]))),
        (b"sBIT", source.randbytes(source.choice([1, 3, 4]))),
        (b"pHYs", source.randbytes(source.choice([9, 8]))),
        (b"tEXt", b"Title\0" + source.randbytes(9)),
        (b"zTXt", b"Title\0\0" + zlib.compress(bytes(source.choice([5, 10**6])))),
        (b"iTXt", b"Title\0\1\0\0\0" + source.randbytes(9)),
        (b"iCCP", b"p\0\0" + zlib.compress(icc(source))),
        (b"iCCP", b"p" * source.choice([0, 80]) + source.randbytes(30)),
        (b"eXIf", exif(source)),
        (b"cICP", source.randbytes(source.choice([4, 3]))),
        (b"acTL", struct.pack(">II", source.choice(ABSURD), 0)),
        (b"fcTL", source.randbytes(26)),
        (source.randbytes(4), source.randbytes(9)),
        (b"IEND", b""),
    ]
    body = [(b"IDAT", zlib.compress(pixels)[: source.choice([None, None, None, 9])])] * source.choice([1, 1, 1, 2, 0])
    if kind == 3:
        body.insert(0, (b"PLTE", source.randbytes(768)))
    for chunk in source.sample(chunks, source.randrange(5)):
        body.insert(source.randint(0, len(body)), chunk)
    end = [(b"IEND", b"")] if source.random() < 0.95 else []
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in [(b"IHDR", head), *body, *end])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def exif(source: random.Random) -> bytes:
    """A directory of EXIF tags with values of any type."""
    order = source.choice("<>")
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8))
    tags = {
        tag: (source.choice(list(TIFF_FORMS)), [source.choice(ABSURD) for _ in range(source.choice([1, 1, 2, 40]))])
        for tag in source.sample(EXIF_TAGS, source.randrange(1, 6))
    }
    _add_directory(data, tags, order, source)
    return bytes(data)


def icc(source: random.Random) -> bytes:
    """A colour profile: a header, and a table of tags whose places and lengths may lead anywhere."""
    space = source.choice([b"RGB ", b"GRAY", b"CMYK", b"Lab ", source.randbytes(4)])
    tags = source.choice([0, 1, 3, 2**32 - 1])
    table = struct.pack(">I", tags) + b"".join(
        source.choice([b"desc", b"wtpt", b"rXYZ", b"rTRC", b"A2B0"])
        + struct.pack(">II", source.choice([0, 128, 200, 2**32 - 1]), source.choice(ABSURD))
        for _ in range(min(tags, 3))
    )
    content = source.choice([b"desc", b"curv", b"XYZ ", b"mluc"]) + source.randbytes(60)
    header = bytes(4) + b"lcms" + b"\x04\x30\0\0" + b"mntr" + space + b"XYZ " + bytes(12) + b"acsp" + bytes(88)
    data = bytearray(header + table + content)
    struct.pack_into(">I", data, 0, source.choice([len(data), len(data), source.choice(ABSURD)]))
    return bytes(data)


def jpeg(source: random.Random) -> bytes:
    """A whole JPEG with segments of EXIF, a colour profile and comments of the grammar put in."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    pixels = Image.frombytes("RGB", (16, 16), source.randbytes(768))
    pixels.save(buffer, "JPEG", progressive=source.random() < 0.3, subsampling=source.randrange(3))
    whole = buffer.getvalue()
    segments = [
        (0xE1, b"Exif\0\0" + exif(source)),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + source.randbytes(20)),
        (0xE2, b"ICC_PROFILE\0" + source.randbytes(2) + icc(source)),
        (0xE2, b"ICC_PROFILE\0\1\1" + icc(source)),
        (0xE2, b"MPF\0" + exif(source)),
        (0xED, b"Photoshop 3.0\x008BIM" + source.randbytes(20)),
        (0xEE, b"Adobe" + source.randbytes(7)),
        (0xFE, source.randbytes(9)),
        (0xDD, source.randbytes(2)),
    ]
    put = b"".join(
        b"\xff"
        + bytes([marker])
        + struct.pack(">H", len(data) + 2 if source.random() < 0.95 else source.randrange(2**16))
        + data
        for marker, data in source.sample(segments, source.randrange(1, 5))
    )
    return whole[:2] + put + whole[2:]


GRAMMARS: dict[str, Callable[[random.Random], bytes]] = {"tif": tiff, "png": png, "jpg": jpeg}
"""Suffix of a format → what makes an image of it."""
