"""How a volume is cut into blocks.

A block is a few pages of one time and one group of channels, in a part of their rows and columns. The shape of the
volume and of its chunks decides the blocks, not the machine or the number of workers. So any schedule gives the same
bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from self2self.image_io.volumes import Selection
from self2self.jobs.volumes.layout import VolumeLayout
from self2self.runtime.ensemble.tiles import PartOfImage, windows_of

SIDE = 512
"""Rows and columns of a block, as far as the chunks allow it. A pass over a block and its halo takes 770 MB in all."""
HALO = 64
"""Rows and columns that the network sees around a block. It predicts the same from 16 on (`runtime.ensemble.tiles`);
local means of the brightness look farther (`imaging.local_means`)."""
PAGES = 4
"""Pages of a block where chunks have fewer. Pages that are fused with their neighbours are read for less blocks."""

Window = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Block:
    """A block.

    Attributes:
        number: from 0.
        group: number of its group of channels.
        time: index along T.
        depths: indices along Z.
        core: rows and columns of the result.
        window: rows and columns that the network sees.
        channels: indices along C.
    """

    number: int
    group: int
    time: int
    depths: slice
    core: Window
    window: Window
    channels: slice

    @property
    def inner(self) -> Window:
        """`core` within `window`."""
        rows, columns = (
            slice(core.start - window.start, core.stop - window.start)
            for core, window in zip(self.core, self.window, strict=True)
        )
        return rows, columns

    def selection(self, layout: VolumeLayout) -> Selection:
        """The part of the array that it is."""
        return layout.selection(slice(self.time, self.time + 1), self.depths, self.channels, self.core)

    def part(self, layout: VolumeLayout) -> PartOfImage:
        """Which part of a page `window` is."""
        (rows, columns), (height, width) = self.window, layout.size
        return PartOfImage(
            height, width, rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
        )


def shape_of_blocks(layout: VolumeLayout, unit: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The shape of the largest block of a volume, in whole units (`Target.unit`) along each axis, cut to the volume.

    Args:
        layout: of the volume.
        unit: shape of the parts that one writer at a time may write.
        channels: number of channels (C) that are denoised together.
    """
    asked = {"T": 1, "C": channels, "Z": PAGES, "S": layout.length("S"), "Y": SIDE, "X": SIDE}
    shape = []
    for letter, length, least in zip(layout.axes, layout.shape, unit, strict=True):
        # A little more than a block is no reason to cut it.
        size = length if letter in "YX" and length <= SIDE + 2 * HALO else asked[letter]
        shape.append(min(length, max(1, size // least) * least) if size < length else length)
    return tuple(shape)


def cut(layout: VolumeLayout, shape: tuple[int, ...], groups: tuple[slice, ...]) -> Iterator[Block]:
    """The blocks of a volume, in order.

    Args:
        layout: of the volume.
        shape: of the largest block.
        groups: the channels of each group, as indices along C.
    """
    sizes = dict(zip(layout.axes, shape, strict=True))
    spans = {
        letter: [(start, min(start + size, length)) for start in range(0, length, size)]
        for letter in "ZYX"
        for size, length in [(sizes.get(letter, 1), layout.length(letter))]
    }
    seen = {letter: windows_of(spans[letter], layout.length(letter), HALO) for letter in "YX"}
    places = itertools.product(
        enumerate(groups),
        range(layout.length("T")),
        spans["Z"],
        zip(spans["Y"], seen["Y"], strict=True),
        zip(spans["X"], seen["X"], strict=True),
    )
    for number, ((group, channels), time, depths, rows, columns) in enumerate(places):
        (core_rows, core_columns), (window_rows, window_columns) = zip(rows, columns, strict=True)
        yield Block(
            number,
            group,
            time,
            slice(*depths),
            (slice(*core_rows), slice(*core_columns)),
            (slice(*window_rows), slice(*window_columns)),
            channels,
        )
