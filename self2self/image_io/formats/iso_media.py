"""Boxes of ISO media files, which hold HEIC, AVIF and JPEG XL.

An image of HEIC or AVIF is an item: `iloc` says where its bytes are, `iinf` what they are, and `ipma` which properties
of `ipco` it has. EXIF and XMP are items, too, which `iref` ties to the image (ISO/IEC 23008-12).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

ESSENTIAL = 0x80
"""Bit of an association: readers that do not know the property may not show the image."""


class Item(NamedTuple):
    """Metadata of an image: a type of four letters, its bytes, and a MIME type where the type is ``mime``."""

    kind: bytes
    content: bytes
    mime: bytes = b""


class Property(NamedTuple):
    """A box of `ipco` that belongs to an image."""

    kind: bytes
    content: bytes
    essential: bool = False


def brands(head: bytes) -> tuple[bytes, ...]:
    """The main brand of a file and those that it is compatible with; empty if its first box is not `ftyp`."""
    if head[4:8] != b"ftyp":
        return ()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return (head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4)))


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of every box at the top; a box that is cut off ends the list."""
    position = 0
    while position + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        begin = position + 8
        if size == 1 and begin + 8 <= len(data):
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        end = len(data) if size == 0 else position + size
        if end < begin or end > len(data):
            return
        yield kind, data[begin:end]
        position = end


def box(kind: bytes, content: bytes) -> bytes:
    """A box of less than 4 GiB."""
    return struct.pack(">I4s", 8 + len(content), kind) + content


def properties(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, content) of the properties of the items in a file; empty if it has none."""
    meta = dict(boxes(data)).get(b"meta", b"")[4:]
    return list(boxes(dict(boxes(dict(boxes(meta)).get(b"iprp", b""))).get(b"ipco", b"")))


def with_metadata(data: bytes, added: Sequence[Property], items: Sequence[Item]) -> bytes:
    """Add properties and items to the main image of a file as libavif writes it: small, with one extent for each item.

    Raises:
        ValueError: the file has another layout.
    """
    if not added and not items:
        return data
    top = list(boxes(data))
    meta = dict(boxes(dict(top)[b"meta"][4:]))
    (main,) = struct.unpack(">H", meta[b"pitm"][4:])
    ids = [main + 1000 + index for index in range(len(items))]
    meta[b"iinf"] = _more(meta[b"iinf"], ">H", [_item_entry(*pair) for pair in zip(ids, items, strict=True)])
    ties = [box(b"cdsc", struct.pack(">HHH", number, 1, main)) for number in ids]
    if ties:
        meta[b"iref"] = meta.get(b"iref", bytes(4)) + b"".join(ties)
    meta[b"iprp"] = _with_properties(meta[b"iprp"], main, added)
    growth = sum(map(len, meta.values())) + 8 * len(meta) + 4 - len(dict(top)[b"meta"]) + _EXTENT.size * len(items)
    ends = len(data) + growth + 8
    extents = []
    for number, item in zip(ids, items, strict=True):
        extents.append((number, 0, 1, ends, len(item.content)))
        ends += len(item.content)
    meta[b"iloc"] = _with_extents(meta[b"iloc"], growth, extents)
    content = bytes(4) + b"".join(box(kind, part) for kind, part in meta.items())
    written = b"".join(box(kind, content if kind == b"meta" else part) for kind, part in top)
    return written + box(b"mdat", b"".join(item.content for item in items)) if items else written


_EXTENT = struct.Struct(">HHHII")
"""Item, file, number of extents, offset and length: an entry of `iloc` with one extent."""


def _more(content: bytes, count: str, entries: list[bytes]) -> bytes:
    """A box of version 0 with a count, and more entries at its end."""
    size = struct.calcsize(count)
    if content[0] != 0:
        raise ValueError("a box has another version")
    (number,) = struct.unpack(count, content[4 : 4 + size])
    return content[:4] + struct.pack(count, number + len(entries)) + content[4 + size :] + b"".join(entries)


def _item_entry(number: int, item: Item) -> bytes:
    return box(
        b"infe", b"\2\0\0\0" + struct.pack(">HH", number, 0) + item.kind + b"\0" + item.mime + b"\0" * bool(item.mime)
    )


def _with_extents(content: bytes, shift: int, extents: Sequence[tuple[int, ...]]) -> bytes:
    """The box `iloc` with every extent `shift` bytes later, and with more of them."""
    if content[0] != 0 or content[4:6] != b"\x44\0" or (len(content) - 8) % _EXTENT.size:
        raise ValueError("the box iloc has another layout")
    old = [
        (number, file, count, offset + shift, length)
        for number, file, count, offset, length in _EXTENT.iter_unpack(content[8:])
    ]
    new = [_EXTENT.pack(*extent) for extent in (*old, *extents)]
    return content[:6] + struct.pack(">H", len(new)) + b"".join(new)


def _with_properties(content: bytes, main: int, added: Sequence[Property]) -> bytes:
    """The box `iprp` in which the item `main` has more properties."""
    parts = dict(boxes(content))
    known = len(list(boxes(parts[b"ipco"])))
    marks = bytes(known + 1 + index + ESSENTIAL * new.essential for index, new in enumerate(added))
    associations, position = parts[b"ipma"], 8
    if associations[:4] != bytes(4) or known + len(added) >= ESSENTIAL:
        raise ValueError("the box ipma has another layout")
    while position < len(associations):
        number, count = struct.unpack_from(">HB", associations, position)
        end = position + 3 + count
        if number == main:
            head = struct.pack(">HB", number, count + len(marks)) + associations[position + 3 : end]
            associations = associations[:position] + head + marks + associations[end:]
            end += len(marks)
        position = end
    parts[b"ipco"] += b"".join(box(new.kind, new.content) for new in added)
    parts[b"ipma"] = associations
    return b"".join(box(kind, part) for kind, part in parts.items())
