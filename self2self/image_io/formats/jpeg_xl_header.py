"""Reads and replaces what the header of a JPEG XL codestream says of colours (ISO/IEC 18181-1).

imagecodecs returns values alone, and calls the colours of what it writes those of sRGB: linear ones, if the values have
more than 8 bits. Shown so, the values of another colour space look wrong.
"""

from __future__ import annotations

from typing import NamedTuple

_Choices = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]
"""(bits, offset) of the four ways to store a number, chosen by two bits before it."""

_SIDE: _Choices = ((9, 1), (13, 1), (18, 1), (30, 1))
_PREVIEW_SIDE: _Choices = ((6, 1), (8, 65), (10, 321), (12, 1345))
_PREVIEW_EIGHTHS: _Choices = ((0, 16), (0, 32), (5, 1), (9, 33))
_ENUM: _Choices = ((0, 0), (0, 1), (4, 2), (6, 18))
_EXTRA_CHANNELS: _Choices = ((0, 0), (0, 1), (4, 2), (12, 1))
_INTEGER_DEPTH: _Choices = ((0, 8), (0, 10), (0, 12), (6, 1))
_FLOAT_DEPTH: _Choices = ((0, 32), (0, 16), (0, 24), (6, 1))
_SHIFT: _Choices = ((0, 0), (0, 3), (0, 4), (3, 1))
_NAME_LENGTH: _Choices = ((0, 0), (4, 0), (5, 16), (10, 48))
_FILTER: _Choices = ((0, 1), (2, 0), (4, 3), (8, 19))
_ALPHA, _SPOT, _COLOUR_FILTER = 0, 2, 5
_COORDINATE: _Choices = ((19, 0), (19, 524288), (20, 1048576), (21, 2097152))
_GREY, _XYB = 1, 2
_HEADER_BYTES = 4096
"""More than any header has before its profile, unless channels have long names."""
_CUSTOM = 2
"""Kind of a white point or of primaries that are given by their coordinates."""
_LIGHT_BITS = 49
"""Size of the brightness of white and black, where it is given."""


class Colours(NamedTuple):
    """What a header says of the colours.

    Attributes:
        bits: as they are stored, the first one lowest.
        size: number of bits.
        profile: whether an ICC profile follows, which is compressed.
        start: position in the codestream, in bits.
        rest: number of bits from there to the end of the header, or to the profile; 0 if it has extensions.
    """

    bits: int
    size: int
    profile: bool
    start: int
    rest: int


def read_colours(codestream: bytes) -> Colours:
    """Read the colours from the beginning of a codestream.

    Raises:
        ValueError: the header is cut off, that of an animation, or has only usual values.
    """
    bits = _Bits(codestream)
    bits.number(16)
    bits.skip_size(_SIDE, (5, 1))
    if bits.flag():
        raise ValueError("the header has only usual values")
    extra = bits.flag()
    if extra:
        bits.number(3)
        if bits.flag():
            bits.skip_size(_SIDE, (5, 1))
        if bits.flag():
            bits.skip_size(_PREVIEW_SIDE, _PREVIEW_EIGHTHS)
        if bits.flag():
            raise ValueError("is an animation")
    bits.skip_depth()
    bits.flag()
    for _ in range(bits.choice(_EXTRA_CHANNELS)):
        bits.skip_extra_channel()
    bits.flag()
    start = bits.position
    profile = _skip_colours(bits)
    end = bits.position
    if extra and not bits.flag():
        bits.number(_LIGHT_BITS)
    # No extensions, and the usual transforms.
    usual = bits.number(2) == 0 and bits.flag()
    stored = _as_number(codestream) >> start & ((1 << end - start) - 1)
    return Colours(stored, end - start, profile, start, usual * (bits.position - end))


def with_colours(codestream: bytes, new: Colours) -> bytes:
    """Replace the colours of a codestream without a profile; the values stay as they are.

    Raises:
        ValueError: its header is not as imagecodecs writes it for images without loss.
    """
    old = read_colours(codestream)
    if old.profile or new.profile or not old.rest:
        raise ValueError("the header has another layout")
    head, end = _as_number(codestream), old.start + old.size
    rest = head >> end & ((1 << old.rest) - 1)
    head &= (1 << old.start) - 1
    head |= (new.bits | rest << new.size) << old.start
    # Frames begin with a byte.
    begin, size = (-(-(old.start + count + old.rest) // 8) for count in (old.size, new.size))
    return head.to_bytes(size, "little") + codestream[begin:]


def _as_number(codestream: bytes) -> int:
    return int.from_bytes(codestream[:_HEADER_BYTES], "little")


def _skip_colours(bits: _Bits) -> bool:
    """Go to the end of the colours; returns whether there is a profile."""
    if bits.flag():
        return False
    profile, space = bits.flag(), bits.choice(_ENUM)
    if profile or space == _XYB:
        return profile
    if bits.choice(_ENUM) == _CUSTOM:
        bits.skip_coordinates(1)
    if space != _GREY and bits.choice(_ENUM) == _CUSTOM:
        bits.skip_coordinates(3)
    if bits.flag():
        bits.number(24)
    else:
        bits.choice(_ENUM)
    bits.choice(_ENUM)
    return False


class _Bits:
    """Reads a stream of bits, the lowest bit of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._value = _as_number(data)
        self._end = 8 * min(len(data), _HEADER_BYTES)
        self.position = 0

    def number(self, count: int) -> int:
        """An unsigned number of `count` bits."""
        result = self._value >> self.position & ((1 << count) - 1)
        self.position += count
        if self.position > self._end:
            raise ValueError("the header is cut off")
        return result

    def flag(self) -> bool:
        """One bit."""
        return bool(self.number(1))

    def choice(self, choices: _Choices) -> int:
        """A number that is stored in one of four ways."""
        count, offset = choices[self.number(2)]
        return offset + self.number(count)

    def skip_size(self, side: _Choices, eighths: tuple[int, int] | _Choices) -> None:
        """Height, and width or a ratio of both."""

        def one() -> None:
            if not in_eighths:
                self.choice(side)
            elif len(eighths) == 4:
                self.choice(eighths)
            else:
                self.number(eighths[0])

        in_eighths = self.flag()
        one()
        if not self.number(3):
            one()

    def skip_coordinates(self, points: int) -> None:
        """The coordinates of some colours."""
        for _ in range(2 * points):
            self.choice(_COORDINATE)

    def skip_depth(self) -> None:
        """Type and number of bits of a channel."""
        if self.flag():
            self.choice(_FLOAT_DEPTH)
            self.number(4)
        else:
            self.choice(_INTEGER_DEPTH)

    def skip_extra_channel(self) -> None:
        """What a channel beside the colours is."""
        if self.flag():
            return
        kind = self.choice(_ENUM)
        self.skip_depth()
        self.choice(_SHIFT)
        self.number(8 * self.choice(_NAME_LENGTH))
        if kind == _ALPHA:
            self.flag()
        elif kind == _SPOT:
            self.number(64)
        elif kind == _COLOUR_FILTER:
            self.choice(_FILTER)
