"""Reads and writes the pages of a TIFF stack one at a time: lists the pages, checks them, decodes and encodes each."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io import exif, tiff, tiff_file
from self2self.image_io.axes import is_of_tifffile
from self2self.image_io.image import Array, ImageRefused, StoredImage, check_size
from self2self.image_io.tiff_segments import segment_lengths

MAX_CLASSIC_TIFF_BYTES = 2**32 - 2**26
"""Largest pixel data of a classic TIFF; the rest of its 4 GiB is left for tags. A larger stack becomes a BigTIFF."""


@dataclass(frozen=True, slots=True)
class PageList:
    """The pages of a TIFF that make up its stack.

    Attributes:
        count: number of pages in the stack.
        indices: their indices in the file; of a contiguous stack, only that of its single page.
        contiguous: whether the file has ImageJ's layout for over 4 GB: a single page, directly followed by the pixels
            of the other slices.
        skipped: whether the file also has reduced copies or masks, which are left out.
        notes: notes for the user: what the output will lack.
    """

    count: int
    indices: tuple[int, ...]
    contiguous: bool
    skipped: bool
    notes: tuple[str, ...]


def list_pages(file: Any) -> PageList:
    """List the pages of an open TIFF, and check that all have one size and type and lie within the file.

    Raises:
        ImageRefused: pages differ, or their colour space or channels are not supported.
        ValueError: the file is cut off.
    """
    first = file.pages.first
    check_size(first.imagewidth, first.imagelength)
    in_file = _count_directories(file)
    imagej = bool(file.is_imagej)
    claimed = int((file.imagej_metadata or {}).get("images", 1)) if imagej else 1
    if claimed > in_file:
        if in_file > 1 or not first.is_contiguous:
            raise ValueError(f"{in_file} of {claimed} slices")
        if first.dataoffsets[0] + claimed * first.nbytes > file.filehandle.size:
            raise ValueError(f"{claimed} slices do not fit into it")
        return PageList(claimed, (0,), True, False, ())
    indices: list[int] = []
    expected = _size_and_type(first)
    file.pages.useframes = False
    for index in range(in_file):
        page = file.pages[index] if index else first
        if index and not tiff.is_full_image(page):
            continue
        got = _size_and_type(page)
        if got != expected:
            raise ImageRefused(
                f"has pages that differ: page {len(indices) + 1} is {_in_words(got)}, page 1 is {_in_words(expected)}. "
                "Save pages of one kind as a file of their own."
            )
        indices.append(index)
        tiff.check_channels(page)
        segment_lengths(file, page)
    skipped = in_file > len(indices)
    return PageList(len(indices), tuple(indices), False, skipped, tuple(_stack_loss_notes(file, skipped=skipped)))


def read_stored_page(path: Path, file: Any, pages: PageList, index: int, samples: Array | None = None) -> StoredImage:
    """Decode page `index` of the stack, counted from 0; no other page is read.

    Args:
        path: the file.
        file: tifffile's object of it.
        pages: its pages.
        index: of the page.
        samples: (H, W, C), in place of those of the page, which then are not read.

    Raises:
        ImageRefused, Exception: as for `tiff.decode`.
    """
    if samples is not None or not pages.contiguous:
        page = file.pages.first if pages.contiguous else file.pages[pages.indices[index]]
        stored = tiff.decode_page(path, file, page, samples=samples)
    else:
        page = file.pages.first
        planes, _, height, width, samples = page.shaped
        file.filehandle.seek(page.dataoffsets[0] + index * page.nbytes)
        raw = file.filehandle.read(page.nbytes)
        values = np.frombuffer(raw, file.byteorder + page.dtype.char).reshape(planes, height, width, samples)
        values = values[0] if planes == 1 else np.moveaxis(values[..., 0], 0, 2)
        stored = tiff.decode_page(path, file, page, samples=values)
    if index == 0:
        stored = tiff_file.with_file_metadata(file, _with_axes_description(file, stored), skipped=pages.skipped)
    return stored


def write_pages(path: Path, stored: Iterable[StoredImage], count: int) -> None:
    """Write `count` pages as a stack; only one page is in memory at a time.

    With ImageJ's description, pixels are laid out as ImageJ reads them: uncompressed, in one contiguous block.

    The byte order is that of the first page's source. The file becomes a BigTIFF if its source is one or
    if its pixels may not fit into 4 GiB.

    Args:
        path: a file that may be replaced.
        stored: the pages, in order.
        count: number of pages.

    Raises:
        OSError: the file cannot be written.
    """
    import tifffile

    pages = iter(stored)
    first = next(pages)
    layout = first.metadata.tiff
    size = count * (first.values.nbytes + (0 if first.alpha is None else first.alpha.nbytes))
    large = size > MAX_CLASSIC_TIFF_BYTES or (layout is not None and layout.bigtiff)
    order: Any = "<" if layout is None else layout.byteorder
    with tifffile.TiffWriter(path, bigtiff=large, byteorder=order) as writer:
        if (first.metadata.description or "").startswith("ImageJ="):
            values, options = tiff.page_options(first)
            options |= {"compression": None, "predictor": None, "tile": None}
            rest: Iterator[Array] = (tiff.page_options(page)[0] for page in pages)
            writer.write(chain([values], rest), shape=(count, *values.shape), dtype=values.dtype, **options)
            return
        for page in chain([first], pages):
            values, options = tiff.page_options(page)
            writer.write(values, contiguous=False, **options)


def _count_directories(file: Any) -> int:
    """Count the directories of a TIFF along their chain of offsets.

    tifffile is not used for this, because it silently ends the chain where the file is cut off.

    Raises:
        ValueError: the chain leaves the file or returns to an earlier directory.
    """
    order, handle, size = file.byteorder, file.filehandle, file.filehandle.size
    count_format, entry_bytes, offset_format = ("Q", 20, "Q") if file.is_bigtiff else ("H", 12, "I")
    offset, seen = int(file.pages.first.offset), set[int]()
    while offset:
        if offset in seen or offset >= size:
            raise ValueError(f"the list of its pages breaks off after page {len(seen)}")
        seen.add(offset)
        try:
            handle.seek(offset)
            (entries,) = struct.unpack(order + count_format, handle.read(struct.calcsize(order + count_format)))
            handle.seek(entries * entry_bytes, 1)
            (offset,) = struct.unpack(order + offset_format, handle.read(struct.calcsize(order + offset_format)))
        except struct.error as error:
            raise ValueError(f"the list of its pages breaks off after page {len(seen)}") from error
    return len(seen)


def _size_and_type(page: Any) -> tuple[int, int, int, str]:
    """Width, height, channels and dtype of a page."""
    return page.imagewidth, page.imagelength, page.samplesperpixel, str(page.dtype)


def _in_words(signature: tuple[int, int, int, str]) -> str:
    width, height, channels, dtype = signature
    return f"{width}x{height} with {channels} channel{'s' * (channels > 1)} of {dtype}"


def _stack_loss_notes(file: Any, *, skipped: bool) -> Iterator[str]:
    yield from tiff_file.loss_notes(file, skipped=skipped)
    first = file.pages.first
    if exif.read_tags(exif.read_from_tiff(Path(file.filehandle.path), file.byteorder, file.is_bigtiff, first.offset))[
        1
    ]:
        yield "EXIF directories (exposure, position) are not kept in a stack"


def _with_axes_description(file: Any, stored: StoredImage) -> StoredImage:
    """Keep tifffile's own description of shape and axes: it holds for the output, which has the same pages in order."""
    text = file.pages.first.tags.valueof(270)
    if isinstance(text, str) and is_of_tifffile(text) and file.pages.first.photometric != tiff.PALETTE:
        return replace(stored, metadata=replace(stored.metadata, description=text))
    return stored
