"""Camera raw files, most of which are TIFFs inside, through rawpy (LibRaw): developed to linear RGB, and never written.

The first image of such a TIFF is a small preview. So it is recognised by its tags before TIFF is asked.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io import exif
from self2self.image_io.format import Format, OneImage, Pages, begins_with
from self2self.image_io.image import Metadata, StoredImage, check_size

_OTHER_CONTAINERS = begins_with(b"FUJIFILM", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")
"""Raw files of Fujifilm, Panasonic, Olympus, Sigma and Minolta; `_CANON_3` is that of newer Canons."""
_CANON_3 = begins_with(b"ftypcrx", at=4)
_CANON_2 = begins_with(b"CR", at=8)
_TIFF = begins_with(b"II*\0", b"MM\0*")

_DNG_VERSION = 50706
_CFA, _LINEAR_RAW = 32803, 34892
_DIRECTORIES_LOOKED_AT = 8
"""Raw files have few pages, and a stack has many."""

_EXIF_OF_FLIP = {3: 3, 5: 8, 6: 6}
"""LibRaw's codes of how to turn an image, as orientations of EXIF."""


def recognises(head: bytes, path: Path) -> bool:
    """Whether a file is camera raw: by its first bytes, or as a TIFF that holds a mosaic or is a DNG."""
    if _OTHER_CONTAINERS(head, path) or _CANON_3(head, path):
        return True
    return _TIFF(head, path) and (_CANON_2(head, path) or _is_raw_tiff(path))


def _is_raw_tiff(path: Path) -> bool:
    """Whether a page of a TIFF, or one inside it, is of a sensor; in a damaged file, pages after the damage are not."""
    import logging

    import tifffile

    logger = logging.getLogger("tifffile")
    disabled, logger.disabled = logger.disabled, True
    try:
        with tifffile.TiffFile(path) as file:
            return any(map(_is_of_sensor, _directories(file)))
    except Exception:
        # tifffile raises exceptions of any class on damaged bytes. Whoever decodes the file reports them.
        return False
    finally:
        logger.disabled = disabled


def _directories(file: Any) -> Iterator[Any]:
    """The first pages of an open TIFF, and those inside them."""
    import tifffile

    for page in itertools.islice(file.pages, _DIRECTORIES_LOOKED_AT):
        if isinstance(page, tifffile.TiffPage):
            yield page
            yield from itertools.islice(page.pages or (), _DIRECTORIES_LOOKED_AT)


def _is_of_sensor(page: Any) -> bool:
    return int(page.photometric) in (_CFA, _LINEAR_RAW) or _DNG_VERSION in page.tags


def open_raw(path: Path) -> Pages:
    """Open a file; its one image is the picture of the whole sensor, not a preview.

    Raises:
        ImageRefused: the image is too small or too large.
        Exception: of any other class, if the file is damaged or of an unknown camera.
    """
    return OneImage(lambda: _develop(path))


def _develop(path: Path) -> StoredImage:
    """Develop to linear RGB, uint16 with the primaries of sRGB and the white balance of the camera; not turned."""
    import rawpy

    with rawpy.imread(str(path)) as raw:
        check_size(raw.sizes.width, raw.sizes.height)
        flip = raw.sizes.flip
        values = raw.postprocess(gamma=(1, 1), no_auto_bright=True, output_bps=16, use_camera_wb=True, user_flip=0)
    block = _exif_of(path) or exif.orientation_block(_EXIF_OF_FLIP.get(flip, 1))
    note = (
        "is camera raw: the sensor's values were developed to linear RGB of 16 bits (sRGB primaries, white balance of "
        "the camera), and the result is a TIFF of that"
    )
    return StoredImage(np.ascontiguousarray(values), None, Metadata(exif=block), notes=(note,))


def _exif_of(path: Path) -> bytes | None:
    """The EXIF data of a raw file that is a TIFF."""
    with path.open("rb") as file:
        head = file.read(8)
    if not _TIFF(head, path):
        return None
    order = "<" if head.startswith(b"II") else ">"
    return exif.read_from_tiff(path, order, False, struct.unpack(order + "I", head[4:8])[0])


FORMAT = Format(
    "raw",
    "camera raw",
    recognises,
    (".dng", ".nef", ".cr2", ".cr3", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    open_raw,
    types=frozenset(("uint16",)),
    channels=frozenset((3,)),
    needs="rawpy",
    extra="raw",
)
