"""The pages of an image file, or of an array; of a file, only one page at a time is in memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from self2self.errors import InputError, OutputError, UsageError
from self2self.image_io.format import STORED_TYPES, ArrayPages, Format, Pages, split_alpha
from self2self.image_io.image import Array, Image, Metadata, StoredImage
from self2self.image_io.missing import Nodata
from self2self.image_io.read import decoding, format_of, image_from, open_pages
from self2self.image_io.value_range import ValueRange
from self2self.image_io.write import format_by_extension, map_metadata, write_pages
from self2self.machine.marks import Mark

ARRAY = Format("array", "array", lambda head, path: False, types=STORED_TYPES)
"""What an array is in place of a file; no file is of this format."""


class Stack:
    """The pages of an image file or of an array, often only one. Use it as a context manager.

    Attributes:
        path: the file; for an array, what messages call it.
        pages: number of pages; 1 for an ordinary image.
        notes: notes for the user, one line each: what the output will lack.
        mosaic: as for `read_image`; a job sets it for all pages when it knows it from one.
    """

    def __init__(
        self,
        path: Path,
        source_format: Format,
        open_source: Callable[[], Pages],
        *,
        whole_range: bool = False,
        nodata: Nodata = None,
        mosaic: bool | None = None,
        value_range: ValueRange | None = None,
    ) -> None:
        """Open the pages, and check what is known of every page before any pixels are read.

        Args:
            path: of the file, or a name for an array.
            source_format: of the file, or `ARRAY`.
            open_source: opens the pages.
            whole_range: as for `read_image`.
            nodata: as for `read_image`.
            mosaic: as for `read_image`.
            value_range: one range of values for all pages; None for that of each.

        Raises:
            InputError: the file or array cannot be used, is cut off, or its pages differ in shape or type.
        """
        self.path = path
        self._whole_range = whole_range
        self._nodata: Nodata = nodata
        self._value_range = value_range
        self.mosaic = mosaic
        self._format = source_format
        with decoding(self.path, self._format):
            self._pages: Pages | None = open_source()
            self.pages, self.notes = self._pages.count, self._pages.notes

    def read_page(self, index: int) -> Image:
        """Read page `index`, counted from 0, as `read_image` reads a file of its own.

        Raises:
            UsageError: there is no such page.
            InputError: the page cannot be used.
            ResourceError: the page does not fit into memory.
        """
        self.check_page(index)
        with self._naming_the_page(index):
            return image_from(
                self.path,
                self._format.name,
                self._read_stored(index),
                whole_range=self._whole_range,
                nodata=self._nodata,
                mosaic=self.mosaic,
                value_range=self._value_range,
            )

    def check_page(self, index: int) -> None:
        """Refuse an index, counted from 0, of a page that does not exist.

        Raises:
            UsageError: there is no such page; the message counts pages from 1.
        """
        if not 0 <= index < self.pages:
            has = f"{self.pages} pages" if self.pages > 1 else "one page"
            raise UsageError(f"{self.path}: there is no page {index + 1}; it has {has}, counted from 1.")

    def check_pages(self) -> None:
        """Decode every page, one at a time, only to check that all of them can be used.

        Raises:
            InputError: a page cannot be used; the message names the first.
            ResourceError: a page does not fit into memory.
        """
        for index in range(self.pages):
            with self._naming_the_page(index):
                self._read_stored(index)

    def write(
        self,
        path: str | os.PathLike[str],
        pages: Iterator[Array],
        *,
        float_map: bool = False,
        mark: Mark | None = None,
    ) -> None:
        """Write a stack like this one with other values; the file appears complete or not at all.

        Args:
            path: a file that may be replaced; its format, by its extension, can hold several pages.
            pages: for each page, (H, W, C) in stored values and the stored type.
            float_map: `pages` are standard deviations, float32 in the units of this file.
            mark: says which job made the file (`machine.marks`).

        Raises:
            OutputError, ResourceError: the stack cannot be written.
            InputError: this file has changed since it was opened.
        """
        stored = self._with_new_values(pages, float_map=float_map)
        write_pages(path, format_by_extension(path), stored, self.pages, mark)

    def _with_new_values(self, pages: Iterator[Array], *, float_map: bool) -> Iterator[StoredImage]:
        for index, values in enumerate(pages):
            with self._naming_the_page(index):
                stored = self._read_stored(index)
            if float_map:
                # A map has no alpha, so it has other axes than a stack that has.
                alpha = stored.alpha is not None
                metadata = replace(stored.metadata, description=None) if alpha else stored.metadata
                yield StoredImage(values, None, map_metadata(metadata))
            else:
                yield replace(stored, values=values)

    def _read_stored(self, index: int) -> StoredImage:
        assert self._pages is not None  # noqa: S101 - a closed stack is not read
        return self._pages.read(index)

    @contextlib.contextmanager
    def _naming_the_page(self, index: int) -> Iterator[None]:
        """Turn decoding errors of page `index` into InputErrors that name the page, if there are several."""
        try:
            with decoding(self.path, self._format):
                yield
        except InputError as error:
            if self.pages == 1:
                raise
            text = str(error).removeprefix(f"{self.path}: ")
            raise InputError(f"{self.path}: page {index + 1} of {self.pages} {text}") from error.__cause__

    def close(self) -> None:
        """Close the file; safe to call twice."""
        pages, self._pages = self._pages, None
        if pages is not None:
            pages.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_stack(
    path: str | os.PathLike[str], *, whole_range: bool = False, nodata: Nodata = None, mosaic: bool | None = None
) -> Stack:
    """Open the pages of the file at `path`; for the options see `read_image`.

    Raises:
        InputError: see `Stack`.
    """
    path = Path(path)
    found = format_of(path)
    return Stack(path, found, lambda: open_pages(found, path), whole_range=whole_range, nodata=nodata, mosaic=mosaic)


def stack_of_array(
    samples: Array, name: str, *, whole_range: bool = False, nodata: Nodata = None, mosaic: bool | None = None
) -> Stack:
    """The pages of an array, as if a file held them; for the options see `read_image`.

    Args:
        samples: (pages, H, W, C), of any type that a file may hold; C is 1 (grey), 3 (RGB), or 2 or 4 with alpha last.
            A pixel of a masked array holds no measurement if any of its samples is masked.
        name: what messages call the array.
        whole_range: as for `read_image`.
        nodata: as for `read_image`.
        mosaic: as for `read_image`.

    Raises:
        InputError: the type or the size cannot be used.
    """
    missing = np.any(np.ma.getmaskarray(samples), axis=3) if np.ma.is_masked(samples) else None
    values, alpha = split_alpha(np.ma.getdata(samples))
    return Stack(
        Path(name),
        ARRAY,
        lambda: ArrayPages(values, Metadata(), alpha=alpha, missing=missing),
        whole_range=whole_range,
        nodata=nodata,
        mosaic=mosaic,
    )


def check_stack_output(path: str | os.PathLike[str], pages: int) -> None:
    """Refuse an output whose format, by its extension, cannot hold several pages.

    Raises:
        OutputError: the format holds one image, or there is no such format.
    """
    file_format = format_by_extension(path)
    if not file_format.stacks:
        raise OutputError(f"{path}: {file_format.title} cannot hold {pages} pages. Use the extension .tif")
