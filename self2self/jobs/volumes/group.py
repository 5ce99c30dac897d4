"""The channels of a volume that are denoised together, as the pages that the jobs know."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from self2self.image_io import ARRAY, Metadata, Stack
from self2self.image_io.image import Array, StoredImage
from self2self.image_io.missing import Nodata
from self2self.image_io.value_range import ValueRange
from self2self.image_io.volumes import Volume
from self2self.jobs.volumes.layout import VolumeLayout

Window = tuple[slice, slice]
"""Rows and columns of a page."""


@dataclass(frozen=True, slots=True)
class Group:
    """Some channels of a volume.

    Attributes:
        volume: the open volume.
        layout: of the volume.
        channels: indices along C.
    """

    volume: Volume
    layout: VolumeLayout
    channels: slice

    def pages(self, window: Window) -> WindowPages:
        """All pages, in some of their rows and columns."""
        return WindowPages(self, window)

    def stack(self, pages: WindowPages, value_range: ValueRange, nodata: Nodata) -> Stack:
        """Such pages as a stack in one range of values; ``"none"`` as `nodata` says that no value is special."""
        return Stack(self.volume.path, ARRAY, lambda: pages, nodata=nodata, mosaic=False, value_range=value_range)

    def read(self, page: int, window: Window) -> Array:
        """The values of a page in some of its rows and columns, (H, W, C).

        Raises:
            InputError: they cannot be read.
        """
        return self.pages(window).read(page).values


class WindowPages:
    """The pages of a group in some of their rows and columns, which are read when they are needed.

    Attributes:
        group: whose pages they are.
        count: number of pages of the volume.
        notes: empty.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, group: Group, window: Window) -> None:
        self.count = group.layout.pages
        self.group, self._window = group, window
        self._kept: dict[int, Array] = {}

    def keep(self, time: int, depths: slice) -> None:
        """Read some pages of one time at once, and keep them: chunks of several pages are then read once.

        Raises:
            InputError: they cannot be read.
        """
        layout = self.group.layout
        selection = layout.selection(slice(time, time + 1), depths, self.group.channels, self._window)
        pages = layout.as_pages(self.group.volume.read(selection))
        self._kept |= {layout.page(time, depth): page for depth, page in enumerate(pages, depths.start)}

    def read(self, index: int) -> StoredImage:
        """As `image_io.format.Pages.read`."""
        if index not in self._kept:
            time, depth = divmod(index, self.group.layout.length("Z"))
            self.keep(time, slice(depth, depth + 1))
        return StoredImage(np.ascontiguousarray(self._kept[index]), None, Metadata())

    def close(self) -> None:
        """Do nothing: the volume stays open."""
