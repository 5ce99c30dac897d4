"""TIFF as a `Format`: a file with one image is decoded as a whole, a stack page by page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from self2self.image_io import tiff
from self2self.image_io.format import STORED_TYPES, Format, begins_with
from self2self.image_io.image import StoredImage
from self2self.image_io.tiff_pages import PageList, list_pages, read_stored_page, write_pages


class TiffPages:
    """The pages of a TIFF; one at a time is in memory. A stack stays open until `close`."""

    def __init__(self, path: Path) -> None:
        import contextlib

        import tifffile

        self._path = path
        self._file: Any = None
        self.notes: tuple[str, ...] = ()
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(tifffile.TiffFile(path))
            self._list: PageList = list_pages(file)
            self.count = self._list.count
            if self.count > 1:
                self._file, self.notes = file, self._list.notes
                opened.pop_all()

    def read(self, index: int) -> StoredImage:
        """As `Pages.read`."""
        if self.count == 1:
            return tiff.decode(self._path)
        return read_stored_page(self._path, self._file, self._list, index)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write `images` as a `Format.write`: one image with all that a TIFF can hold of it, several as a stack."""
    if count > 1:
        write_pages(path, images, count)
        return
    (image,) = images
    with path.open("r+b") as file:
        tiff.write(file, image)


FORMAT = Format(
    "tiff",
    "TIFF",
    begins_with(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    (".tif", ".tiff"),
    TiffPages,
    write,
    types=STORED_TYPES,
    channels=frozenset((1, 3, 4)),
    alpha_channels=frozenset((1, 3, 4)),
    stacks=True,
)
