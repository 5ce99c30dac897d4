"""Boxes of ISO media files, which hold HEIC, AVIF and JPEG XL."""

from __future__ import annotations

import struct
from collections.abc import Iterator


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
