"""JPEG files without their end marker: tells a file that lacks only the marker from one that lacks pixels.

libjpeg fills whatever is missing with grey and only warns, and Pillow drops the warning. So two questions are asked
here. Has every coefficient had its last scan? Do other bytes behind the end of the file change the picture? They do
only if the decoder still wants some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from self2self.image_io.image import Array

END_MARKER = b"\xff\xd9"
_START_OF_SCAN, _END = 0xDA, 0xD9
_COEFFICIENTS = 64
_FILLERS, _FILLER_BYTES = 3, 1024
"""By chance, one filler could stand for the very values that libjpeg puts in place of missing ones."""


def has_end_marker(data: bytes) -> bool:
    """Whether a JPEG has its end marker; other bytes may follow, and previews inside segments do not count."""
    return data.endswith(END_MARKER) or any(marker == _END for marker, _ in _segments(data))


def completed(data: bytes, decode: Callable[[bytes], Array]) -> bytes:
    """Add the end marker to a JPEG that lacks it, if nothing else is missing.

    Args:
        data: the file.
        decode: returns the samples of a JPEG, and raises an exception of any class if it cannot.

    Raises:
        ValueError: pixels are missing, too.
    """
    # Half of an end marker is no data.
    data = data.rstrip(b"\xff")
    if not _has_all_scans(data):
        raise ValueError("the file ends before its last scan")
    expected = decode(data + END_MARKER)
    for filler in _fillers():
        try:
            same = np.array_equal(decode(data + filler + END_MARKER), expected)
        except Exception:
            same = False
        if not same:
            raise ValueError("the file ends before its last pixels")
    return data + END_MARKER


def _fillers() -> Iterator[bytes]:
    for seed in range(_FILLERS):
        # Without 255, which would begin a marker.
        yield np.random.default_rng(seed).integers(0, 255, _FILLER_BYTES, np.uint8).tobytes()


def _has_all_scans(data: bytes) -> bool:
    """Whether the last bit of every coefficient of every component is in one of the scans.

    A progressive JPEG that ends after one of its first scans is a complete picture of low quality otherwise.
    """
    components = 0
    missing: set[tuple[int, int]] = set()
    for marker, payload in _segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and len(payload) > 5:
            components = payload[5]
            numbers = payload[6 : 6 + 3 * components : 3]
            missing = {(number, k) for number in numbers for k in range(_COEFFICIENTS)}
        elif marker == _START_OF_SCAN and payload and len(payload) >= 4 + 2 * payload[0]:
            first, last, bits = payload[1 + 2 * payload[0] : 4 + 2 * payload[0]]
            if bits & 15 == 0:
                numbers = payload[1 : 1 + 2 * payload[0] : 2]
                missing -= {(number, k) for number in numbers for k in range(first, last + 1)}
    return components > 0 and not missing


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) of every segment that has a length, and of end markers; coded data are skipped."""
    position = data.find(b"\xff", 2)
    while 0 <= position < len(data) - 3:
        marker = data[position + 1]
        # 0: a data byte of 255; 1 and the restart and end markers stand alone; 255 is padding.
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= _END:
            if marker == _END:
                yield marker, b""
            position = data.find(b"\xff", position + 1)
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, data[position + 4 : end]
        position = data.find(b"\xff", end)
