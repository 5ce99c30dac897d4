"""Decodes and encodes TIFF with tifffile: any byte order, layout and sample type; the output keeps the layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from self2self.image_io import exif, tiff_file
from self2self.image_io.axes import is_of_tifffile
from self2self.image_io.format import check_type
from self2self.image_io.image import Array, ImageRefused, Metadata, StoredImage, TiffLayout, check_size
from self2self.image_io.png import grey_or_rgb_of_palette
from self2self.image_io.tiff_segments import segment_lengths

MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
CFA, LINEAR_RAW = 32803, 34892
"""Colour spaces of what a sensor measured, of DNG alone."""
JPEG_COMPRESSIONS = frozenset((6, 7, 34892, 33007))
KEPT_COMPRESSIONS = {1: None, 5: "lzw", 50000: "zstd"}
"""TIFF compression → tifffile's name. The output keeps these; it replaces all others by deflate, which all readers
know."""

XMP_TAG = 700
COPIED_TAGS = frozenset(
    (269, 285, 286, 287, 316, 700, 33550, 33723, 33922, 34264, 34377, 34735, 34736, 34737, 42112, 42113)
)
"""Document and page name, position, host, XMP, IPTC, Photoshop, GeoTIFF and GDAL: valid whatever the pixel values."""

GDAL_NODATA = 42113
TEXT_TAGS = {305: "software", 306: "datetime"}
"""Tags that tifffile takes as named arguments, by number."""


def decode(path: Path) -> StoredImage:
    """Decode the samples of a TIFF with one image.

    Samples of 1, 2 and 4 bits are widened to 8, and palettes are expanded. Unsigned MinIsWhite integers are inverted,
    so that a higher value is always brighter.

    Raises:
        ImageRefused: the file has several pages, channels that are neither grey, RGB nor CMYK, or an unusual sample
            type or colour space, or the image is too small or too large.
        Exception: of any other class, if the file is damaged or its compression unknown.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        check_size(page.imagewidth, page.imagelength)
        skipped = _refuse_several_images(file, page)
        notes = tiff_file.loss_notes(file, skipped=skipped)
        return tiff_file.with_file_metadata(file, decode_page(path, file, page, notes), skipped=skipped)


