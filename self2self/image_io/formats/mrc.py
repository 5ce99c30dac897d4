"""MRC, the format of electron microscopes, through mrcfile: an image, a stack of images or a volume."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from self2self.image_io.format import ArrayPages, Format, Pages, begins_with, gathered
from self2self.image_io.image import Header, Metadata, StoredImage

_OF_THE_DATA = ("nx", "ny", "nz", "mode", "dmin", "dmax", "dmean", "rms", "nsymbt", "machst", "map")
"""Fields of the header that follow from the data; mrcfile writes them."""


def open_mrc(path: Path) -> Pages:
    """Open a file; its last two axes are height and width, the others count pages.

    Raises:
        Exception: the file is damaged.
    """
    import mrcfile

    with mrcfile.open(path, permissive=False) as file:
        values = np.array(file.data)
        content = (values.shape, file.header.copy(), file.extended_header.copy())
    return ArrayPages(values.reshape(-1, *values.shape[-2:], 1), Metadata(header=Header("mrc", content)))


def write(path: Path, images: Iterable[StoredImage], count: int) -> None:
    """Write the pages with the shape and the header of the source: voxel size, origin, labels, extended header."""
    import mrcfile

    array, first = gathered(images, count)
    header = first.metadata.header
    known = header.content if header is not None and header.format == "mrc" else None
    with mrcfile.new(path, overwrite=True) as file:
        if known is None:
            file.set_data(array[0, ..., 0] if count == 1 else array[..., 0])
            return
        shape, fields, extended = known
        file.set_extended_header(extended)
        file.set_data(array.reshape(shape))
        for name in fields.dtype.names:
            if name not in _OF_THE_DATA:
                file.header[name] = fields[name]
        file.update_header_stats()


FORMAT = Format(
    "mrc",
    "MRC",
    begins_with(b"MAP ", b"MAP\0", at=208),
    (".mrc", ".mrcs", ".map", ".rec", ".st", ".ali"),
    open_mrc,
    write,
    types=frozenset(("int8", "int16", "uint16", "float16", "float32")),
    channels=frozenset((1,)),
    stacks=True,
    needs="mrcfile",
    extra="formats",
    article="an",
)
