"""What a TIFF says of itself as a whole, whether it has one page or many: OME-XML, ImageJ's own tags, lesser copies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from self2self.image_io.image import StoredImage

IMAGEJ_TAGS = (50838, 50839)
"""Lengths and bytes of slice labels, display ranges, colour tables and regions."""


def losses(file: Any, *, skipped: bool) -> Iterator[str]:
    """What the output will lack of an open TIFF, of whose pages some may be `skipped`."""
    if skipped:
        yield "reduced copies and masks among its pages are dropped"
    if file.pages.first.subifds:
        yield "smaller copies of its pages (a pyramid) are dropped"
    if file.is_ome and ome(file, skipped=skipped) is None:
        yield "its OME description speaks of other files or pages and is dropped"


def with_file_metadata(file: Any, stored: StoredImage, *, skipped: bool) -> StoredImage:
    """The first picture of an open TIFF, with what the file says that is still true of the output."""
    metadata = stored.metadata
    if file.is_ome:
        # Not None: the EXIF data hold the description, too.
        metadata = replace(metadata, description=ome(file, skipped=skipped) or "")
    if file.is_imagej and metadata.tiff is not None:
        layout = replace(metadata.tiff, tags=(*metadata.tiff.tags, *_imagej_tags(file)))
        metadata = replace(metadata, tiff=layout)
    return replace(stored, metadata=metadata)


def ome(file: Any, *, skipped: bool) -> str | None:
    """The OME description, if it is about this file alone and all its pages are kept.

    File names give way, or readers would open the source.
    """
    text = str(file.pages.first.tags.valueof(270))
    root = re.search(r"<(?:\w+:)?OME\b[^>]*\bUUID=\"([^\"]+)\"", text)
    others = set(re.findall(r"<(?:\w+:)?UUID\b[^>]*>\s*([^<]+?)\s*</", text)) - ({root[1]} if root else set())
    if skipped or others or "BinaryOnly" in text:
        return None
    return re.sub(r"(<(?:\w+:)?UUID\b[^>]*?)\s+FileName=\"[^\"]*\"", r"\1", text)


def _imagej_tags(file: Any) -> list[tuple[int, int, int, Any, bool]]:
    """ImageJ's own tags as they stand in the file, whose byte order the output shares."""
    tags = [file.pages.first.tags.get(code) for code in IMAGEJ_TAGS]
    if None in tags:
        return []
    lengths, block = tags
    file.filehandle.seek(block.valueoffset)
    data = file.filehandle.read(block.count)
    return [
        (lengths.code, int(lengths.dtype), lengths.count, lengths.value, True),
        (block.code, 1, len(data), data, True),
    ]
