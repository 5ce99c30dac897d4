"""FITS, the format of astronomy, through astropy.

Values are those that are stored: BSCALE and BZERO stay in the header and hold for the output, too, as noise does not
depend on them. Only the convention for unsigned integers is applied. A result is the source with other bytes in the
place of its pixels, so all other parts of the file are kept bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io.format import FLOATS, ArrayPages, Format, Pages, begins_with, gathered
from self2self.image_io.image import Array, Header, ImageRefused, Metadata, StoredImage

_SHIFTED = {(8, -128.0): np.int8, (16, 2.0**15): np.uint16, (32, 2.0**31): np.uint32}
"""(BITPIX, BZERO) of FITS's convention for the types that it lacks."""


@dataclass(frozen=True, eq=False)
class _Source:
    """A FITS file of which the pixels are replaced.

    Attributes:
        data: the whole file.
        offset: of the pixels, in bytes.
        stored: type of the pixels in the file.
        index: of the image among the parts of the file.
        has_checksum: whether the header of the image holds a checksum.
    """

    data: bytes
    offset: int
    stored: np.dtype[Any]
    index: int
    has_checksum: bool


def open_fits(path: Path) -> Pages:
    """Open the first image of a file; its last two axes are height and width, the others count pages.

    Raises:
        ImageRefused: the file has no image.
        Exception: of any other class, if it is damaged.
    """
    from astropy.io import fits

    with fits.open(path, memmap=False, do_not_scale_image_data=True) as file:
        found = ((index, part) for index, part in enumerate(file) if part.is_image and part.header.get("NAXIS", 0) >= 2)
        index, image = next(found, (0, None))
        if image is None:
            raise ImageRefused("has no image, only tables or headers; expected an image of two axes or more.")
        header, place = image.header.copy(), image.fileinfo()
        if image.fileinfo()["datLoc"] + image.size > path.stat().st_size:
            # astropy fills up what is missing.
            raise ValueError("the file ends before its last pixels")
        raw = np.asarray(image.data)
        compressed = isinstance(image, fits.CompImageHDU)
        notes = ("its other parts (extensions) are kept as they are",) if len(file) > index + 1 or index else ()
    values = _unshifted(raw, header)
    nodata = header.get("BLANK") if raw.dtype.kind in "iu" else None
    if nodata is not None and values.dtype.name != raw.dtype.name:
        nodata += header["BZERO"]
    source: Header | None = None
    if compressed:
        notes = ("it is compressed; the result is a plain FITS file with its image and header alone",)
        source = Header("fits", header)
    else:
        stored = raw.dtype.newbyteorder(">")
        has_checksum = "CHECKSUM" in header or "DATASUM" in header
        source = Header("fits", _Source(path.read_bytes(), place["datLoc"], stored, index, has_checksum))
    pages = values.reshape(-1, *values.shape[-2:], 1)
    return ArrayPages(
        pages, Metadata(header=source), nodata=None if nodata is None else float(nodata), image_notes=notes
    )


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the pages into a copy of the source, or into a new file if the source is no FITS."""
    from astropy.io import fits

    array, first = gathered(images, count)
    array = array[..., 0]
    header = first.metadata.header
    if header is not None and isinstance(header.content, _Source):
        _write_into(path, header.content, array)
        return
    array = array[0] if count == 1 else array
    image = fits.PrimaryHDU(array)
    if header is not None and header.format == "fits":
        image.header.extend(header.content, strip=True, update=True, bottom=True)
        if array.dtype not in _SHIFTED.values():
            image.header.update({name: header.content[name] for name in ("BSCALE", "BZERO") if name in header.content})
    image.writeto(path, overwrite=True)


def _write_into(path: Path, source: _Source, values: Array) -> None:
    from astropy.io import fits

    raw = values
    if values.dtype.kind != source.stored.kind:
        raw = _with_other_sign(values).view(source.stored.newbyteorder("="))
    replaced = raw.astype(source.stored).tobytes()
    with path.open("wb") as file:
        file.write(source.data[: source.offset])
        file.write(replaced)
        file.write(source.data[source.offset + len(replaced) :])
    if source.has_checksum:
        with fits.open(path, mode="update", do_not_scale_image_data=True) as changed:
            changed[source.index].add_checksum()


def _unshifted(raw: Array, header: Any) -> Array:
    """Apply the convention for unsigned integers and signed bytes to stored values."""
    dtype = _SHIFTED.get((header["BITPIX"], float(header.get("BZERO", 0))))
    native = raw.astype(raw.dtype.newbyteorder("="))
    if dtype is None or header.get("BSCALE", 1) != 1 or native.dtype.kind == "f" or native.dtype == dtype:
        return native
    return _with_other_sign(native).view(dtype)


def _with_other_sign(values: Array) -> Array:
    """Flip the first bit of integers, which tells signed and unsigned ones apart."""
    limits = np.iinfo(values.dtype)
    first_bit = limits.min if limits.min else limits.max // 2 + 1
    flipped: Array = np.bitwise_xor(values, values.dtype.type(first_bit))
    return flipped


FORMAT = Format(
    "fits",
    "FITS",
    begins_with(b"SIMPLE  ="),
    (".fits", ".fit", ".fts"),
    open_fits,
    write,
    types=frozenset(("uint8", "int8", "uint16", "int16", "uint32", "int32")) | (FLOATS - {"float16"}),
    channels=frozenset((1,)),
    stacks=True,
    needs="astropy",
    extra="formats",
)
