"""Where the strips and tiles of a TIFF lie: refuses those that are missing, and works out those that are told wrong.

tifffile fills a strip or tile of zero bytes with zeros in silence. libtiff works out its length, with a warning. GDAL
does not store a tile of nothing but missing values at all; its offset and its length are 0.
"""

from __future__ import annotations

import math
from typing import Any

from self2self.image_io.image import check_size

UNCOMPRESSED = 1
_BYTE_COUNTS = (279, 325)
"""StripByteCounts and TileByteCounts."""


def segment_lengths(file: Any, page: Any) -> tuple[tuple[int, ...], list[str]]:
    """Find out how long the strips or tiles of a page are, and refuse those that the file does not have.

    Args:
        file: tifffile's object of the open TIFF.
        page: tifffile's object of the page.

    Returns:
        The lengths in bytes, 0 for a strip or tile that is not stored; and notes for the user on what was worked out.

    Raises:
        ValueError: strips or tiles are missing or lie outside the file.
        ImageRefused: a tile is too large.
    """
    expected = math.prod(page.chunked)
    # A damaged file with a small image may declare a tile of terabytes.
    check_size(max(8, page.tilewidth), max(8, page.tilelength))
    # Without the tag, tifffile makes up a length.
    told = tuple(page.databytecounts) if any(tag in page.tags for tag in _BYTE_COUNTS) else (0,) * expected
    told = told[:expected]
    if (known := min(len(page.dataoffsets), len(told))) < expected:
        raise ValueError(f"{known} of {expected} strips or tiles")
    starts = sorted({*page.dataoffsets, file.filehandle.size})
    lengths = tuple(_length(page, index, told[index], starts) for index in range(expected))
    notes = []
    if lengths != told:
        notes.append("the lengths of its strips or tiles are missing or wrong, and were worked out")
    if absent := lengths.count(0):
        kind = "tiles" if page.is_tiled else "strips"
        notes.append(f"{absent} of its {expected} {kind} are not stored (sparse); they are read as {page.nodata:g}")
    return lengths, notes


def _length(page: Any, index: int, told: int, starts: list[int]) -> int:
    """The length of a strip or tile in bytes; 0 if it is not stored.

    Args:
        page: tifffile's object of the page.
        index: of the strip or tile.
        told: its length as the file has it; 0 if unknown.
        starts: offsets at which something begins, and the size of the file; in ascending order.

    Raises:
        ValueError: it lies outside the file.
    """
    offset, size = page.dataoffsets[index], starts[-1]
    if offset == 0 and told == 0:
        return 0
    needed = _uncompressed_bytes(page, index) if int(page.compression) == UNCOMPRESSED else None
    if offset > 0 and needed is not None and not needed <= told <= size - offset:
        length = needed
    elif offset > 0 and told == 0:
        length = next((start for start in starts if start > offset), size) - offset
    else:
        length = told
    if offset <= 0 or length <= 0 or offset + length > size:
        raise ValueError("strips or tiles lie outside the file")
    return length


def _uncompressed_bytes(page: Any, index: int) -> int:
    """The bytes of a strip or tile without compression; the last strip of a plane may have fewer rows."""
    rows = page.tilelength
    if not page.is_tiled:
        rows = page.rowsperstrip
        strips = -(-page.imagelength // rows)
        rows = min(rows, page.imagelength - index % strips * rows)
    samples = 1 if int(page.planarconfig) == 2 else page.samplesperpixel
    bits = page.bitspersample
    bits_per_pixel = samples * bits if isinstance(bits, int) else sum(bits)
    width = page.tilewidth if page.is_tiled else page.imagewidth
    return int(rows * -(-width * bits_per_pixel // 8))