def decode_page(
    path: Path, file: Any, page: Any, notes: Iterable[str] = (), samples: Array | None = None
) -> StoredImage:
    """Decode one page of an open TIFF.

    Args:
        path: the file.
        file: tifffile's object of it.
        page: tifffile's object of the page.
        notes: notes about the file, which those about the page follow.
        samples: (H, W, C), the samples of the page if they are known already; the page then supplies only their
            meaning and the metadata.

    Raises:
        ImageRefused, Exception: as for `decode`.
    """
    notes = list(notes)
    colours, extra = check_channels(page)
    lengths, flaws = segment_lengths(file, page)
    notes += flaws
    samples = _read_samples(page, lengths) if samples is None else samples
    metadata = _page_metadata(path, file, page, extra)
    bits = page.bitspersample
    colormap = page.colormap if page.photometric == PALETTE else None
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if isinstance(bits, int) and bits < 8 and samples.dtype.kind in "ub" and colormap is None:
        samples = samples.astype(np.uint8) * np.uint8(255 // (2**bits - 1))
        notes.append(f"{bits}-bit samples are written as 8-bit")
    elif isinstance(bits, int) and samples.dtype.kind == "u" and bits % 8 and colormap is None:
        notes.append(f"{bits}-bit samples are written in {samples.dtype.itemsize * 8} bits, with the same values")
    alpha = samples[..., colours].copy() if extra is not None else None
    values = np.ascontiguousarray(samples[..., :colours])
    if extra == 0:
        notes.append("its last channel has no declared meaning and is copied unchanged")
    if colormap is not None:
        values, note = grey_or_rgb_of_palette(
            _apply_colormap(colormap, values[..., 0]), grey_allowed=metadata.icc is None
        )
        notes.append(note)
    check_type(values.dtype)
    # The indices of a palette are not among the values.
    nodata = None if colormap is not None else _declared_nodata(page)
    if page.photometric == MINISWHITE and values.dtype.kind == "u":
        white = np.iinfo(values.dtype).max
        values, nodata = white - values, None if nodata is None else white - nodata
    return StoredImage(values, alpha, metadata, notes=tuple(notes), nodata=nodata)


def _declared_nodata(page: Any) -> float | None:
    """The value of missing pixels, which GDAL stores as text; None if the page declares none."""
    try:
        return float(page.tags.valueof(GDAL_NODATA))
    except (TypeError, ValueError):
        return None


def _page_metadata(path: Path, file: Any, page: Any, extra: int | None) -> Metadata:
    """The metadata of a page; `extra` is the kind of its alpha channel (`check_channels`)."""
    layout = _layout_of(file, page, extra)
    resolution = layout.resolution
    units_per_inch = {2: 1.0, 3: 2.54}.get(resolution[2]) if resolution else None
    dpi = None
    if resolution is not None and units_per_inch is not None:
        (x, x_divisor), (y, y_divisor), _ = resolution
        dpi = (x / x_divisor * units_per_inch, y / y_divisor * units_per_inch)
    description = page.tags.valueof(270)
    icc = page.tags.valueof(34675)
    return Metadata(
        _bytes_or_none(icc),
        _exif_block(path, file, page),
        dpi,
        # tifffile's own description repeats the shape, which changes when a palette is expanded.
        description if isinstance(description, str) and not is_of_tifffile(description) else None,
        xmp=_bytes_or_none(page.tags.valueof(XMP_TAG)),
        tiff=layout,
    )


def write(file: BinaryIO, stored: StoredImage) -> None:
    """Write a TIFF with the layout of the source if that is a TIFF, otherwise contiguous, little-endian and deflated.

    Args:
        file: empty, open for reading and writing. A TIFF may be as large as memory, so it is never held as bytes.
        stored: the samples and metadata to write.
    """
    import tifffile

    layout = stored.metadata.tiff
    values, options = page_options(stored)
    if layout is not None:
        options |= {"byteorder": layout.byteorder, "bigtiff": layout.bigtiff}
    tags, directories = exif.read_tags(stored.metadata.exif)
    options["extratags"] = _extra_tags(stored.metadata, tags, directories)
    tifffile.imwrite(file, values, **options)
    if directories:
        exif.append_directories(file, directories)


def page_options(stored: StoredImage) -> tuple[Array, dict[str, Any]]:
    """The samples of a page as tifffile takes them, and tifffile's options for writing them.

    The tags among the options do not include EXIF directories, which only `write` can append.
    """
    values, metadata = stored.values, stored.metadata
    layout = metadata.tiff
    channels = values.shape[2]
    photometric = {1: MINISBLACK, 3: RGB, 4: SEPARATED}[channels]
    if layout is not None and layout.photometric in (CFA, LINEAR_RAW):
        photometric = layout.photometric
    elif layout is not None and layout.photometric == MINISWHITE and channels == 1:
        photometric = MINISWHITE
        if values.dtype.kind == "u":
            values = np.iinfo(values.dtype).max - values
    options: dict[str, Any] = {"photometric": photometric}
    if stored.alpha is not None:
        values = np.concatenate([values, stored.alpha[..., None]], axis=2)
        options["extrasamples"] = (2 if layout is None else layout.alpha_kind,)
    if values.shape[2] == 1:
        values = values[..., 0]
    elif layout is not None and layout.separate:
        values = np.moveaxis(values, 2, 0)
        options["planarconfig"] = 2
    else:
        options["planarconfig"] = 1
    compression = "zlib" if layout is None else KEPT_COMPRESSIONS.get(layout.compression, "zlib")
    if compression is not None:
        options |= {"compression": compression, "predictor": 3 if values.dtype.kind == "f" else 2}
    if layout is not None:
        options["tile"] = layout.tile
    options |= _resolution_options(metadata)
    tags, _ = exif.read_tags(metadata.exif)
    description = tags.get(270) if metadata.description is None else metadata.description
    text = {name: tags.get(tag) for tag, name in TEXT_TAGS.items()}
    options |= {name: value if isinstance(value, str) else False for name, value in text.items()}
    options |= {
        "metadata": None,
        "description": description.encode() if isinstance(description, str) and description else None,
        "iccprofile": metadata.icc,
        "extratags": _extra_tags(metadata, tags, {}),
    }
    return np.ascontiguousarray(values), options


def _bytes_or_none(value: object) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _exif_block(path: Path, file: Any, page: Any) -> bytes | None:
    block = exif.read_from_tiff(path, file.byteorder, file.is_bigtiff, page.offset)
    oriented = page.tags.valueof(exif.ORIENTATION)
    if block is None and isinstance(oriented, int) and 1 <= oriented <= 8:
        return exif.orientation_block(int(oriented))
    return block


def _refuse_several_images(file: Any, page: Any) -> bool:
    """Refuse stacks, and return whether the file has pages that are dropped: reduced copies or masks of the first."""
    kinds = [other is page or is_full_image(other) for other in _all_pages(file)]
    count = sum(kinds)
    if page.imagedepth > 1:
        count = max(count, page.imagedepth)
    if file.is_imagej:
        # ImageJ writes a stack over 4 GB as one page, with the number of slices in its description.
        count = max(count, int((file.imagej_metadata or {}).get("images", 1)))
    if count > 1:
        raise ImageRefused(f"has {count} pages; expected one image here. Save the page as a TIFF of its own.")
    return len(kinds) > 1


def is_full_image(page: Any) -> bool:
    """Whether a page is neither a reduced copy nor a mask of another page."""
    kind = page.tags.valueof(254, 0)
    return not (isinstance(kind, int) and kind & 5)


def _all_pages(file: Any) -> list[Any]:
    file.pages.useframes = False
    return [file.pages[index] for index in range(len(file.pages))]


def check_channels(page: Any) -> tuple[int, int | None]:
    """The number of colour channels, and the kind of the alpha channel (ExtraSamples; None = no alpha).

    Raises:
        ImageRefused: the colour space or the channels are not supported.
    """
    extras = tuple(int(extra) for extra in page.extrasamples)
    samples = page.samplesperpixel
    colours = samples - len(extras)
    known = {MINISWHITE: 1, MINISBLACK: 1, PALETTE: 1, RGB: 3, SEPARATED: 4}
    photometric = int(page.photometric)
    if photometric == YCBCR and int(page.compression) in JPEG_COMPRESSIONS:
        photometric = RGB
    if photometric not in known:
        name = getattr(page.photometric, "name", str(photometric))
        raise ImageRefused(f"has the colour space {name}; expected grey, RGB, CMYK or a palette. Convert it to RGB.")
    declared = len(extras) == 0 or (len(extras) == 1 and (extras[0] in (1, 2) or (extras[0] == 0 and colours >= 3)))
    if colours != known[photometric] or not declared or (photometric == PALETTE and extras):
        raise ImageRefused(
            f"has {samples} channels; expected grey or RGB, with or without alpha, or CMYK, and declared as such. "
            "Save each channel as a file of its own."
        )
    return colours, extras[0] if extras else None


def _read_samples(page: Any, lengths: tuple[int, ...]) -> Array:
    """The samples of a page, (H, W, C); `lengths` are those of its strips or tiles in bytes."""
    planes, depth, height, width, contiguous = page.shaped
    if depth != 1:
        raise ImageRefused(
            f"has {depth} slices; self2self takes one image a file. Save each slice as a TIFF of its own."
        )
    if page.dtype is None:
        raise ImageRefused(
            f"has {page.bitspersample}-bit samples of a mixed or unknown type; expected one of 8, 16 or 32."
        )
    told, page.databytecounts = page.databytecounts, lengths
    try:
        samples = np.asarray(page.asarray()).reshape(planes, height, width, contiguous)
    finally:
        page.databytecounts = told
    return samples[0] if planes == 1 else np.moveaxis(samples[..., 0], 0, 2)


def _layout_of(file: Any, page: Any, extra: int | None) -> TiffLayout:
    tags = page.tags
    x, y, unit = tags.valueof(282), tags.valueof(283), tags.valueof(296, 2)
    rational = all(isinstance(side, tuple) and len(side) == 2 and side[0] and side[1] for side in (x, y))
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else None
    if tile is not None and any(side % 16 for side in tile):
        tile = None
    copied = []
    for code in sorted(COPIED_TAGS):
        tag = tags.get(code)
        if tag is not None and isinstance(tag.value, bytes | str | int | float | tuple):
            count = 0 if isinstance(tag.value, str) else tag.count
            copied.append((code, int(tag.dtype), count, tag.value, True))
    return TiffLayout(
        byteorder=file.byteorder,
        bigtiff=file.is_bigtiff,
        compression=int(page.compression),
        photometric=int(page.photometric),
        separate=int(page.planarconfig) == 2,
        tile=tile,
        alpha_kind=2 if extra is None else extra,
        resolution=(x, y, int(unit) if unit in (1, 2, 3) else 1) if rational else None,
        tags=tuple(copied),
    )


def _resolution_options(metadata: Metadata) -> dict[str, Any]:
    if metadata.tiff is not None:
        if metadata.tiff.resolution is None:
            return {}
        x, y, unit = metadata.tiff.resolution
        return {"resolution": (x, y), "resolutionunit": unit}
    return {} if metadata.dpi is None else {"resolution": metadata.dpi, "resolutionunit": 2}


def _extra_tags(metadata: Metadata, tags: dict[int, Any], directories: dict[int, Any]) -> list[Any]:
    extratags: list[Any] = [] if metadata.tiff is None else list(metadata.tiff.tags)
    if metadata.tiff is None and metadata.xmp is not None:
        extratags.append((XMP_TAG, 1, len(metadata.xmp), metadata.xmp, True))
    for code, value in tags.items():
        if code == exif.ORIENTATION:
            extratags.append((code, 3, 1, exif.orientation(metadata.exif), True))
        elif code not in (270, *TEXT_TAGS) and isinstance(value, str):
            extratags.append((code, 2, 0, value.encode(), True))
    # Placeholders: exif.append_directories later writes the right tag number and offset into them.
    extratags.extend((code - 1, 4, 1, 0, True) for code in directories)
    return extratags


def _apply_colormap(colormap: Array, indices: Array) -> Array:
    """Palette indices (H, W) → uint8 RGB (H, W, 3). The map has 16-bit values, in some faulty files 8-bit ones."""
    wide = colormap.max() > 255
    colours = (colormap >> 8 if wide else colormap).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(colours[:, indices], 0, 2))
