"""NIfTI, the format of brain imaging, through nibabel, in one file (.nii, .nii.gz).

Values are those that are stored: slope and intercept stay in the header and hold for the output, too.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io.format import FLOATS, INTEGERS, ArrayPages, Format, Pages, gathered
from self2self.image_io.image import Array, Header, ImageRefused, Metadata, StoredImage

GZIP = b"\x1f\x8b"
_MAGIC = ((344, b"n+1\0"), (4, b"n+2\0"))


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file is NIfTI-1 or NIfTI-2 in one file, compressed or not."""
    if head.startswith(GZIP):
        try:
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 348)
        except zlib.error:
            return False
    return any(head[at : at + 4] == magic for at, magic in _MAGIC)


def open_nifti(path: Path) -> Pages:
    """Open a file; its first two axes are width and height, the others count pages: slices, times, directions.

    Raises:
        ImageRefused: the file has fewer than two axes.
        Exception: of any other class, if it is damaged.
    """
    with path.open("rb") as start:
        compressed = start.read(2) == GZIP
    image = _image_class(path, compressed).from_bytes(_bytes_of(path, compressed))
    stored = np.asarray(image.dataobj.get_unscaled())
    if stored.ndim < 2 or stored.dtype.names:
        raise ImageRefused(f"has {stored.ndim} axes of {stored.dtype}; expected two or more axes of single numbers.")
    header = image.header.copy()
    # nibabel takes slope and intercept out of the header of an image that it has read.
    header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
    metadata = Metadata(header=Header("nifti", (stored.shape, header)))
    return ArrayPages(_to_pages(stored), metadata)


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the pages with the shape and the header of the source; with no source, pages are slices.

    The name of the file decides whether it is compressed.
    """
    import nibabel

    array, first = gathered(images, count)
    volume = np.moveaxis(array[..., 0], (0, 1, 2), (2, 1, 0))
    known = first.metadata.header
    if known is not None and known.format == "nifti":
        shape, header = known.content
        volume = volume.reshape(shape, order="F")
    else:
        header = nibabel.Nifti1Header()
        volume = volume[..., 0] if count == 1 else volume
        header.set_data_dtype(volume.dtype)
        header.set_data_shape(volume.shape)
        header["vox_offset"] = header.single_vox_offset
    # nibabel itself would choose another slope and offset for integers.
    with path.open("wb") as raw, _stream(raw, compressed=path.suffix.lower() == ".gz") as file:
        header.write_to(file)
        file.write(bytes(max(0, int(header.get_data_offset()) - file.tell())))
        file.write(volume.astype(header.get_data_dtype()).tobytes(order="F"))


def _to_pages(stored: Array) -> Array:
    """(W, H, ...) → (pages, H, W, 1), the third axis fastest."""
    slices = stored.reshape(*stored.shape[:2], -1, order="F")
    return np.moveaxis(slices, (0, 1, 2), (2, 1, 0))[..., None]


def _bytes_of(path: Path, compressed: bool) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if compressed else data


def _image_class(path: Path, compressed: bool) -> Any:
    import nibabel

    with gzip.open(path) if compressed else path.open("rb") as file:
        return nibabel.Nifti2Image if file.read(8)[4:8] == b"n+2\0" else nibabel.Nifti1Image


def _stream(raw: Any, *, compressed: bool) -> Any:
    # Without a time, the same result has the same bytes.
    return gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") if compressed else contextlib.nullcontext(raw)


FORMAT = Format(
    "nifti",
    "NIfTI",
    recognises,
    (".nii", ".nii.gz"),
    open_nifti,
    write,
    types=INTEGERS | (FLOATS - {"float16"}),
    channels=frozenset((1,)),
    stacks=True,
    needs="nibabel",
    extra="formats",
)
