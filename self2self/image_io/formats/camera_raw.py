"""Camera raw files, most of which are TIFFs inside, read through rawpy (LibRaw) and written as DNG.

The first image of such a TIFF is a small preview. So it is recognised by its tags before TIFF is asked.

A mosaic of 2x2 pixels (Bayer) is denoised as the sensor measured it: noise is independent there, and developing
spreads it. Other sensors are developed first.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from self2self.image_io import exif, tiff
from self2self.image_io.format import Format, OneImage, Pages, begins_with
from self2self.image_io.formats import dng
from self2self.image_io.image import Header, Metadata, StoredImage, check_size

NAME = "raw"

MOSAIC_NOTE = (
    "is camera raw: the mosaic of the sensor is denoised, its four planes side by side; a DNG keeps it, and other "
    "formats get it developed (sRGB of 16 bits, white balance of the camera)"
)
LINEAR_NOTE = (
    "is camera raw without a mosaic of 2x2 pixels: the image is developed before it is denoised (linear, primaries of "
    "sRGB, white balance of the camera)"
)

_OTHER_CONTAINERS = begins_with(b"FUJIFILM", b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb", b"\0MRM")
"""Raw files of Fujifilm, Panasonic, Olympus, Sigma and Minolta; `_CANON_3` is that of newer Canons."""
_CANON_3 = begins_with(b"ftypcrx", at=4)
_CANON_2 = begins_with(b"CR", at=8)
_TIFF = begins_with(b"II*\0", b"MM\0*")

_COLOUR_TAGS = frozenset((*range(50721, 50729), 50730, 50731, 50732, 50778, 50779, 50931, 50932, 50964, 50965, 50966))
"""Matrices, calibrations, illuminants, neutral, exposure, noise and sharpness of the baseline: tags of a DNG that are
as valid for denoised samples."""
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
    return int(page.photometric) in (tiff.CFA, tiff.LINEAR_RAW) or dng.DNG_VERSION in page.tags


def open_raw(path: Path) -> Pages:
    """Open a file; its one image is what the whole sensor measured, not a preview.

    Raises:
        ImageRefused: the image is too small or too large.
        Exception: of any other class, if the file is damaged or of an unknown camera.
    """
    return OneImage(lambda: _decode(path))


def _decode(path: Path) -> StoredImage:
    """The visible part of the sensor: (H, W, 1) as measured if it is a mosaic of 2x2 pixels, else developed to RGB.

    Neither the white balance nor the black level is applied to a mosaic, and nothing is turned.
    """
    import rawpy

    with rawpy.imread(str(path)) as raw:
        check_size(raw.sizes.width, raw.sizes.height)
        block = _exif_of(path) or exif.orientation_block(_EXIF_OF_FLIP.get(raw.sizes.flip, 1))
        pattern = _pattern_of(raw)
        if pattern is None:
            values, sensor = raw.postprocess(gamma=(1, 1), **dng.DEVELOPING), dng.LINEAR_SRGB
            notes = (LINEAR_NOTE,)
        else:
            values, sensor = raw.raw_image_visible.copy()[..., None], _sensor_of(raw, pattern, path)
            notes = (MOSAIC_NOTE,)
    metadata = Metadata(exif=block, header=Header(NAME, sensor))
    return StoredImage(np.ascontiguousarray(values), None, metadata, notes=notes, mosaic=pattern is not None)


def _pattern_of(raw: Any) -> tuple[int, ...] | None:
    """The colours of 2x2 visible pixels as in a `Sensor`; None if the sensor has another pattern, or no mosaic."""
    if raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2):
        return None
    names = [chr(raw.color_desc[index]) for index in raw.raw_colors_visible[:2, :2].ravel()]
    return tuple(map("RGB".index, names)) if set(names) == set("RGB") else None


def _sensor_of(raw: Any, pattern: tuple[int, ...], path: Path) -> dng.Sensor:
    black = tuple(int(raw.black_level_per_channel[index]) for index in raw.raw_colors_visible[:2, :2].ravel())
    return dng.Sensor(pattern, black, int(raw.white_level), _declared_colours(path) or _known_colours(raw))


def _declared_colours(path: Path) -> tuple[dng.Tag, ...]:
    """The tags of a DNG that tell what its colours are, as far as they lie in its first directory; empty without."""
    import tifffile

    with path.open("rb") as file:
        if not _TIFF(file.read(8), path):
            return ()
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        if not all(tag in tags for tag in (dng.COLOR_MATRIX, dng.AS_SHOT_NEUTRAL)):
            return ()
        found = [tags[code] for code in sorted(_COLOUR_TAGS) if code in tags]
        return tuple((tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found)


def _known_colours(raw: Any) -> tuple[dng.Tag, ...]:
    """What LibRaw knows of the colours of a camera; of an unknown one, its colours count as those of sRGB."""
    matrix = raw.rgb_xyz_matrix[:3]
    measured, usual = raw.camera_whitebalance[:3], raw.daylight_whitebalance[:3]
    gains = np.array(measured if min(measured) > 0 else usual)
    return dng.colour_tags(matrix if matrix.any() else dng.SRGB_OF_XYZ, gains[1] / gains)


def _exif_of(path: Path) -> bytes | None:
    """The EXIF data of a raw file that is a TIFF."""
    with path.open("rb") as file:
        head = file.read(8)
    if not _TIFF(head, path):
        return None
    order = "<" if head.startswith(b"II") else ">"
    return exif.read_from_tiff(path, order, False, struct.unpack(order + "I", head[4:8])[0])


FORMAT = Format(
    NAME,
    "camera raw",
    recognises,
    (".dng",),
    open_raw,
    dng.write,
    types=frozenset(("uint16",)),
    cannot_hold=lambda image: None if image.format == NAME else "an image that is not camera raw",
    develop=dng.develop,
    needs="rawpy",
    extra="raw",
)
