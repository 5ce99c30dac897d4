"""A file of several pages, of which one at a time is in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from self2self.errors import InputError, OutputError, UsageError
from self2self.image_io.image import Array, Image, StoredImage
from self2self.image_io.read import check_finite, decoding, format_of, image_from, read_image
from self2self.image_io.tiff_pages import Pages, list_pages, read_stored, write_pages
from self2self.image_io.write import EXTENSIONS, map_metadata
from self2self.machine.files import atomic_path


class Stack:
    """The pages of an image file; only TIFF has more than one. Use it as a context manager.

    Attributes:
        path: the file.
        pages: how many there are; 1 for an ordinary image.
        notes: one line each, for the user: what the output will lack.
    """

    def __init__(self, path: str | os.PathLike[str], *, whole_range: bool = False) -> None:
        """Look at every page without reading its pixels.

        Args:
            path: of the file.
            whole_range: as for `read_image`.

        Raises:
            InputError: the file cannot be used, is cut off, or its pages differ in shape or type.
        """
        import tifffile

        self.path = Path(path)
        self._whole_range = whole_range
        self.pages = 1
        self.notes: tuple[str, ...] = ()
        self._file: Any = None
        self._listed: Pages | None = None
        if format_of(self.path) != "tiff":
            return
        with contextlib.ExitStack() as opened, decoding(self.path, "tiff"):
            file = opened.enter_context(tifffile.TiffFile(self.path))
            listed = list_pages(file)
            if listed.count > 1:
                self._file, self._listed = file, listed
                self.pages, self.notes = listed.count, listed.notes
                opened.pop_all()

    def read_page(self, index: int) -> Image:
        """Page `index`, from 0, as `read_image` would give it if it were a file of its own.

        Raises:
            InputError: there is no such page, or it cannot be used.
            ResourceError: it does not fit into memory.
        """
        self.check_page(index)
        if self._listed is None:
            return read_image(self.path, whole_range=self._whole_range)
        with self._telling(index):
            return image_from(self.path, "tiff", self._stored(index), whole_range=self._whole_range)

    def check_page(self, index: int) -> None:
        """Refuse a page that is not there.

        Raises:
            UsageError: names the page, counted from 1.
        """
        if not 0 <= index < self.pages:
            has = f"{self.pages} pages" if self.pages > 1 else "one page"
            raise UsageError(f"{self.path}: there is no page {index + 1}; it has {has}, counted from 1.")

    def check_pages(self) -> None:
        """Decode every page, one at a time, only to see that all can be used.

        Raises:
            InputError: names the first page that cannot.
            ResourceError: it does not fit into memory.
        """
        for index in range(self.pages) if self._listed is not None else ():
            with self._telling(index):
                check_finite(self._stored(index).values)

    def write(self, path: str | os.PathLike[str], pages: Iterator[Array], *, float_map: bool = False) -> None:
        """Write a stack like this one with other values; it appears whole or not at all.

        Args:
            path: a TIFF that may be replaced.
            pages: for each page, (H, W, C) in stored values and the stored type.
            float_map: they are standard deviations, float32 in the units of this file.

        Raises:
            OutputError, ResourceError: it cannot be written.
            InputError: this file was changed meanwhile.
        """
        assert self._listed is not None  # noqa: S101 - only stacks are written
        with atomic_path(path) as temporary:
            imagej = self._listed.imagej and not float_map
            write_pages(temporary, self._with(pages, float_map=float_map), self.pages, imagej=imagej)

    def _with(self, pages: Iterator[Array], *, float_map: bool) -> Iterator[StoredImage]:
        for index, values in enumerate(pages):
            with self._telling(index):
                stored = self._stored(index)
            if float_map:
                yield StoredImage(values, None, map_metadata(stored.metadata))
            else:
                yield replace(stored, values=values)

    def _stored(self, index: int) -> StoredImage:
        assert self._listed is not None  # noqa: S101 - asked for by this class alone
        return read_stored(self.path, self._file, self._listed, index)

    @contextlib.contextmanager
    def _telling(self, index: int) -> Iterator[None]:
        try:
            with decoding(self.path, "tiff"):
                yield
        except InputError as error:
            text = str(error).removeprefix(f"{self.path}: ")
            raise InputError(f"{self.path}: page {index + 1} of {self.pages} {text}") from error.__cause__

    def close(self) -> None:
        """Close the file; safe to call twice."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stack(path: str | os.PathLike[str], *, whole_range: bool = False) -> Stack:
    """The pages of the file at `path`; for `whole_range` see `read_image`.

    Raises:
        InputError: see `Stack`.
    """
    return Stack(path, whole_range=whole_range)


def check_stack_output(path: str | os.PathLike[str], pages: int) -> None:
    """Refuse a name whose format has no pages.

    Raises:
        OutputError: it is not a TIFF.
    """
    if EXTENSIONS.get(Path(path).suffix.lower()) not in (None, "tiff"):
        raise OutputError(f"{path}: only TIFF can hold {pages} pages. Use the extension .tif")
