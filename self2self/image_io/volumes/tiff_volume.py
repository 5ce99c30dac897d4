"""TIFF as a volume: parts of its pages are read without the rest, and the result is a TIFF with the same metadata.

Without compression, rows and columns are read where they lie. With it, only the strips or tiles are decoded that have
some of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from self2self.errors import InputError
from self2self.image_io import tiff, tiff_format
from self2self.image_io.format import STORED_TYPES
from self2self.image_io.image import Array, ImageRefused, StoredImage
from self2self.image_io.read import decoding, format_of
from self2self.image_io.tiff_pages import PageList, list_pages, read_stored_page
from self2self.image_io.tiff_segments import segment_lengths
from self2self.image_io.volumes.kept_blocks import KeptBlocks
from self2self.image_io.volumes.volume import FileVolume, Selection, Target, reading, unit_of
from self2self.image_io.write import write_pages
from self2self.machine.marks import Mark, read_mark

PAGE_AXES = "TZC"


class TiffVolume(FileVolume):
    """The pages of a TIFF as one array. See `Volume`.

    Attributes:
        pages_shape: lengths of the axes along which the pages lie.
    """

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            InputError: it is damaged, no TIFF, or has what blocks cannot keep, such as alpha.
        """
        import tifffile

        if format_of(path) is not tiff_format.FORMAT:
            raise InputError(f"{path}: is no zarr, no HDF5 file and no TIFF; expected a volume. Check the path.")
        self.path = path
        with decoding(path, tiff_format.FORMAT):
            file = tifffile.TiffFile(path)
            try:
                self._list: PageList = list_pages(file)
                _check(file.pages.first)
            except BaseException:
                file.close()
                raise
        self._open = file
        with decoding(path, tiff_format.FORMAT), tifffile.TiffFile(path) as other:
            # To list series changes what the pages of a file can tell.
            letters, self.pages_shape = _axes_of_pages(other, self._list)
        first = file.pages.first
        self.dtype: np.dtype[Any] = np.dtype(first.dtype)
        samples = first.samplesperpixel
        self.axes: str | None = letters + ("YX" if samples == 1 else "YXS")
        self.shape = (*self.pages_shape, first.imagelength, first.imagewidth) + ((samples,) if samples > 1 else ())
        self.chunks: tuple[int, ...] | None = None
        if first.is_tiled:
            tile = (first.tilelength, first.tilewidth) + ((samples,) if samples > 1 else ())
            self.chunks = (1,) * len(self.pages_shape) + tile
        self.notes = self._list.notes
        self.identity = {"shape": list(self.shape), "dtype": str(self.dtype)}

    def read(self, selection: Selection) -> Array:
        """See `Volume.read`."""
        with reading(self.path, selection, self.axes):
            count = len(self.pages_shape)
            (rows, columns), samples = selection[count : count + 2], selection[count + 2 :]
            values = np.empty([part.stop - part.start for part in selection], self.dtype)
            for place in np.ndindex(*values.shape[:count]):
                parts = zip(place, selection[:count], strict=True)
                page = self.page_number(tuple(part.start + index for index, part in parts))
                values[place] = self._read_part(page, rows, columns)[:, :, *samples]
            return values

    def page_number(self, place: tuple[int, ...]) -> int:
        """The number of a page, from 0, by its indices along `pages_shape`."""
        return int(np.ravel_multi_index(place, self.pages_shape)) if place else 0

    def _read_part(self, number: int, rows: slice, columns: slice) -> Array:
        """Some rows and columns of a page, (h, w), or (h, w, S) of a page with colours."""
        contiguous = self._list.contiguous
        page = self._open.pages.first if contiguous else self._open.pages[self._list.indices[number]]
        shape = self.shape[len(self.pages_shape) :]
        if contiguous or page.is_memmappable:
            offset = page.dataoffsets[0] + (number * page.nbytes if contiguous else 0)
            stored = np.dtype(self._open.byteorder + self.dtype.char)
            # Not mapped: pages of a map count as memory of the process.
            pixel = stored.itemsize * math.prod(shape[2:])
            part = np.empty((rows.stop - rows.start, columns.stop - columns.start, *shape[2:]), self.dtype)
            length = pixel * (columns.stop - columns.start)
            for row in range(rows.start, rows.stop):
                self._open.filehandle.seek(offset + pixel * (row * shape[1] + columns.start))
                data = self._open.filehandle.read(length)
                part[row - rows.start] = np.frombuffer(data, stored).reshape(part.shape[1:])
            return part
        values = np.empty((rows.stop - rows.start, columns.stop - columns.start, *shape[2:]), self.dtype)
        for top, left, segment in self._segments(page, rows, columns):
            (target_rows, source_rows), (target_columns, source_columns) = (
                _shared(part, start, length)
                for part, start, length in ((rows, top, segment.shape[0]), (columns, left, segment.shape[1]))
            )
            values[target_rows, target_columns] = segment[source_rows, source_columns].reshape(
                target_rows.stop - target_rows.start, target_columns.stop - target_columns.start, *shape[2:]
            )
        return values

    def _segments(self, page: Any, rows: slice, columns: slice) -> Iterator[tuple[int, int, Array]]:
        """The strips or tiles with some of these rows and columns: first row, first column, values (h, w, S)."""
        lengths, _ = segment_lengths(self._open, page)
        height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        across = -(-page.imagewidth // width)
        for down in range(rows.start // height, -(-rows.stop // height)):
            for right in range(columns.start // width, -(-columns.stop // width)):
                index = down * across + right
                top, left = down * height, right * width
                if lengths[index] == 0:
                    yield top, left, np.full((height, width, page.samplesperpixel), page.nodata, self.dtype)
                    continue
                self._open.filehandle.seek(page.dataoffsets[index])
                data = self._open.filehandle.read(lengths[index])
                segment, _, _ = page.decode(data, index)
                yield top, left, segment[0]

    def stored_page(self, number: int, values: Array) -> StoredImage:
        """Page `number`, from 0, with other values (H, W, C) and its metadata."""
        with decoding(self.path, tiff_format.FORMAT):
            return read_stored_page(self.path, self._open, self._list, number, values)

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self._list.count

    def target(self, output: Path, work: Path, axes: str) -> Target:
        """See `Volume.target`."""
        return TiffTarget(self, output, work, axes)


class TiffTarget(KeptBlocks):
    """A TIFF in the making: each block is a file until `finish`, which holds one page at a time. See `Target`."""

    def __init__(self, source: TiffVolume, output: Path, work: Path, axes: str) -> None:
        super().__init__(output, work)
        self._source = source
        self.unit = unit_of(source.chunks or (1,) * len(source.shape), axes)

    def finish(self, blocks: list[Selection], about: dict[str, Any]) -> None:
        """See `Target.finish`."""
        mark = Mark(about["job"], about.get("result"), about.get("settings"), about.get("source"))
        write_pages(self._output, tiff_format.FORMAT, self._pages(blocks), self._source.pages, mark)
        self.remove_blocks()

    def _pages(self, blocks: list[Selection]) -> Iterator[StoredImage]:
        source = self._source
        count = len(source.pages_shape)
        blocks_of_page: dict[int, list[int]] = {}
        for block, selection in enumerate(blocks):
            for place in itertools.product(*(range(part.start, part.stop) for part in selection[:count])):
                blocks_of_page.setdefault(source.page_number(place), []).append(block)
        for number, place in enumerate(np.ndindex(*source.pages_shape)):
            values = np.empty(source.shape[count:], source.dtype)
            for block in blocks_of_page[number]:
                selection = blocks[block]
                inner = tuple(index - part.start for index, part in zip(place, selection[:count], strict=True))
                values[selection[count:]] = self.block(block)[inner]
            yield source.stored_page(number, values.reshape(*values.shape[:2], -1))

    def made_by(self) -> dict[str, Any] | None:
        """See `Target.made_by`."""
        mark = read_mark(self._output, None)
        if mark is None:
            return None
        return {
            "job": mark.job,
            "settings": mark.settings or {},
            "result": mark.result or {},
            "source": mark.source or {},
        }


def _check(page: Any) -> None:
    """Refuse pages that hold more than values which blocks keep.

    Raises:
        ImageRefused: says what.
    """
    samples, bits = page.samplesperpixel, page.bitspersample
    reasons = {
        "colours other than grey or RGB": (int(page.photometric), samples) not in ((tiff.MINISBLACK, 1), (tiff.RGB, 3)),
        "colours in planes of their own": samples > 1 and int(page.planarconfig) != 1,
        "JPEG inside": int(page.compression) in tiff.JPEG_COMPRESSIONS,
        "a value for missing pixels": tiff.GDAL_NODATA in page.tags,
        f"{bits}-bit samples": page.dtype is None
        or page.dtype.name not in STORED_TYPES
        or bits != 8 * page.dtype.itemsize,
        "slices within a page": page.imagedepth > 1,
    }
    if wrong := next((reason for reason, applies in reasons.items() if applies), None):
        raise ImageRefused(
            f"has {wrong}, which is not denoised block by block. Denoise it page by page, without axes that are named."
        )


def _axes_of_pages(file: Any, pages: PageList) -> tuple[str, tuple[int, ...]]:
    """The axes along which the pages of an open TIFF lie, and their lengths, as ImageJ or OME name them; else T."""
    series = file.series[0] if file.series else None
    if series is not None:
        axes = series.axes.partition("YX")[0]
        shape = tuple(int(length) for length in series.shape[: len(axes)])
        in_order = pages.contiguous or [page.index for page in series.pages if page is not None] == list(pages.indices)
        if set(axes) <= set(PAGE_AXES) and math.prod(shape) == pages.count and in_order:
            return axes, shape
    return ("", ()) if pages.count == 1 else ("T", (pages.count,))


def _shared(part: slice, start: int, length: int) -> tuple[slice, slice]:
    """What `part` has in common with `length` elements from `start` on: as a slice of each."""
    first, last = max(part.start, start), min(part.stop, start + length)
    return slice(first - part.start, last - part.start), slice(first - start, last - start)
