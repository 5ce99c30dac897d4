"""Metadata that belong to a whole TIFF file, of one page or many: OME-XML, ImageJ's own tags, reduced copies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from self2self.image_io.image import StoredImage

IMAGEJ_TAGS = (50838, 50839)
"""Tags that hold the lengths and the bytes of slice labels, display ranges, colour tables and regions."""


def loss_notes(file: Any, *, skipped: bool) -> Iterator[str]:
    """Notes on what the output will lack of an open TIFF.

    Args:
        file: tifffile's object.
        skipped: whether pages are left out: reduced copies or masks.
    """
    if skipped:
        yield "reduced copies and masks among its pages are dropped"
    if file.pages.first.subifds:
        yield "smaller copies of its pages (a pyramid) are dropped"
    if file.is_ome and ome_description(file, skipped=skipped) is None:
        yield "its OME description speaks of other files or pages and is dropped"


def with_file_metadata(file: Any, stored: StoredImage, *, skipped: bool) -> StoredImage:
    """Add the metadata of an open TIFF that remain valid in the output to its first image.

    Args:
        file: tifffile's object.
        stored: the first image.
        skipped: whether pages are left out: reduced copies or masks.
    """
    metadata = stored.metadata
    if file.is_ome:
        # Not None: the description in the EXIF data would then be written instead.
        metadata = replace(metadata, description=ome_description(file, skipped=skipped) or "")
    if file.is_imagej and metadata.tiff is not None:
        layout = replace(metadata.tiff, tags=(*metadata.tiff.tags, *_imagej_tags(file)))
        metadata = replace(metadata, tiff=layout)
    return replace(stored, metadata=metadata)


def ome_description(file: Any, *, skipped: bool) -> str | None:
    """The OME-XML description, if it describes this file alone and all pages are kept; otherwise None.

    File names are removed from it, because readers of the output would open the source.
    """
    text = str(file.pages.first.tags.valueof(270))
    root = re.search(r"<(?:\w+:)?OME\b[^>]*\bUUID=\"([^\"]+)\"", text)
    others = set(re.findall(r"<(?:\w+:)?UUID\b[^>]*>\s*([^<]+?)\s*</", text)) - ({root[1]} if root else set())
    if skipped or others or "BinaryOnly" in text:
        return None
    return re.sub(r"(<(?:\w+:)?UUID\b[^>]*?)\s+FileName=\"[^\"]*\"", r"\1", text)


def _imagej_tags(file: Any) -> list[tuple[int, int, int, Any, bool]]:
    """ImageJ's own tags as raw bytes; the output has the byte order of the file."""
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
